"""AITER over a paged cache: paged decode, Composable Kernel's paged prefill, and Triton's unified attention.

Checked against the amd-aiter 0.1.7.post2.dev18 wheel's own Python: unified attention. Public traces of an
MI300X hold what paged decode and unified attention launch by these rules. Paged prefill is read.
"""
