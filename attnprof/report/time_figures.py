"""Figures of where GPU time goes: one step's kernels, phases by kind of kernel, attention's share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from attnprof.analysis.kernel_groups import GROUPS, GroupTotals, StepShares, group_indices
from attnprof.analysis.phases import build_steps
from attnprof.errors import UsageError
from attnprof.report.colours import COLOURS
from attnprof.report.work import PARTS, part_name

if TYPE_CHECKING:
    from attnprof.analysis.work_kinds import WorkTotal
    from attnprof.trace.tables import Bool
    from attnprof.trace.timeline import Timeline

_GROUP_COLOURS = dict(zip(GROUPS, (*(COLOURS[n] for n in (1, 0, 3, 4, 5, 2)), "#999999"), strict=True))
_STYLES = (*COLOURS, "#999999", "#dddddd")  # by the styles of PARTS
_LEGEND_LETTERS = 100  # that fit in one line
_MOST_BARS = 60_000
_NO_KERNELS = "there is nothing to plot: the run holds no GPU kernels"
_RECORD_ON_GPU = "record it on a machine with an NVIDIA GPU, or import such a trace"


def plot_step(timeline: Timeline, step: int | None = None, *, title: str = "") -> Figure:
    """Every kernel of one decode step, a lane per stream; of the whole trace where it names no step.

    ``step`` defaults to the middle one. Raises UsageError without kernels, or for a step there is not.
    """
    kernels = timeline.trace.kernels
    if not len(kernels):
        raise UsageError(_NO_KERNELS, hint=_RECORD_ON_GPU)
    mine, what = _kernels_of(timeline, step)
    if int(mine.sum()) > _MOST_BARS:
        raise UsageError(
            f"{what} has {int(mine.sum()):,} kernels, too many to tell apart in a figure",
            hint="a trace with decode ranges, as attnprof run writes them, can be drawn step by step",
        )
    start, end = kernels.start[mine], kernels.end[mine]
    groups = group_indices(timeline)[mine]
    begin, span = int(start.min()), int(end.max() - start.min())
    unit, scale = ("ms", 1e6) if span >= 10_000_000 else ("µs", 1e3)
    lanes = sorted(set(zip(kernels.device[mine].tolist(), kernels.stream[mine].tolist(), strict=True)))
    figure = Figure(figsize=(9, 2.1 + 0.55 * len(lanes)), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for row, (device, stream) in enumerate(lanes):
        here = (kernels.device[mine] == device) & (kernels.stream[mine] == stream)
        for group in np.unique(groups[here]).tolist():
            bars = np.flatnonzero(here & (groups == group))
            spans = [((start[i] - begin) / scale, (end[i] - start[i]) / scale) for i in bars]
            axes.broken_barh(
                spans, (row - 0.38, 0.76), facecolors=_GROUP_COLOURS[GROUPS[group]], edgecolor="none"
            )
    several = len({device for device, _ in lanes}) > 1
    names = [f"GPU {device}, stream {stream}" if several else f"stream {stream}" for device, stream in lanes]
    axes.set_yticks(range(len(lanes)), names)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_xlim(0, span / scale)
    axes.set_xlabel(f"time since the first kernel ({unit})")
    axes.set_ylabel("CUDA stream (number)")
    busy = _busy(start, end) / span if span else 1.0
    head = f"{title}: {what}".removeprefix(": ")
    volume = (
        f"{int(mine.sum()):,} kernels in {span / scale:,.3g} {unit}, one or more running {busy:.0%} of it"
    )
    axes.set_title(f"{head}\n{volume}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    names = [GROUPS[group] for group in np.unique(groups).tolist()]
    _legend(figure, [(name, _GROUP_COLOURS[name]) for name in names])
    return figure


def _kernels_of(timeline: Timeline, step: int | None) -> tuple[Bool, str]:
    """The kernels to draw, and what they are in words."""
    steps = build_steps(timeline)
    decode = np.flatnonzero((steps.part > 0) & (steps.kernels > 0))
    if not len(decode):
        if step is not None:
            raise UsageError(
                "the trace names no decode step", hint="leave the step out to draw the whole trace"
            )
        return np.ones(len(timeline.trace.kernels), np.bool_), "whole trace"
    if step is None:
        chosen = decode[len(decode) // 2]
    else:
        found = decode[steps.number[decode] == step]
        if not len(found):
            numbers = steps.number[decode]
            raise UsageError(
                f"there are no kernels of a decode step {step}",
                hint=f"the decode steps are {numbers.min()} to {numbers.max()}",
            )
        chosen = found[0]
    return steps.of_kernel == chosen, f"decode step {steps.number[chosen]}"


def _busy(start: np.ndarray, end: np.ndarray) -> int:
    """Time in which at least one of the intervals, sorted by start, runs."""
    reached = np.maximum.accumulate(end)
    before = np.append(start[:1], reached[:-1])
    return int(np.maximum(0, reached - np.maximum(start, before)).sum())


def _legend(figure: Figure, parts: Sequence[tuple[str, str]]) -> None:
    handles = [Patch(color=colour, label=name) for name, colour in parts]
    columns = 6 if sum(len(name) for name, _ in parts) < _LEGEND_LETTERS else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def plot_phases(totals: Sequence[GroupTotals], *, title: str = "") -> Figure:
    """GPU time of each phase by kind of kernel, in all and per step. Raises UsageError without kernels."""
    parts = [(name, _GROUP_COLOURS[name]) for name in GROUPS]
    bars = [_Bar(row.phase, row.steps, row.gpu_ns) for row in totals]
    return _stacked(bars, parts, f"{title}: GPU time by phase and kind of kernel")


def plot_modules(totals: Sequence[WorkTotal], *, title: str = "") -> Figure:
    """GPU time of each phase by what the kernels work for. Raises UsageError without kernels."""
    style_of = {kind: style for kinds, style in PARTS for kind in kinds}
    styles = [style for _, style in PARTS]
    spent = {total.phase: [0] * len(styles) for total in totals}
    for total in totals:
        spent[total.phase][styles.index(style_of[total.kind])] += total.gpu_ns
    steps = {total.phase: total.steps for total in totals}
    parts = [(part_name(style), _STYLES[style]) for style in styles]
    bars = [_Bar(phase, steps[phase], tuple(times)) for phase, times in spent.items()]
    return _stacked(bars, parts, f"{title}: GPU time by phase and module")


@dataclass(frozen=True, slots=True)
class _Bar:
    """A phase: its number of steps, 0 where the trace names none, and the GPU time of each part in ns."""

    phase: str
    steps: int
    gpu_ns: tuple[int, ...]

    @property
    def label(self) -> str:
        if not self.steps:
            return "outside steps" if self.phase == "other" else self.phase
        return f"{self.phase} ({self.steps:,})"


def _stacked(bars: Sequence[_Bar], parts: Sequence[tuple[str, str]], title: str) -> Figure:
    """A bar per phase, its parts (name, colour) side by side; beside it per step where steps are known."""
    if not bars:
        raise UsageError(_NO_KERNELS, hint=_RECORD_ON_GPU)
    per_step = any(bar.steps > 1 for bar in bars)
    figure = Figure(figsize=(9, max(2.8, 1.9 + 0.45 * len(bars))), layout="constrained", dpi=150)
    panels = figure.subplots(1, 1 + per_step, sharey=True, squeeze=False)[0]
    for number, axes in enumerate(panels):
        # Per step there is nothing to draw of what is outside of steps.
        divisors = [(bar.steps or np.inf) if number else 1 for bar in bars]
        longest = max(sum(bar.gpu_ns) / divisor for bar, divisor in zip(bars, divisors, strict=True))
        unit, scale = ("ms", 1e6) if longest >= 1e6 else ("µs", 1e3)
        left = np.zeros(len(bars))
        for part, (_, colour) in enumerate(parts):
            width = np.array([bar.gpu_ns[part] for bar in bars]) / np.array(divisors) / scale
            axes.barh(range(len(bars)), width, left=left, color=colour, height=0.62)
            left += width
        axes.set_xlabel(f"GPU time per step ({unit})" if number else f"GPU time ({unit})")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(bars)), [bar.label for bar in bars])
    panels[0].set_ylim(len(bars) - 0.5, -0.5)
    panels[0].set_ylabel("phase (number of steps)")
    figure.suptitle(title.removeprefix(": "), fontsize=10)
    used = [part for number, part in enumerate(parts) if any(bar.gpu_ns[number] for bar in bars)]
    _legend(figure, used)
    return figure


def plot_attention_share(shares: StepShares, *, title: str = "") -> Figure:
    """Attention's share of each decode step's GPU time against the KV length, a colour per split count.

    Against the step's number where no KV length was recorded. Raises UsageError without decode steps.
    """
    if not len(shares.number):
        raise UsageError(
            "there is nothing to plot: the run has no decode step with GPU kernels", hint=_RECORD_ON_GPU
        )
    against_keys = bool((shares.seqlen_k >= 0).all())
    x = shares.seqlen_k if against_keys else shares.number
    figure = Figure(figsize=(9, 4), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for index, count in enumerate(np.unique(shares.num_splits).tolist()):
        here = shares.num_splits == count
        label = "unknown" if count < 0 else str(count)
        colour = COLOURS[index % len(COLOURS)]
        axes.scatter(x[here], shares.share[here] * 100, s=7, color=colour, label=label, linewidths=0)
    axes.set_xlabel("KV length (tokens)" if against_keys else "decode step (number)")
    axes.set_ylabel("attention's share of GPU time (%)")
    axes.set_ylim(0, max(5.0, float(shares.share.max()) * 118))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        title="num_splits",
        loc="upper left",
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        ncols=6,
        markerscale=2,
    )
    axes.set_title(f"{title}: attention in decode (observed)".removeprefix(": "), fontsize=10)
    return figure
