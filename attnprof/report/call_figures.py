"""Attention calls in order, for a run that names no step; and which figure says something of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnprof.analysis.splits import kernel_and_splits
from attnprof.errors import UsageError
from attnprof.report.colours import COLOURS

if TYPE_CHECKING:
    from attnprof.analysis.splits import SplitRow
    from attnprof.check.verdicts import CheckedCall

_COMBINE = " + flash_fwd_splitkv_combine_kernel"
_MOST_SERIES = 12
FigureName = Literal["splits", "calls", "step", "phases", "modules", "share", "roofline"]


def figure_of(splits: Sequence[SplitRow], calls: int, kernels: int) -> tuple[FigureName, str]:
    """(the figure that says something of a run, why not the split timeline, "" where it is that).

    Raises UsageError where none does.
    """
    if any(row.phase == "decode" and row.steps and row.num_splits is not None for row in splits):
        return "splits", ""
    if calls:
        return "calls", "no decode step has a split count"
    if kernels:
        return "phases", "no attention call is known"
    raise UsageError(
        "there is nothing to plot: the run holds no attention call and no GPU kernel",
        hint="attnprof doctor TRACE says what a trace holds",
    )


def plot_calls(calls: Sequence[CheckedCall], *, title: str = "") -> Figure:
    """Each attention call in order: its GPU time where it was observed, else its split count.

    Raises UsageError without calls.
    """
    series: dict[tuple[str, int | None, bool], list[tuple[int, float]]] = defaultdict(list)
    known = [call for call in calls if call.observed is not None or call.predicted is not None]
    timed = any(call.duration_ns for call in known)
    for number, call in enumerate(known):
        height = (call.duration_ns or 0) / 1e3 if timed else call.num_splits or 0
        if call.duration_ns or not timed:
            series[kernel_and_splits(call)].append((number, height))
    if not series:
        raise UsageError(
            "there is nothing to plot: no attention call is known", hint="attnprof report --figure phases"
        )
    most = sorted(series, key=lambda key: -len(series[key]))[:_MOST_SERIES]
    figure = Figure(figsize=(9, 4.2), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for index, key in enumerate(most):
        kernel, count, observed = key
        splits = "" if count is None else f", {count} split{'' if count == 1 else 's'}"
        axes.plot(
            *zip(*series[key], strict=True), "osD^v<>"[index % 7], markersize=3, linestyle="none",
            color=COLOURS[index % len(COLOURS)],
            label=f"{kernel.replace(_COMBINE, ' + combine')}{splits}{'' if observed else ' (predicted)'}",
        )  # fmt: skip
    left = len(series) - len(most)
    axes.set_xlabel(f"attention call in order{f'; {left} rarer kinds left out' if left else ''}")
    axes.set_ylabel("GPU time (µs)" if timed else "num_splits (thread blocks along the keys)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    axes.set_title(f"{title}: attention calls in order".removeprefix(": "), fontsize=10)
    return figure
