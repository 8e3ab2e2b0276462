"""Figures. Colours are Okabe and Ito's, which stay apart for every kind of colour vision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnprof.analysis.layer_kinds import layer_kinds
from attnprof.errors import UsageError
from attnprof.files.output import writing_file
from attnprof.report.colours import COLOURS as COLOURS
from attnprof.report.colours import colour_numbers
from attnprof.report.layer_words import kind_titles, row_label
from attnprof.report.step_charts import MOST_CHARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnprof.analysis.layer_kinds import LayerKind
    from attnprof.analysis.splits import SplitRow

_ANNOTATED_ROWS = 24
_FORMATS = (".png", ".svg", ".pdf")


def plot_splits(splits: Sequence[SplitRow], *, title: str = "") -> Figure:
    """num_splits over decode steps, coloured by kernel, a panel per kind of layers; KV lengths where known.

    Of more than MOST_CHARTS kinds one panel holds all. Raises UsageError where no decode step is known.
    """
    rows = [row for row in splits if _drawable(row)]
    if not rows:
        raise UsageError(
            "there is nothing to plot: the run has no decode steps with a split count",
            hint="the trace needs ranges that name decode steps, as attnprof run writes them",
        )
    kinds = layer_kinds(splits)
    panels = [("", rows)]
    if 1 < len(kinds) <= MOST_CHARTS:
        of_kind = zip(kind_titles(kinds), kinds, strict=True)
        panels = [(name, [row for row in kind.rows if _drawable(row)]) for name, kind in of_kind]
    figure = Figure(figsize=(9, 2.2 + 2 * len(panels)), layout="constrained", dpi=150)
    all_axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    numbers = colour_numbers(row.kernel for row in rows)
    labelled: set[str] = set()
    for axes, (name, mine) in zip(all_axes, panels, strict=True):
        _draw_rows(axes, mine, numbers, labelled, kinds if len(panels) == 1 else ())
        axes.set_title(name, fontsize=9, loc="left")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    seen = {row.observed for row in rows}
    mixed = "observed solid, predicted dashed"
    what = mixed if len(seen) == 2 else "observed" if seen.pop() else "predicted, not observed"
    figure.suptitle(f"{title}: num_splits per decode step ({what})".removeprefix(": "), fontsize=10)
    all_axes[-1].set_xlabel(
        "decode step (number); small figures: KV length in tokens where a row begins"
        + (", and which layers" if len(kinds) > 1 and len(panels) == 1 else "")
    )
    label_axis = all_axes[0].set_ylabel if len(panels) == 1 else figure.supylabel
    label_axis("num_splits (thread blocks along the keys)", fontsize=10)
    for axis in (all_axes[0].xaxis, all_axes[0].yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    top = max(row.num_splits or 1 for row in rows)
    all_axes[0].set_ylim(0, top + max(1.2, top * 0.25))
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _drawable(row: SplitRow) -> bool:
    return row.phase == "decode" and bool(row.steps) and row.num_splits is not None


def _draw_rows(
    axes: Axes,
    rows: Sequence[SplitRow],
    numbers: Mapping[str, int],
    labelled: set[str],
    kinds: Sequence[LayerKind],
) -> None:
    """The rows as lines, each kernel in the legend once, named by its kind where there are ``kinds``."""
    for row in rows:
        first, last = min(row.steps), max(row.steps)
        axes.plot(
            [first, last + 1],
            [row.num_splits or 0] * 2,
            color=COLOURS[numbers[row.kernel]],
            linewidth=3,
            solid_capstyle="butt",
            linestyle="-" if row.observed else (0, (4, 1.2)),
            label=None if row.kernel in labelled else row.kernel,
        )
        labelled.add(row.kernel)
        if row.seqlen_k and len(rows) <= _ANNOTATED_ROWS:
            axes.annotate(
                " ".join(filter(None, (str(row.seqlen_k[0].low), row_label(row.slots, kinds)))),
                (first, row.num_splits or 0),
                xytext=(2, 5),
                textcoords="offset points",
                fontsize=8,
            )


def save_figure(figure: Figure, path: Path, inputs: Iterable[Path] = ()) -> None:
    """Writes the figure in the format its name says, over none of ``inputs``.

    Raises UsageError for other formats and where that is not possible.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(f"{path} names no figure format", hint=f"end the name in {', '.join(_FORMATS)}")
    with writing_file(path, force=True, inputs=inputs) as out:
        figure.savefig(out, format=path.suffix.lower().removeprefix("."))
