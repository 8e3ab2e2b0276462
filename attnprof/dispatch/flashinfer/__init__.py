"""FlashInfer, and the TensorRT-LLM kernels that it ships.

Checked against the host code of the flashinfer-python 0.7.2.post1 wheel: the fa2 plan of paged batches,
which decode with tensor cores takes too. Resting on reading alone: the threads of a block, the plan of
backend fa3, the choice of ``auto`` and that a merge kernel follows. Not modelled: single prefill and decode,
and which trtllm-gen kernel is chosen; what the name of one says is read in full.
"""
