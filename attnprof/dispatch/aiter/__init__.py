"""AITER, Composable Kernel and AOTriton: attention on AMD GPUs.

Checked against the amd-aiter 0.1.7.post2.dev18 wheel: the search for MLA's splits, and the names of its code
objects. Resting on reading alone: Composable Kernel's one split, its tile and grid, which calls AITER's
assembly takes, and its grids. Of upstream's tag v0.1.20.post1 what MLA's decode asks its kernels for is
checked against its Python; names and grids are read. Paged attention and AOTriton are named and not modelled.
"""
