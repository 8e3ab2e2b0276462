"""Numbers with their nouns, for sentences."""

from __future__ import annotations


def noun_of(number: int, noun: str, many: str = "") -> str:
    """``call`` for 1, else ``calls``. ``many``: the plural, noun and s where it is not given."""
    return noun if number == 1 else many or f"{noun}s"


def count_of(number: int, noun: str, many: str = "") -> str:
    """``1 call``, ``2 calls``, ``1,000 queries``."""
    return f"{number:,} {noun_of(number, noun, many)}"
