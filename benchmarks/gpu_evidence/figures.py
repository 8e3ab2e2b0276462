"""The figure of what splitting costs and saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_splitting(rows: Sequence[dict[str, Any]], gpu: str, path: Path) -> None:
    """Time of the automatic choice, of one split and of the best over the KV length, a panel per batch."""
    from matplotlib.figure import Figure

    batches = sorted({row["batch"] for row in rows})
    figure = Figure(figsize=(4.2 * len(batches), 3.6), layout="constrained")
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        mine = [row for row in rows if row["batch"] == batch]
        lengths = [row["seqlen_k"] for row in mine]
        one = [row["us_by_num_splits"][1] for row in mine]
        best = [min(row["us_by_num_splits"].values()) for row in mine]
        axes.plot(lengths, one, color="0.6", marker=".", label="one split")
        axes.plot(lengths, [row["automatic_us"] for row in mine], marker="o", label="the library's choice")
        axes.plot(lengths, best, linestyle="--", marker="x", label="best split count tried")
        for row in mine:
            if row["left_on_the_table"] > 0.10:
                said = f"{row['predicted_num_splits']}→{row['best_num_splits']}"
                place = (row["seqlen_k"], row["automatic_us"])
                axes.annotate(said, place, textcoords="offset points", xytext=(0, 7), ha="center", fontsize=7)
        axes.set(xscale="log", yscale="log", title=f"batch {batch}", xlabel="KV length (tokens)")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("GPU time of one decode call (µs)")
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(f"{gpu}: 28/4 heads x 128, bf16; a→b: chosen and best num_splits, where over 10 % apart")
    figure.savefig(path, dpi=120)
