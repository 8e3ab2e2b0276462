"""A job of many ranks in tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnprof.dispatch.names.kernel_names import short_name
from attnprof.report.console import make_console
from attnprof.report.numbers import spans
from attnprof.report.run_tables import splits_table
from attnprof.report.tables import Column, Table, duration, percent
from attnprof.report.text import labelled, print_titled
from attnprof.safety.next_command import next_command

if TYPE_CHECKING:
    from attnprof.analysis.job import Job, Straggler
    from attnprof.analysis.ranks import RankSummary
    from attnprof.analysis.splits import SplitRow

_KERNELS_SHOWN = 12
_RANKS_SHOWN = 40
_LABEL = 9


def job_tables(job: Job) -> dict[str, Table]:
    """Per rank, and merged."""
    return {
        "ranks": ranks_table(job),
        "phases": phases_table(job),
        "splits": splits_table(job.usual),
        "kernels": merged_table(job),
        "stragglers": stragglers_table(job),
        "dispatch": dispatch_table(job),
    }


def ranks_table(job: Job) -> Table:
    """What each rank did."""
    columns = (
        Column("rank"), Column("gpu", "GPU"), Column("steps", right=True),
        Column("wall_ns", "wall", right=True), Column("kernels", right=True),
        Column("gpu_ns", "GPU time", right=True), Column("communication_ns", "comm.", right=True),
        Column("attention_ns", "attention", right=True), Column("attention_share", "of GPU", right=True),
        Column("splits"), Column("check"), Column("source"), Column("note"),
    )  # fmt: skip
    rows, shown = [], []
    gpus = {rank.gpu for rank in job.ranks if not rank.error}
    for rank in job.ranks:
        share = rank.attention_ns / rank.gpu_ns if rank.gpu_ns and not rank.graph_ns else None
        check = _check(rank)
        times = (rank.gpu_ns, rank.communication_ns, rank.attention_ns)
        counts = (len(rank.step_walls), rank.wall_ns, rank.kernels)
        note = rank.error or rank.cannot_tell
        rows.append(
            (rank.label, rank.gpu, *counts, *times, share, _splits(rank.splits), check, rank.source, note)
        )
        cells = [duration(rank.gpu_ns), duration(rank.communication_ns or None), duration(rank.attention_ns)]
        steps = f"{len(rank.step_walls):,}" if rank.step_walls else ""
        known = [steps, duration(rank.wall_ns or None), f"{rank.kernels:,}", *cells, percent(share)]
        label = rank.label if len(rank.label) <= _LABEL else f"{rank.label[: _LABEL - 1]}…"
        if rank.error:
            known = [""] * len(known)
        gpu = "" if len(gpus) == 1 else rank.gpu
        shown.append([label, gpu, *known, _splits(rank.splits), check, "", ""])
    title = f"{len(job.ranks)} ranks"
    if len(gpus) == 1 and any(gpus):
        title += f", each on {next(iter(gpus))}"
    return Table("ranks", columns, rows, shown, title)


def _check(rank: RankSummary) -> str:
    if rank.error:
        return "unreadable"
    return "FAILED" if rank.failures else "cannot tell" if rank.cannot_tell else "OK"


def _splits(rows: Sequence[SplitRow]) -> str:
    """The split counts of a rank's decode, else of all it ran."""
    decode = [row for row in rows if row.phase == "decode"] or list(rows)
    return spans(sorted({row.num_splits for row in decode if row.num_splits is not None}))


def phases_table(job: Job) -> Table:
    """Phases of all ranks: sums of GPU time, and how long the median and the slowest rank took."""
    columns = (
        Column("phase"), Column("ranks", right=True), Column("steps", right=True),
        Column("gpu_ns", "GPU time", right=True), Column("attention_ns", "attention", right=True),
        Column("attention_share", "of GPU", right=True),
        Column("wall_median_ns", "median wall", right=True), Column("slowest"),
        Column("slowest_wall_ns", "its wall", right=True),
    )  # fmt: skip
    rows, shown = [], []
    for p in job.phases:
        share = p.attention_ns / p.gpu_ns if p.gpu_ns and not p.graph_ns else None
        walls = (p.wall_median_ns, p.slowest, p.slowest_wall_ns)
        rows.append((p.phase, p.ranks, p.steps, p.gpu_ns, p.attention_ns, share, *walls))
        times = [duration(p.gpu_ns), duration(p.attention_ns), percent(share), duration(p.wall_median_ns)]
        steps = f"{p.steps:,}" if p.steps else ""
        shown.append([p.phase, str(p.ranks), steps, *times, p.slowest, duration(p.slowest_wall_ns)])
    return Table("phases", columns, rows, shown, "Phases of all ranks")


def merged_table(job: Job) -> Table:
    """Kernels of all ranks by name."""
    columns = (
        Column("name", "kernel"), Column("ranks", right=True), Column("instances", "runs", right=True),
        Column("total_ns", "total", right=True), Column("mean_ns", "mean", right=True),
        Column("min_ns", "min", right=True), Column("max_ns", "max", right=True),
        Column("slowest", "slowest rank"), Column("slowest_mean_ns", "its mean", right=True),
    )  # fmt: skip
    rows, shown = [], []
    for k in job.kernels:
        times = (k.total_ns, k.mean_ns, k.min_ns, k.max_ns)
        rows.append((k.name, k.ranks, k.instances, *times, k.slowest, k.slowest_mean_ns))
        uneven = k.ranks > 1 and k.slowest_mean_ns > 1.02 * k.mean_ns
        slowest = [k.slowest, duration(k.slowest_mean_ns)] if uneven else ["", ""]
        name = short_name(k.name)[:30]
        shown.append([name, str(k.ranks), f"{k.instances:,}", *map(duration, times), *slowest])
    return Table("kernels", columns, rows, shown, "Kernels of all ranks")


