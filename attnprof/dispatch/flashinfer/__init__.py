"""FlashInfer, and the TensorRT-LLM kernels that it ships."""
