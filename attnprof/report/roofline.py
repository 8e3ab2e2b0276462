"""What attention reads and computes a second, as a table, sentences and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attnprof.analysis.roofline import RooflineRow
from attnprof.report.layer_words import kind_labels, kind_titles
from attnprof.report.tables import Column, Table, duration, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnprof.analysis.layer_kinds import LayerKind
    from attnprof.analysis.measured_peaks import MeasuredPeaks
    from attnprof.model import Gpu

_TITLE = "Reading and computing (observed; of one recorded call: K and V, each key once, and time)"


def roofline_table(rows: Sequence[RooflineRow], kinds: Sequence[LayerKind]) -> Table:
    """A row per phase, kind of layer and split count."""
    columns = (
        Column("phase"), Column("layers"), Column("num_splits", "splits", right=True),
        Column("calls", right=True, use=0), Column("kv_bytes", "K and V", right=True),
        Column("flops", "FLOP", right=True, use=0), Column("ns", "takes", right=True, use=0),
        Column("gb_s", "GB/s", right=True), Column("of_peak", "of peak", right=True),
        Column("tflop_s", "TFLOP/s", right=True), Column("of_flop_peak", "of FLOP peak", right=True),
        Column("sms", "SMs at work", right=True, use=2),
        Column("intensity", "per byte", right=True, use=0), Column("lower_bound"), Column("in_l2"),
    )  # fmt: skip
    titles, labels = kind_titles(kinds), kind_labels(kinds)
    values, shown = [], []
    for row in rows:
        each = [round(value / row.calls) for value in (row.kv_bytes, row.flops, row.gpu_ns)]
        least = "≥ " if row.lower_bound else ""
        layers = titles[row.kind] if row.kind >= 0 else ""
        of_peaks = (row.of_peak, row.of_flop_peak)
        shares = [None if share is None else round(share, 5) for share in of_peaks]
        rates = (round(row.gb_s, 2), shares[0], round(row.tflop_s, 3), shares[1])
        sms = f"{row.sms_busy} of {row.num_sms}" if row.sms_busy else ""
        values.append(
            (row.phase, layers, row.num_splits, row.calls, *each, *rates, row.sms_busy,
             round(row.intensity, 2), row.lower_bound, row.in_l2)
        )  # fmt: skip
        shown.append([
            "" if row.phase == "other" else row.phase, labels[row.kind] if row.kind >= 0 else "",
            "" if row.num_splits is None else str(row.num_splits), f"{row.calls:,}",
            least + _scaled(each[0], "B"), _scaled(each[1], ""), duration(each[2]),
            f"{least}{row.gb_s:,.3g}" if row.gb_s < 1000 else f"{least}{row.gb_s:,.0f}",
            least + percent(row.of_peak) if row.of_peak is not None else "",
            f"{row.tflop_s:,.3g}", percent(row.of_flop_peak), sms, f"{row.intensity:,.3g}", "", "",
        ])  # fmt: skip
    return Table("roofline", columns, values, shown, _TITLE)


def _splits(count: int | None) -> str:
    return "" if count is None else f"{count} split{'' if count == 1 else 's'}"


def _scaled(value: float, unit: str) -> str:
    """A size in the decimal unit that suits it."""
    for limit, prefix in ((1e3, ""), (1e6, "k"), (1e9, "M"), (1e12, "G")):
        if value < limit * 0.9995:
            return f"{value / (limit / 1e3):.3g} {prefix}{unit}".rstrip()
    return f"{value / 1e12:.3g} T{unit}"


def reading_sentence(rows: Sequence[RooflineRow], kinds: Sequence[LayerKind] = ()) -> str:
    """What the decode calls that took most time read, of the peak; "" where no call tells."""
    row = _longest(row for row in rows if row.phase == "decode" and row.of_peak is not None)
    if row is None:
        return ""
    least = "at least " if row.lower_bound else ""
    text = f"{_whose(row, kinds)} reads K and V at {least}{percent(row.of_peak)} of the memory's peak"
    text += f" ({row.gb_s:,.0f} of {row.peak_gb_s:,} GB/s)"
    if row.sms_busy:
        text += f"; at most {row.sms_busy} of {row.num_sms} SMs work"
    return text + ("; so little fits the L2 cache and may come from there." if row.in_l2 else ".")


def computing_sentence(rows: Sequence[RooflineRow], kinds: Sequence[LayerKind] = ()) -> str:
    """What the other calls that took most time compute, of the matrix units' peak; "" where no call tells."""
    row = _longest(row for row in rows if row.phase != "decode" and row.of_flop_peak is not None)
    if row is None:
        return ""
    peak = f"{row.peak_tflop_s:,.5g} TFLOP/s, dense"
    share = percent(row.of_flop_peak)
    return (
        f"{_whose(row, kinds)} computes at {share} of the matrix units' peak ({row.tflop_s:,.3g} of {peak})."
    )


