"""Split counts as they were timed on a GPU: the fastest against the chosen one, where just this was timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnprof.model import AttentionCall, Gpu

TIMER_US = 0.5  # what CUDA events resolve


@dataclass(frozen=True, slots=True)
class MeasuredSplits:
    """GPU time of one call by split count, on one GPU, keys and values not in its cache.

    Times are medians in µs; ``us_by_num_splits`` ascends by split count.  ``bytes_per_s``: keys and values
    read by the automatic call.  ``copy_bytes_per_s``: a large copy on the same card, read and written.
    ``forced_by`` says how split counts were asked for, ``source`` where this was read.
    """

    call: AttentionCall
    gpu: Gpu
    version: str
    us_by_num_splits: tuple[tuple[int, float], ...]
    bytes_per_s: float | None
    copy_bytes_per_s: float | None
    forced_by: str
    date: str
    source: str

    def is_of(self, call: AttentionCall, gpu: Gpu, version: str) -> bool:
        """Whether just this call was timed, on this kind of GPU, with this version of the library."""
        same = (
            "library", "entry", "batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k", "head_dim",
            "dtype", "window", "softcap", "alibi", "dropout_p", "page_block_size",
        )  # fmt: skip
        one_query = call.seqlen_q == 1  # it sees every key, causal or not
        kind = (gpu.name, gpu.num_sms, gpu.sm_major, gpu.sm_minor)
        return (
            all(getattr(call, name) == getattr(self.call, name) for name in same)
            and (one_query or call.causal == self.call.causal)
            and kind == (self.gpu.name, self.gpu.num_sms, self.gpu.sm_major, self.gpu.sm_minor)
            and version.partition("+")[0] == self.version.partition("+")[0]
        )

    @property
    def fastest(self) -> tuple[int, float]:
        """(split count, µs) of the fastest; the fewest splits of equals."""
        return min(self.us_by_num_splits, key=lambda timed: (timed[1], timed[0]))


def find(
    measured: Sequence[MeasuredSplits], call: AttentionCall, gpu: Gpu, version: str
) -> MeasuredSplits | None:
    """What was timed of just this call; None where it was not."""
    return next((each for each in measured if each.is_of(call, gpu, version)), None)


def advice(measured: MeasuredSplits, chosen: int) -> str:
    """The fastest split count against the chosen one, in one sentence."""
    times = dict(measured.us_by_num_splits)
    where = f"Measured on {measured.gpu.name} at {measured.call.seqlen_k:,} keys ({measured.date})"
    if chosen not in times:
        return f"{where}, but not the {_splits(chosen)} chosen: nothing can be said of these."
    best, us = measured.fastest
    saved, tried = times[chosen] - us, f"{len(times)} split counts tried"
    if best == chosen:
        return f"{where}, the {_splits(chosen)} chosen {_verb(chosen)} the fastest of {tried}: {us:.1f} µs."
    if saved < TIMER_US:
        return (
            f"{where}, no other of {tried} is faster than the {_splits(chosen)} chosen by what the timer "
            f"resolves, {TIMER_US} µs: {times[chosen]:.1f} µs."
        )
    return (
        f"{where}, {_splits(best)} {_verb(best)} {saved:.1f} µs faster than the {chosen} chosen: {us:.1f} "
        f"against {times[chosen]:.1f} µs."
    )


def bandwidth(measured: MeasuredSplits) -> str:
    """How near the card's own peak the call reads keys and values; "" where neither was measured."""
    if not measured.bytes_per_s or not measured.copy_bytes_per_s:
        return ""
    share = measured.bytes_per_s / measured.copy_bytes_per_s
    return (
        f"It reads keys and values at {measured.bytes_per_s / 1e9:,.0f} GB/s, {share * 100:.0f} % of the "
        f"{measured.copy_bytes_per_s / 1e9:,.0f} GB/s that a copy reaches on this card."
    )


def not_measured(measured: Sequence[MeasuredSplits]) -> str:
    """What the evidence is of, where it is of other calls."""
    if not measured:
        return "It holds no timed split counts."
    first, call = measured[0], measured[0].call
    heads = f"{call.num_heads}/{call.num_heads_k} heads x {call.head_dim} {call.dtype}"
    lengths = sorted({each.call.seqlen_k for each in measured})
    batches = ", ".join(map(str, sorted({each.call.batch for each in measured})))
    return (
        f"This call was not measured: {first.source} is of {call.library} {first.version} "
        f"{call.entry} on {first.gpu.name}, {heads}, batch {batches}, {lengths[0]:,} to "
        f"{lengths[-1]:,} keys ({len(lengths)} lengths)."
    )


def _splits(count: int) -> str:
    return f"{count} split{'s' * (count != 1)}"


def _verb(count: int) -> str:
    return "is" if count == 1 else "are"
