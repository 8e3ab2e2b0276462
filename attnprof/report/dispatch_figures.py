"""Figures of the dispatch itself: efficiency over split counts, and split counts over lengths and batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnprof.errors import UsageError
from attnprof.report.figures import COLOURS
from attnprof.report.sweep import UNITS, axis_value, varying

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnprof.analysis.explain import Explanation
    from attnprof.analysis.sweep import Setting, Sweep

_LEVELS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_MOST_COLUMNS = 2000  # more than a page has pixels
_MOST_ROWS = 400
_MOST_PANELS = 6
_MOST_LINES = len(COLOURS)
_REFUSED = "#ffffff"


def plot_candidates(explained: Explanation) -> Figure:
    """Efficiency over split counts, with the 85 % line and the choice.

    Raises UsageError where the library weighed no split counts.
    """
    weighed = explained.weighed
    if weighed is None or not weighed.choice.candidates:
        raise UsageError(
            "there is nothing to plot: the library weighed no split counts for this call",
            hint="attnprof explain without --plot says why",
        )
    choice = weighed.choice
    figure = Figure(figsize=(9, 4.6), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    counts = [candidate.num_splits for candidate in choice.candidates]
    efficiency = [candidate.efficiency * 100 for candidate in choice.candidates]
    chosen = counts.index(choice.num_splits)
    best = max(range(len(counts)), key=lambda index: efficiency[index])
    axes.vlines(counts, 0, efficiency, color="#bbbbbb", linewidth=1)
    axes.plot(counts, efficiency, "o", color=COLOURS[0], markersize=4, label="split counts weighed")
    axes.plot(
        counts[best], efficiency[best], "s", color=COLOURS[2], markersize=8, fillstyle="none",
        label=f"best: {counts[best]} splits, {efficiency[best]:.1f} %",
    )  # fmt: skip
    axes.plot(
        counts[chosen], efficiency[chosen], "D", color=COLOURS[1], markersize=8,
        label=f"chosen: {counts[chosen]} splits, {efficiency[chosen]:.1f} %",
    )  # fmt: skip
    line = choice.threshold * 100
    axes.axhline(line, color=COLOURS[6], linestyle="--", linewidth=1, label=f"85 % of the best: {line:.1f} %")
    call = explained.call
    shape = (
        f"batch {call.batch}, {call.seqlen_q} x {call.seqlen_k}, {call.num_heads}/{call.num_heads_k} heads"
    )
    axes.set_title(
        f"{call.library} {explained.version} {call.entry}: {shape} x {call.head_dim}, {explained.gpu.name}\n"
        f"{weighed.thread_blocks} thread blocks before splitting, {weighed.slots} slots",
        fontsize=10,
    )
    axes.set_xlabel("num_splits (thread blocks along the keys)")
    axes.set_ylabel("efficiency (% of slots used over whole waves)")
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlim(0, max(counts) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", ncols=2, frameon=False, fontsize=8)
    return figure


def plot_sweep(result: Sweep) -> Figure:
    """num_splits over the swept lengths: a heat map where several batch sizes are swept, else lines.

    Raises UsageError where there are more settings than a page holds.
    """
    batches = {setting.call.batch for setting in result.settings}
    if result.along != "batch" and len(batches) > 1:
        return _heat_maps(result)
    if len(result.settings) > _MOST_LINES:
        return _one_map(result)
    return _lines(result)


def _heat_maps(result: Sweep) -> Figure:
    """A panel of lengths x batch sizes for each combination of everything else."""
    shown = [name for name in varying(result.settings, result.along) if name != "batch"]
    panels: dict[tuple[Any, ...], list[int]] = {}
    for row, setting in enumerate(result.settings):
        panels.setdefault(tuple(axis_value(setting, name) for name in shown), []).append(row)
    if len(panels) > _MOST_PANELS:
        raise UsageError(
            f"a figure of {len(panels)} panels is too many: it holds {_MOST_PANELS}",
            hint="sweep fewer GPUs, versions or head layouts at a time",
        )
    rows_of = {
        key: sorted(rows, key=lambda row: result.settings[row].call.batch) for key, rows in panels.items()
    }
    tallest = max(map(len, rows_of.values()))
    height = 1.1 + len(panels) * min(3.2, 0.9 + 0.22 * tallest)
    figure = Figure(figsize=(9, max(3.0, height)), layout="constrained", dpi=150)
    all_axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    mesh = None
    for axes, rows in zip(all_axes, rows_of.values(), strict=True):
        labels = [str(result.settings[row].call.batch) for row in rows]
        mesh = _draw_map(axes, result, rows, labels)
        axes.set_ylabel("batch (sequences)")
        axes.set_title(_named(result.settings[rows[0]], shown), fontsize=9, loc="left")
    _finish_map(figure, all_axes, result, mesh)
    return figure


def _one_map(result: Sweep) -> Figure:
    """One panel with a row per setting."""
    rows = list(range(len(result.settings)))
    if len(rows) > _MOST_ROWS:
        raise UsageError(
            f"a figure of {len(rows)} rows is too many: it holds {_MOST_ROWS}",
            hint="sweep fewer combinations at a time",
        )
    figure = Figure(figsize=(9, 1.6 + 0.24 * min(len(rows), 40)), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    shown = varying(result.settings, result.along)
    labels = [_named(setting, shown) for setting in result.settings]
    mesh = _draw_map(axes, result, rows, labels)
    _finish_map(figure, [axes], result, mesh)
    return figure


def _draw_map(axes: Axes, result: Sweep, rows: list[int], labels: list[str]) -> Any:
    """num_splits of some settings, one row each, bottom to top; refused calls stay white."""
    columns = np.unique(np.linspace(0, len(result.values) - 1, _MOST_COLUMNS).round().astype(int))
    lines = np.unique(np.linspace(0, len(rows) - 1, _MOST_ROWS).round().astype(int))
    counts = result.num_splits[np.array(rows)[lines]][:, columns]
    at = result.values[columns]
    after = int(at[-1]) + (int(at[-1]) - int(at[-2]) if len(at) > 1 else 1)
    edges = np.append(at, after) - 0.5
    colours = ListedColormap(_colours(), name="splits").with_extremes(bad=_REFUSED)
    norm = BoundaryNorm([*_LEVELS, _LEVELS[-1] * 2], colours.N)
    heights = np.arange(len(lines) + 1) - 0.5
    mesh = axes.pcolormesh(
        edges, heights, np.ma.masked_equal(counts, 0), cmap=colours, norm=norm, rasterized=True
    )
    ticks = _round_ticks([labels[line] for line in lines])
    axes.set_yticks(ticks, [labels[lines[tick]] for tick in ticks], fontsize=8)
    if len(lines) <= 12:
        axes.hlines(heights[1:-1], edges[0], edges[-1], color="white", linewidth=1)
    return mesh


def _round_ticks(labels: list[str]) -> list[int]:
    """Positions to label: all of a few, of many numbers the round ones, else about a dozen."""
    if len(labels) <= 12:
        return list(range(len(labels)))
    if all(label.isdigit() for label in labels):
        wanted = set(MaxNLocator(nbins=10, integer=True).tick_values(int(labels[0]), int(labels[-1])))
        found = [position for position, label in enumerate(labels) if int(label) in wanted]
        if len(found) > 2:
            return sorted({0, *found})
    return list(range(0, len(labels), -(-len(labels) // 12)))


def _colours() -> list[Any]:
    """One colour per level: grey for a single split, then a scale that every kind of vision sees ascend."""
    from matplotlib import colormaps

    return ["#d9d9d9", *colormaps["cividis"](np.linspace(0, 1, len(_LEVELS) - 1))]


def _finish_map(figure: Figure, all_axes: Sequence[Axes], result: Sweep, mesh: Any) -> None:
    all_axes[-1].set_xlabel(f"{result.along} ({UNITS[result.along]})")
    bar = figure.colorbar(mesh, ax=list(all_axes), ticks=_middles(), pad=0.02, aspect=30)
    bar.ax.set_yticklabels(_level_names(), fontsize=8)
    bar.ax.minorticks_off()
    bar.set_label("num_splits (thread blocks along the keys)")
    figure.suptitle(_shared(result), fontsize=10)


def _middles() -> list[float]:
    ends = [*_LEVELS, _LEVELS[-1] * 2]
    return [(low + high) / 2 for low, high in pairwise(ends)]


def _level_names() -> list[str]:
    ends = [*_LEVELS, _LEVELS[-1] + 1]
    spans = pairwise(ends)
    return [
        "1: not split" if low == 1 else f"{low}" if high == low + 1 else f"{low}–{high - 1}"
        for low, high in spans
    ]


def _lines(result: Sweep) -> Figure:
    """num_splits of each setting as a line; along the batch also how full the slots are."""
    along_batch = result.along == "batch"
    figure = Figure(figsize=(9, 6.4 if along_batch else 4.2), layout="constrained", dpi=150)
    all_axes = figure.subplots(2 if along_batch else 1, 1, sharex=True, squeeze=False)[:, 0]
    shown = varying(result.settings, result.along)
    for row, setting in enumerate(result.settings):
        colour, style = COLOURS[row], ("-", "--", ":", "-.")[row % 4]
        counts = np.ma.masked_equal(result.num_splits[row], 0)
        label = _named(setting, shown) or None
        all_axes[0].step(result.values, counts, where="post", color=colour, linestyle=style, label=label)
        if along_batch:
            waves = result.waves[row]
            fill = 100 * waves / np.maximum(np.ceil(waves), 1)
            all_axes[1].plot(result.values, fill, color=colour, linestyle=style, marker=".", label=label)
    all_axes[0].set_ylabel("num_splits (thread blocks along the keys)", fontsize=9)
    all_axes[0].set_ylim(bottom=0)
    all_axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    if along_batch:
        all_axes[1].set_ylabel("slots used over whole waves (%)", fontsize=9)
        all_axes[1].set_ylim(0, 104)
    all_axes[-1].set_xlabel(f"{result.along} ({UNITS[result.along]})")
    for axes in all_axes:
        axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    if shown:
        all_axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(_shared(result), fontsize=10)
    return figure


def _named(setting: Setting, names: Sequence[str]) -> str:
    """What tells a setting from the others."""
    return ", ".join(
        str(axis_value(setting, name))
        if name in ("gpu", "library", "entry")
        else f"{name} {axis_value(setting, name)}"
        for name in names
    )


def _shared(result: Sweep) -> str:
    from attnprof.report.sweep import facts

    told = dict(facts(result))
    return "num_splits: " + ", ".join(told[label] for label in ("sweep", "gpu") if label in told)
