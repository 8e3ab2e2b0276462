"""FlexAttention, which Inductor compiles.

Checked against the installed torch: the split count. Resting on reading alone: the query block, the grid, the
threads, and when the decoding kernel is taken. Tiles, warps and grids of vLLM's FLEX_ATTENTION are those of
its wheel's and of torch 2.14's own functions.
"""
