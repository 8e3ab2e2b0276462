"""The lengths of a batch's requests, each one's where the call states them, else the longest for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attnprof.model import AttentionCall

ONLY_LONGEST = "only the longest is known: each request is taken to be as long"


@dataclass(frozen=True, slots=True)
class Lengths:
    """``seqlens_q`` and ``seqlens_k`` of each request; ``tokens`` are the queries of all.

    ``known_k``: whether the call states each request's keys, or all are of one length.
    """

    call: AttentionCall
    seqlens_q: tuple[int, ...] = field(init=False)
    seqlens_k: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        call = self.call
        object.__setattr__(self, "seqlens_q", call.seqlens_q or (call.seqlen_q,) * call.batch)
        object.__setattr__(self, "seqlens_k", call.seqlens_k or (call.seqlen_k,) * call.batch)

    @property
    def tokens(self) -> int:
        if not self.call.seqlens_q and self.call.total_q is not None:
            return self.call.total_q
        return sum(self.seqlens_q)

    @property
    def max_q(self) -> int:
        return max(self.seqlens_q, default=0)

    @property
    def known_k(self) -> bool:
        return bool(self.call.seqlens_k) or self.call.batch == 1

    def said(self, why: str) -> str:
        """``why``, and that only the longest request is known where that is so."""
        return why if self.known_k else f"{why}; {ONLY_LONGEST}"

    def range_of(self, splits: Sequence[int]) -> str:
        """Split counts of requests as "3" or "1 to 8"."""
        return split_range(splits)


def split_range(splits: Sequence[int]) -> str:
    """Split counts of requests as "3" or "1 to 8"; "" of none."""
    if not splits:
        return ""
    fewest, most = min(splits), max(splits)
    return str(most) if fewest == most else f"{fewest} to {most}"
