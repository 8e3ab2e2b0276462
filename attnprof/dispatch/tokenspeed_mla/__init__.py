"""TokenSpeed's MLA decode on Blackwell, over an FP8 cache: a CuTe kernel whose splits Python chooses.

Tiles, folds, splits and grids agree with what the released package's Python decides without a GPU; names and
threads are those of a kernel that it compiled. The reducer's grid is reading.
"""
