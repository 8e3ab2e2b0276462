"""FlashMLA as vLLM and sglang-kernel build it, and the names of CUTLASS's MLA kernels.

Kernels, grids, blocks, shared memory, parts, block and overhead agree with what the wheels of vllm 0.33.0 and
sglang-kernel 0.4.10 were recorded to launch; how the metadata kernel deals blocks out, on the device, is
reading. Not modelled: kernels that also norm, rotate and cast.
"""
