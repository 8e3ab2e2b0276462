"""The lengths of a batch's requests, each one's where the call states them, else the longest for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attnprof.model import AttentionCall

ONLY_LONGEST = "each request is taken to be as long as the longest, which alone is known"


@dataclass(frozen=True, slots=True)
class Lengths:
    """``seqlens_q`` and ``seqlens_k`` of each request; ``tokens`` are the queries of all.

    ``known_k``: whether the call states each request's keys, or the one request's.
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
        one = self.call.batch == 1 and self.call.entry != "fwd_kvcache"  # whose seqlen_k is the capacity
        return bool(self.call.seqlens_k) or self.call.entry == "fwd" or one

    def said(self, why: str) -> str:
        """``why``, and that only the longest request is known where that is so."""
        return why if self.known_k else f"{why}; {ONLY_LONGEST}"


def lengths_in_words(call: AttentionCall) -> str:
    """The lengths of a call's requests beside its maxima; "" where all are as long, or there is one alone."""
    if call.entry == "fwd" or call.batch <= 1:
        return ""
    parts = []
    if call.seqlens_q and len(set(call.seqlens_q)) > 1:
        parts.append(f"{split_range(call.seqlens_q)} queries")
    if call.seqlens_k:
        parts.append(f"{split_range(call.seqlens_k)} keys")
    if parts:
        return f"each of {call.batch} requests with {' and '.join(parts)}"
    if call.entry == "fwd_kvcache":
        return "of the requests' lengths only the cache's capacity is known"
    return "of the requests' lengths only the maxima are known"


def split_range(splits: Sequence[int]) -> str:
    """Split counts of requests as "3" or "1 to 8"; "" of none."""
    if not splits:
        return ""
    fewest, most = min(splits), max(splits)
    return str(most) if fewest == most else f"{fewest} to {most}"