def measured_sentences(
    rows: Sequence[RooflineRow], kinds: Sequence[LayerKind], peaks: MeasuredPeaks | None, gpu: Gpu | None
) -> str:
    """The same against what such a card was seen to reach; "" without ``peaks``."""
    if peaks is None:
        return ""
    if not peaks.is_of(gpu):
        own = "none that is told" if gpu is None else f"{gpu.name}, {gpu.num_sms} SMs"
        return (
            f"{peaks.source} is of {peaks.gpu.name}, {peaks.gpu.num_sms} SMs; this run's GPU is {own}: "
            "they are not compared."
        )
    said, there = [], f"on {peaks.gpu.name}"
    row = _longest(row for row in rows if row.phase == "decode")
    if row is not None and peaks.copy_gb_s:
        share = ("at least " if row.lower_bound else "") + percent(row.gb_s / peaks.copy_gb_s)
        said.append(
            f"{_whose(row, kinds)} reads K and V at {share} of what a copy reached {there} "
            f"({peaks.copy_gb_s:,.0f} GB/s, {peaks.date})."
        )
    row = _longest(row for row in rows if row.phase != "decode" and row.dtype in peaks.matmul_tflop_s)
    if row is not None and row.dtype:
        reached = peaks.matmul_tflop_s[row.dtype]
        said.append(
            f"{_whose(row, kinds)} computes at {percent(row.tflop_s / reached)} of what a {row.dtype} matrix "
            f"product reached {there} ({reached:,.0f} TFLOP/s, {peaks.date})."
        )
    return " ".join(said) or "No call that was recorded and observed is of a kind that was measured."


def _longest(rows: Iterable[RooflineRow]) -> RooflineRow | None:
    """The row that took most GPU time."""
    return max(rows, key=lambda row: row.gpu_ns, default=None)


def _whose(row: RooflineRow, kinds: Sequence[LayerKind]) -> str:
    """Whose attention a row is of."""
    text = "Attention" if row.phase == "other" else f"{row.phase.capitalize()}'s attention"
    text += f" of the {kind_titles(kinds)[row.kind]}" if row.kind >= 0 else ""
    return text + (f" in {_splits(row.num_splits)}" if row.num_splits is not None else "")


def plot_roofline(rows: Sequence[RooflineRow], kinds: Sequence[LayerKind], *, title: str = "") -> Figure:
    """TFLOP/s over FLOP per byte, under the lines of the card's bandwidth and of what it computes at most.

    Raises UsageError without rows.
    """
    from matplotlib.figure import Figure

    from attnprof.errors import UsageError
    from attnprof.report.colours import COLOURS

    if not rows:
        raise UsageError(
            "there is nothing to plot: no attention call is both recorded and observed",
            hint="record the run on a GPU with attnprof run, or a torch trace with record_shapes=True",
        )
    figure = Figure(figsize=(9, 4.6), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    titles = kind_titles(kinds)
    for number, row in enumerate(rows):
        words = ["" if row.phase == "other" else row.phase, titles[row.kind] if row.kind >= 0 else ""]
        words.append(_splits(row.num_splits))
        axes.plot(
            row.intensity, row.tflop_s, "osD^v<>"[number % 7], color=COLOURS[number % len(COLOURS)],
            label=", ".join(filter(None, words)) or "attention", linestyle="none",
        )  # fmt: skip
    low = min(row.intensity for row in rows) / 4
    high = max(row.intensity for row in rows) * 4
    peak, flop_peaks = rows[0].peak_gb_s, sorted({row.peak_tflop_s for row in rows if row.peak_tflop_s})
    if peak:
        high = max([high, *(4e3 * one / peak for one in flop_peaks)])  # where the lines meet is shown
        ends = [low, min(high, 1e3 * flop_peaks[-1] / peak) if flop_peaks else high]
        axes.plot(ends, [one * peak / 1e3 for one in ends], color="#888888", label=f"memory: {peak:,} GB/s")
    for flop_peak in flop_peaks:
        begins = max(low, 1e3 * flop_peak / peak) if peak else low
        label = f"matrix units, dense: {flop_peak:,.5g} TFLOP/s"
        axes.plot([begins, high], [flop_peak] * 2, color="#888888", linestyle="--", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte of K and V (FLOP/byte; of prefill an upper bound)")
    axes.set_ylabel("operations a second (TFLOP/s)")
    axes.grid(color="#dddddd", linewidth=0.6, which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(f"{title}: attention against the card's peaks (observed)".removeprefix(": "), fontsize=10)
    return figure
