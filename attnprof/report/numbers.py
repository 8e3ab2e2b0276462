"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def spans(numbers: Sequence[int]) -> str:
    """Ascending integers with runs as a–b."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(span(a, b) for a, b in found)


def span(first: int, last: int) -> str:
    """first–last, or the one number that both are."""
    return str(first) if first == last else f"{first}–{last}"
