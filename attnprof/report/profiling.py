"""The command of another profiler for one launch."""

from __future__ import annotations


def ncu_words(kernel: str, skip: int, program: str) -> str:
    """The Nsight Compute command that profiles one launch of a kernel, after ``skip`` earlier ones of it."""
    flags = f"--kernel-name {kernel} --launch-skip {skip} --launch-count 1 --set full"
    return f"ncu {flags} {program}"
