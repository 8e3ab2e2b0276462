"""FlashInfer, and the TensorRT-LLM kernels that it ships.

Checked against the host code of the flashinfer-python 0.7.2.post1 wheel: the plans of paged batches on
backend fa2 (which decode with tensor cores takes too), fa3, decode on CUDA cores and MLA; the launches of
fa2, of single calls and of the merge kernels; 0.7.4 likewise. 0.7.2 has 0.7.2.post1's
headers but for trtllm-gen. trtllm-gen's kernel and grid: the host code of 0.6.13, 0.7.2, 0.7.2.post1 and
0.7.4 over the kernel table of 0.6.13. Resting on reading alone: the choice of ``auto``, the grids and
threads of fa3 and MLA kernels. XQA is not read back: TensorRT-LLM's own kernels are
called so. POD, holistic attention, cuDNN, CUTLASS and CAKE are named only.
"""
