"""Colours that stay apart for every kind of colour vision (Okabe and Ito), and which kernel has which."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_PLAIN, _SPLIT, _FIRST_OTHER = 0, 1, 2


def colour_numbers(kernels: Iterable[str]) -> dict[str, int]:
    """An index into COLOURS per kernel; the plain and the split kernel have the same one everywhere."""
    numbers: dict[str, int] = {}
    others = 0
    for kernel in dict.fromkeys(kernels):
        if "splitkv" in kernel:
            numbers[kernel] = _SPLIT
        elif "flash_fwd_kernel" in kernel:
            numbers[kernel] = _PLAIN
        else:
            numbers[kernel] = _FIRST_OTHER + others % (len(COLOURS) - _FIRST_OTHER)
            others += 1
    return numbers
