"""AITER over a paged cache: paged decode, Composable Kernel's paged prefill, and Triton's unified attention.

Checked against AITER's own Python: unified attention, of the amd-aiter 0.1.7.post2.dev18 wheel and of
upstream's tag v0.1.20.post1. Public traces of an MI300X hold what paged decode and unified attention launch
by 0.1.7's rules. Paged prefill is read.
"""
