"""A serving engine's steps in words and in a table: when it is full, and what each batch size costs."""

from __future__ import annotations

from attnprof.analysis.steady_state import SteadyState
from attnprof.report.tables import Column, Table, duration, percent


def steady_sentence(steady: SteadyState | None) -> str:
    """When the engine is full; "" where it does not tell."""
    if steady is None:
        return ""
    count = steady.last - steady.first + 1
    where = f"steps {steady.first} to {steady.last}" if count > 1 else f"step {steady.first}"
    share = "" if steady.wall_share is None else f", {percent(steady.wall_share)} of the steps' wall time"
    return f"the engine is full in {where} ({count} of {steady.steps}): up to {steady.most} requests{share}"


def serving_table(steady: SteadyState | None) -> Table:
    """Per phase and number of requests: steps, times, kernel and splits."""
    columns = (
        Column("phase"), Column("requests", right=True), Column("steps", right=True),
        Column("full", "of them full", right=True), Column("wall_ns", "wall/step", right=True),
        Column("attention_ns", "attention/step", right=True), Column("num_splits", "splits", right=True),
        Column("kernel"), Column("source"),
    )  # fmt: skip
    rows, shown = [], []
    for size in steady.sizes if steady else ():
        splits = "–".join(map(str, dict.fromkeys(size.num_splits)))
        kernel = ", ".join(name for name in size.kernels if name != "none")
        source = ("observed" if size.observed else "predicted") if kernel else ""
        counts = (size.requests, size.steps, size.full, size.wall_ns, size.attention_ns)
        rows.append((size.phase, *counts, splits, kernel, source))
        times = [duration(size.wall_ns), duration(size.attention_ns)]
        shown.append(
            [
                size.phase,
                str(size.requests),
                f"{size.steps:,}",
                f"{size.full:,}",
                *times,
                splits,
                kernel,
                source,
            ]
        )
    return Table("serving", columns, rows, shown, "Steps by the requests they hold (medians)")
