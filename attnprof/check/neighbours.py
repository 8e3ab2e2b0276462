"""What a call's neighbours say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.dispatch.explanation import ReadBack


@dataclass(frozen=True, slots=True)
class Inconsistent:
    """Calls, as rows of the observed ones, that do not go with their neighbours; ``detail`` names both."""

    rows: Int64
    detail: str


def find_inconsistent(observed: ObservedCalls, told: Sequence[ReadBack | None]) -> Iterator[Inconsistent]:
    yield from ()
