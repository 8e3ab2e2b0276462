"""FlexAttention, which Inductor compiles.

Checked against the installed torch: the split count. Resting on reading alone: the query block, the grid, the
threads, and when the decoding kernel is taken.
"""
