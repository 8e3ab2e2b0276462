"""AITER, Composable Kernel and AOTriton: attention on AMD GPUs.

Checked against the amd-aiter 0.1.7.post2.dev18 wheel: the search for MLA's splits. Resting on reading alone:
Composable Kernel's one split, its tile and grid, and when AITER's assembly takes a call instead. AOTriton is
named and not modelled.
"""
