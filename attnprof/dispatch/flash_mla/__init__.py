"""FlashMLA as vLLM builds it, and the names of CUTLASS's MLA kernels.

Kernels, grids, blocks, shared memory, parts, block and overhead agree with what the wheel of vllm 0.33.0 was
recorded to launch; how its metadata kernel deals blocks out, on the device, is reading. Not modelled: caches
beside the first (DeepSeek V4's), and kernels that also norm, rotate and cast.
"""