def stragglers_table(job: Job) -> Table:
    """The slow ranks."""
    names = ("rank", "over_median", "worst_step", "worst_step_wall_ns", "median_wall_ns")
    rows = [(s.label, s.over, *(s.worst_step or (None, None, None))) for s in job.stragglers]
    return Table("stragglers", [Column(name) for name in names], rows, title="Stragglers")


def dispatch_table(job: Job) -> Table:
    """The ranks whose dispatch differs."""
    names = ("rank", "phase", "step", "layers", "kernel", "num_splits", "usual_kernel", "usual_num_splits")
    rows = [(d.label, d.phase, d.step, spans(d.layers), *d.ran, *d.usual) for d in job.differences]
    return Table("dispatch", [Column(name) for name in names], rows, title="Ranks whose dispatch differs")


def job_sentences(job: Job) -> list[tuple[str, str]]:
    """(label, sentence): what stands out, or that nothing does."""
    said = [("slow", _slow(straggler)) for straggler in job.stragglers]
    timed = sum(1 for rank in job.ranks if rank.kernels)
    if not said:
        slow = "no rank's kernels take 5 % longer than the median rank's"
        alone = "fewer than two ranks hold kernels: nobody to compare with"
        said.append(("slow", slow if timed > 1 else alone))
    groups: dict[str, list[str]] = {}
    for d in job.differences:
        where = "" if d.step is None else f" from {d.phase} step {d.step}"
        layers = f" in layers {spans(d.layers)}" if d.layers else ""
        kernel = "" if d.ran[0] == d.usual[0] else f" of {short_name(d.ran[0])}"
        usual = "" if d.ran[0] == d.usual[0] else f" of {short_name(d.usual[0])}"
        text = f"{_count(d.ran[1])}{kernel}{where}{layers}; most ranks run {_count(d.usual[1])}{usual}"
        groups.setdefault(text, []).append(d.label)
    for text, who in groups.items():
        said.append(("dispatch", f"{_ranks(who)} {text}"))
    said += [("dispatch", sentence) for sentence in _alike(job, bool(groups))]
    return said + [("unread", f"rank {rank.label}: {rank.error}") for rank in job.unreadable]


def _alike(job: Job, differ: bool) -> list[str]:
    """How far the ranks are known to dispatch alike; nothing where some differ and all attend."""
    read = [rank for rank in job.ranks if not rank.error]
    attending = [rank for rank in read if rank.splits]
    if not attending:
        return ["no rank has an attention call: nothing to compare"]
    without = [rank.label for rank in read if not rank.splits]
    said = [f"{_ranks(without)} no attention call, the others do"] if without else []
    if differ:
        return said
    if len(attending) < 2:
        return [*said, "one rank alone has attention calls: nobody to compare with"]
    who = "all ranks" if len(attending) == len(job.ranks) else f"the {len(attending)} ranks that have calls"
    what = "kernel by kernel"
    if any(row.num_splits is None and "ombine" in row.kernel for rank in attending for row in rank.splits):
        what += "; how often some calls split is not told"
    else:
        what += " and split by split"
    shared = "" if job.same_throughout or without else ", in the steps and layers that they share"
    return [*said, f"the same on {who}{shared}, {what}"]


def _slow(straggler: Straggler) -> str:
    text = f"rank {straggler.label}: its kernels take {straggler.over:.2f} times the median rank's"
    if straggler.worst_step is None:
        return text
    step, wall, usual = straggler.worst_step
    return f"{text}; furthest behind in step {step}, {duration(wall)} against {duration(usual)}"


def _ranks(labels: Sequence[str]) -> str:
    if all(label.isdecimal() for label in labels):
        numbers = spans(sorted(map(int, labels)))
        return f"rank {numbers} runs" if len(labels) == 1 else f"ranks {numbers} run"
    return f"{', '.join(labels)} run"


def _count(num_splits: int) -> str:
    return "kernels" if num_splits < 0 else "1 split" if num_splits == 1 else f"{num_splits} splits"


def print_job(job: Job, folder: str) -> None:
    """The job for a terminal."""
    console = make_console()
    tables = job_tables(job)
    for name, most in (
        ("ranks", _RANKS_SHOWN),
        ("phases", None),
        ("splits", None),
        ("kernels", _KERNELS_SHOWN),
    ):
        table = tables[name]
        if not table.rows:
            continue
        more = 0 if most is None else max(0, len(table.rows) - most)
        shown = table if most is None else table.first(most)
        if name == "splits":
            shown = Table(table.name, table.columns, table.rows, table.shown, f"{table.title}, most ranks")
        print_titled(shown, console)
        if more:
            console.out(f"and {more} more: --table {name} --format csv")
        console.print()
    for label, sentence in job_sentences(job):
        labelled(console, label, sentence)
    console.print()
    console.out(f"next       {next_command('report', folder, '--format', 'csv')}")
