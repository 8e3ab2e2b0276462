"""vLLM's attention on AMD GPUs, its backend ROCM_ATTN: Triton for prompts, HIP or Triton for decode.

Checked against the wheel's own Python and the sdist's host code: which kernels, their grids, partitions and
blocks. Resting on reading alone: the threads of Triton's paged decode, which leaves its warps to the default.
"""
