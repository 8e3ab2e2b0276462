"""The tables of a run: split timeline, kernels, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.requests import split_range
from attnprof.report.layer_words import row_label
from attnprof.report.numbers import span, spans
from attnprof.report.tables import Column, Table, duration, percent

if TYPE_CHECKING:
    from attnprof.analysis.kernels import KernelTotal
    from attnprof.analysis.layer_kinds import LayerKind
    from attnprof.analysis.splits import SplitRow
    from attnprof.check.check_run import CheckResult

_LENGTHS_SHOWN = 3
_LENGTHS_WIDTH = 18  # characters
_COMMAND = 40  # characters of a process's command line
_SOURCES = {True: "observed", False: "predicted"}


def splits_table(splits: Sequence[SplitRow], kinds: Sequence[LayerKind] = ()) -> Table:
    """The split timeline; the layers of a row by their kind, where it is of whole ``kinds``."""
    columns = (
        Column("phase"), Column("layers"), Column("steps"), Column("seqlen_k", "KV length"),
        Column("num_splits", "splits", right=True), Column("kernel", use=2),
        Column("calls", right=True, use=0), Column("gpu_ns", "GPU time", right=True), Column("source"),
        Column("processes", "process", use=2), Column("kind"),
    )  # fmt: skip
    same_processes = len({row.processes for row in splits}) == 1
    sources = {row.observed for row in splits}
    one_source = len(sources) == 1
    same_layers = len({row.layers for row in splits}) == 1
    rows, shown = [], []
    for row in splits:
        steps = span(*row.steps) if row.steps else ""
        source = _SOURCES[row.observed]
        every = ", ".join(map(str, row.seqlen_k))
        layers = spans(row.layers)
        kind = row_label(row.slots, kinds)
        rows.append(
            (row.phase, layers, steps, every, row.num_splits, row.kernel, row.calls, row.gpu_ns, source,
             spans(row.processes), kind)
        )  # fmt: skip
        shown.append([
            "" if row.phase == "other" else row.phase,
            kind or ("" if same_layers else layers),
            steps,
            lengths(row),
            split_range(row.of_requests) or ("" if row.num_splits is None else str(row.num_splits)),
            row.kernel.replace(" + flash_fwd_splitkv_combine_kernel", " + combine"),
            f"{row.calls:,}",
            duration(row.gpu_ns),
            "" if one_source else source,
            "" if same_processes else spans(row.processes),
            "",
        ])  # fmt: skip
    title = f"Split timeline ({_SOURCES[sources.pop()]})" if one_source else "Split timeline"
    return Table("splits", columns, rows, shown, title)


def lengths(row: SplitRow) -> str:
    """The KV lengths of a row, the first few of many."""
    shown = [str(interval) for interval in row.seqlen_k[:_LENGTHS_SHOWN]]
    while len(shown) > 1 and len(", ".join(shown)) > _LENGTHS_WIDTH:
        shown.pop()
    return ", ".join(shown) + (", …" if len(shown) < len(row.seqlen_k) else "")


def processes_table(processes: Sequence[Mapping[str, Any]]) -> Table:
    """The processes of a run that has several, as run.json lists them, in the order of their numbers."""
    columns = (
        Column("process", right=True), Column("label", "rank or name"), Column("pid", right=True),
        Column("prefill", right=True), Column("decode", right=True), Column("calls", right=True),
        Column("command"), Column("rank"), Column("python"), Column("first_seq"),
    )  # fmt: skip
    rows = [tuple(one.get(column.key) for column in columns) for one in processes]
    if len(rows) < 2:
        rows = []
    shown = [
        [*("" if value is None else str(value) for value in row[:3]),
         *(f"{count:,}" if count else "" for count in row[3:6]), str(row[6] or "")[:_COMMAND], "", "", ""]
        for row in rows
    ]  # fmt: skip
    return Table("processes", columns, rows, shown, f"{len(rows)} processes")


def attention_table(totals: Sequence[KernelTotal]) -> Table:
    """The attention kernels by name, with the library each belongs to."""
    columns = (
        Column("kernel"), Column("library"), Column("instances", right=True),
        Column("total_ns", "total", right=True), Column("mean_ns", "mean", right=True),
        Column("share", "of all GPU time", right=True), Column("family"),
    )  # fmt: skip
    mine = [row for row in totals if row.family]
    rows = [(r.short, r.library, r.instances, r.total_ns, r.mean_ns, r.share, r.family) for r in mine]
    shown = [
        [
            r.short,
            r.library,
            f"{r.instances:,}",
            duration(r.total_ns),
            duration(r.mean_ns),
            percent(r.share),
            "",
        ]
        for r in mine
    ]
    return Table("attention", columns, rows, shown, "Attention kernels")


def kernels_table(totals: Sequence[KernelTotal]) -> Table:
    """All kernels by name, with the columns and the rounding of nsys's cuda_gpu_kern_sum."""
    columns = (
        Column("Time (%)", right=True), Column("Total Time (ns)", right=True),
        Column("Instances", right=True), Column("Avg (ns)", right=True), Column("Med (ns)", right=True),
        Column("Min (ns)", right=True), Column("Max (ns)", right=True), Column("StdDev (ns)", right=True),
        Column("Name"),
    )  # fmt: skip
    rows = []
    for row in totals:
        centre = (round(row.mean_ns, 1), round(row.median_ns, 1))
        spread = (row.min_ns, row.max_ns, round(row.std_ns, 1))
        rows.append((round(row.share * 100, 1), row.total_ns, row.instances, *centre, *spread, row.name))
    return Table("kernels", columns, rows)


def verdicts_table(result: CheckResult) -> Table:
    """How many calls got each verdict."""
    columns = (Column("verdict"), Column("calls", right=True), Column("meaning", wraps=True))
    counts = sorted(result.counts.items(), key=lambda item: (not item[0].failed, -item[1]))
    proof = ", ".join(f"{number:,} {strength}" for strength, number in sorted(result.strengths.items()))
    rows = [
        (verdict.value, count, verdict.meaning + (f": {proof}" if proof and verdict == "explained" else ""))
        for verdict, count in counts
    ]
    return Table("verdicts", columns, rows, title="Check")
