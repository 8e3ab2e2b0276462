"""Tokens a second, phase by phase, in a table and a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.analysis.throughput import FirstToken, PhaseTokens
from attnprof.report.tables import Column, Table, duration

_SAID = (("decode", "Decode makes"), ("mixed", "Mixed steps take"), ("prefill", "Prefill takes"))


_SAID = (("decode", "Decode makes"), ("mixed", "Mixed steps take"), ("prefill", "Prefill takes"))


def _rate(tokens: float | None) -> str:
    if tokens is None:
        return ""
    return f"{tokens:,.0f}" if tokens >= 100 else f"{tokens:.3g}"


def tokens_table(phases: Sequence[PhaseTokens]) -> Table:
    """Tokens that went through the model per phase, and how many a second."""
    columns = (
        Column("phase"), Column("process"), Column("steps", right=True),
        Column("most_requests", "requests", right=True), Column("tokens", right=True),
        Column("wall_ns", "wall time", right=True), Column("tokens_per_s", "tokens/s", right=True, use=2),
        Column("gpu_ns", "GPU time", right=True),
        Column("tokens_per_gpu_s", "per s of GPU time", right=True, use=2), Column("steps_without_tokens"),
    )  # fmt: skip
    rows, shown = [], []
    for p in phases:
        times = (p.wall_ns, p.per_second, p.gpu_ns or None, p.per_gpu_second)
        rows.append((p.phase, p.process, p.steps, p.most, p.tokens, *times, p.missing))
        cells = [
            duration(p.wall_ns),
            _rate(p.per_second),
            duration(p.gpu_ns or None),
            _rate(p.per_gpu_second),
        ]
        counts = [f"{p.steps:,}", f"{p.most:,}", f"{p.tokens:,}"]
        shown.append([p.phase, "", *counts, *cells, ""])
    return Table("tokens", columns, rows, shown, "Tokens through the model (requests: the most in a step)")


def tokens_sentence(phases: Sequence[PhaseTokens], first: FirstToken | None) -> str:
    """How many tokens a second, and what the first waits for; "" where no step says how many, or no GPU ran.

    A CPU's steps are in the table alone: the model that runs on one is mostly a stand-in.
    """
    by_phase = {one.phase: one for one in phases}
    parts = []
    for phase, what in _SAID:
        one = by_phase.get(phase)
        if one is None or not one.gpu_ns:
            continue
        if phase == "decode" and one.tokens != one.requests:  # drafts are verified: not each is kept
            what = "Decode takes"
        gpu = f", {_rate(one.per_gpu_second)} per second of GPU time"
        requests = f" (up to {one.most} requests)" if one.most > 1 and phase != "prefill" else ""
        parts.append(f"{what} {_rate(one.per_second)} tokens/s{requests}{gpu}.")
    if parts and first is not None:
        of = "" if first.prefills == 1 else f" (median of {first.prefills})"
        parts.append(f"A first token waits {duration(first.median_ns)}{of} for its prefill.")
    return " ".join(parts)
