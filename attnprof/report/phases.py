"""Where the time of a run goes, in tables and in the sentences that answer "why is it not faster?"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnprof.report.layer_words import kind_labels, kind_titles
from attnprof.report.tables import Column, Table, duration, percent

if TYPE_CHECKING:
    from attnprof.analysis.layer_kinds import LayerKind
    from attnprof.analysis.phases import PhaseTotal
    from attnprof.analysis.split_cost import SplitCost

LAUNCH_BOUND = 0.2  # of the wall time: from there on the CPU is what a user has to look at
_LEGEND = " (idle: no kernel runs; waiting: idle, the next kernel is not launched yet)"
_WHOLE_TRACE = "whole trace"


def phases_table(phases: Sequence[PhaseTotal]) -> Table:
    """Wall and GPU time per phase, what of it was attention, what idle."""
    columns = (
        Column("phase"), Column("steps", right=True), Column("wall_ns", "wall time", right=True),
        Column("kernels", right=True), Column("gpu_ns", "GPU time", right=True),
        Column("attention_ns", "attention", right=True),
        Column("attention_share", "of GPU time", right=True),
        Column("idle_share", "idle/wall", right=True),
        Column("waiting_share", "waiting/wall", right=True),
        Column("idle_ns"), Column("waiting_ns"), Column("device_wall_ns"), Column("attention_kernels"),
    )  # fmt: skip
    any_kernel = any(phase.gpu_ns for phase in phases)
    rows, shown = [], []
    for p in phases:
        shares = (p.attention_share, p.idle_share, p.waiting_share)
        rest = (p.idle_ns, p.waiting_ns, p.device_wall_ns, p.attention_kernels)
        rows.append((p.phase, p.steps, p.wall_ns, p.kernels, p.gpu_ns, p.attention_ns, *shares, *rest))
        gpu = [duration(p.gpu_ns), duration(p.attention_ns), *map(percent, shares)]
        steps = f"{p.steps:,}" if p.steps else ""
        cells = gpu if any_kernel else [""] * len(gpu)
        shown.append([phase_name(p), steps, duration(p.wall_ns), "", *cells, *[""] * len(rest)])
    known = any(phase.idle_ns is not None for phase in phases)
    return Table("phases", columns, rows, shown, f"Phases{_LEGEND if known else ''}")


def phase_name(phase: PhaseTotal) -> str:
    """The phase as people read it; a trace without steps is all one phase."""
    return _WHOLE_TRACE if phase.phase == "other" and phase.wall_ns is not None else phase.phase


def steps_table(phases: Sequence[PhaseTotal]) -> Table:
    """One step of each phase; in decode that is one token of each sequence."""
    columns = (
        Column("phase"), Column("median_ns", "median", right=True), Column("p95_ns", "p95", right=True),
        Column("kernels", right=True), Column("gpu_ns", "GPU time", right=True),
        Column("attention_ns", "attention", right=True), Column("layer_ns", "GPU/layer", right=True),
        Column("attention_layer_ns", "attention/layer", right=True),
    )  # fmt: skip
    rows, shown = [], []
    for p in (p for p in phases if p.steps):
        each = [value / p.steps if p.gpu_ns else None for value in (p.kernels, p.gpu_ns, p.attention_ns)]
        layers = (p.layer_ns, p.attention_layer_ns)
        rows.append((p.phase, p.median_ns, p.p95_ns, *each, *layers))
        kernels = "" if each[0] is None else f"{each[0]:,.1f}".removesuffix(".0")
        p95 = duration(p.p95_ns) if p.steps > 1 else ""
        shown.append([p.phase, duration(p.median_ns), p95, kernels, *map(duration, (*each[1:], *layers))])
    means = ", means of GPU time" if any(p.gpu_ns for p in phases) else " on the CPU"
    return Table("steps", columns, rows, shown, f"Per step (in decode: per token): wall time{means}")


def split_cost_table(costs: Sequence[SplitCost], kinds: Sequence[LayerKind] = ()) -> Table:
    """The observed calls by kind of layer and split count: main kernel, combine, both."""
    titles, labels = kind_titles(kinds), kind_labels(kinds)
    columns = (
        Column("phase"), Column("layers"), Column("num_splits", "splits", right=True),
        Column("calls", right=True), Column("main_ns", "attention kernel", right=True),
        Column("rest_ns", "combine", right=True), Column("total_ns", "per call", right=True),
        Column("rest_share", "combine of it", right=True),
    )  # fmt: skip
    rows, shown = [], []
    for c in costs:
        share = c.rest_ns / c.total_ns if c.total_ns and c.rest_ns else None
        layers = titles[c.kind] if c.kind >= 0 else ""
        rows.append((c.phase, layers, c.num_splits, c.calls, c.main_ns, c.rest_ns, c.total_ns, share))
        times = (duration(c.main_ns), duration(c.rest_ns or None), duration(c.total_ns), percent(share))
        label = labels[c.kind] if c.kind >= 0 else ""
        shown.append(
            ["" if c.phase == "other" else c.phase, label, str(c.num_splits), f"{c.calls:,}", *times]
        )
    return Table("splitting", columns, rows, shown, "Cost of splitting (observed, medians per call)")


def time_sentences(phases: Sequence[PhaseTotal]) -> list[str]:
    """Why it is not faster: what bounds a token, what attention could save. Empty without kernels."""
    by_name = {phase.phase: phase for phase in phases}
    decode = by_name.get("steady decode") or by_name.get("first decode")
    prefill, other = by_name.get("prefill"), by_name.get("other")
    if decode is not None and decode.gpu_ns:
        spread = f" (median; p95 {duration(decode.p95_ns)})" if decode.steps > 1 else ""
        sentences = [f"Decode takes {duration(decode.median_ns)} per token{spread}{_bound(decode)}."]
        sentences += _attention(decode, "decode", "a token's wall time")
        if prefill is not None and prefill.gpu_ns:
            idle = _share(prefill.idle_share, "the GPU is idle {} of it")
            attention = _share(prefill.attention_share, "attention is {} of its GPU time")
            whole = f"Prefill takes {duration(prefill.median_ns)}"
            sentences.append("; ".join(part for part in (whole, idle, attention) if part) + ".")
        return sentences
    for phase, name in ((prefill, "Prefill"), (other, "The trace, first kernel to last,")):
        if phase is not None and phase.gpu_ns and phase.wall_ns:
            took = phase.median_ns if phase.steps else phase.wall_ns
            return [
                f"{name} takes {duration(took)}{_bound(phase)}.",
                *_attention(phase, "it", "the wall time"),
            ]
    return []


def _bound(phase: PhaseTotal) -> str:
    """What a step's wall time is bound by, as far as the trace tells."""
    idle, waiting = phase.idle_share, phase.waiting_share
    if idle is None:
        return ""
    text = f": the GPU is idle {percent(idle)} of it"
    if waiting is None:
        return text
    text += f", {percent(waiting)} waiting for the CPU to launch"
    if not phase.steps:  # a pause between two programs would be no property of either
        return text
    if waiting >= LAUNCH_BOUND:
        return text + ": launch-bound, as recorded (recording slows launches)"
    return text + ("" if idle >= LAUNCH_BOUND else ": GPU-bound")


def _attention(phase: PhaseTotal, name: str, of: str) -> list[str]:
    if phase.graph_ns:
        hidden = percent(phase.graph_ns / phase.gpu_ns)
        told = f"{hidden} of {name}'s GPU time are CUDA graphs recorded whole".replace("it's", "its")
        return [f"{told}: what of it is attention is not known."]
    if not phase.attention_ns:
        return []
    text = f"Attention is {percent(phase.attention_share)} of {name}'s GPU time".replace("it's", "its")
    if phase.attention_of_wall is None:
        return [f"{text}."]
    return [f"{text} and {percent(phase.attention_of_wall)} of {of}: faster attention kernels save no more."]


def _share(share: float | None, text: str) -> str:
    return "" if share is None else text.format(percent(share))
