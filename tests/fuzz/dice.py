"""Seeded decisions, the same on every machine and Python, and a record of what they decided."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Decisions drawn from a seed; ``recipe`` says in words what was done with them.

    Only ``random()`` of the generator is used: its other methods differ between versions of Python.
    """

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed).random
        self.recipe: list[str] = []

    def below(self, limit: int) -> int:
        """A whole number from 0 to ``limit`` - 1."""
        return int(self._draw() * limit)

    def chance(self, share: float) -> bool:
        """True in ``share`` of all cases."""
        return self._draw() < share

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices."""
        return choices[self.below(len(choices))]

    def early(self, limit: int) -> int:
        """A whole number below ``limit``, more often a small one."""
        return int(self._draw() * self._draw() * limit)

    def note(self, what: str) -> None:
        """Adds to the recipe."""
        self.recipe.append(what)
