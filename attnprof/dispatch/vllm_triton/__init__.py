"""vLLM's Triton attention: kernel_unified_attention, 2D or 3D, and reduce_segments; decode of TRITON_MLA.

Checked against the wheels' own Python: which kernel, its tiles, segments, splits and grid. Resting on reading
alone: the threads of a block, what runs on AMD GPUs, and how many segments of a request hold keys.
"""
