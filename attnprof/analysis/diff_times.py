"""Times of two runs over the steps that both have: per phase, module kind, kernel and layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from attnprof.analysis.phases import (
    FIRST_DECODE,
    PART_NAMES,
    STEADY_DECODE,
    Steps,
    attention_mask,
    build_steps,
)
from attnprof.analysis.work_kinds import EVIDENCE, KIND_SHOWN, SHOWN_KINDS, kernel_work
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.trace.tables import Bool, Int64
from attnprof.trace.timeline import Timeline
from attnprof.trace.whole_graphs import are_whole_graphs

_PHASE_OF_PART = np.array([name.rpartition(" ")[2] for name in PART_NAMES[:-1]])


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of both runs. ``section``: "total", "phase", "module", "kernel" or "layer"; ``name`` which.

    ``unit`` is "ns", "count" or "share" (0 to 1). A value is None where its run cannot tell.
    """

    section: str
    name: str
    metric: str
    unit: str
    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        """B against A: relative (0.1 is 10 % more), of shares the difference; None if unknown."""
        if self.a is None or self.b is None:
            return None
        if self.unit == "share":
            return self.b - self.a
        return self.b / self.a - 1 if self.a else (0.0 if not self.b else None)


@dataclass(frozen=True, slots=True)
class TimeDiff:
    """``steps`` is how many steps both runs have; 0 where not both name steps: then all kernels count.

    Pairs are of A and B. ``num_kernels`` counts all kernels of the trace. ``gpu_ns`` and ``wall_ns`` are over
    the shared steps, None where a run has no kernel there, or no step. ``told_by``: what tells the modules of
    each run's kernels, of EVIDENCE, the most GPU time first.
    """

    steps: int
    num_kernels: tuple[int, int]
    gpu_ns: tuple[int, int] | None
    wall_ns: tuple[int, int] | None
    measures: tuple[Measure, ...]
    told_by: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


def compare_times(a: Timeline, b: Timeline, phase: str | None = None) -> TimeDiff:
    """The times of both runs' shared steps, or of all kernels where not both runs name steps."""
    sides = [_Side(timeline, build_steps(timeline)) for timeline in (a, b)]
    if all(len(side.steps) for side in sides):
        keys = [_keys(side.steps, phase) for side in sides]
        shared = sorted(keys[0].keys() & keys[1].keys())
        for side, known in zip(sides, keys, strict=True):
            side.choose(np.array([known[key] for key in shared], np.int64))
        count = len(shared)
    else:
        count = 0
        for side in sides:
            side.choose_all(phase)
    has_kernels = all(side.kernels.any() for side in sides)
    gpu = tuple(int(side.duration[side.kernels].sum()) for side in sides) if has_kernels else None
    wall = tuple(int(side.steps.wall[side.rows].sum()) for side in sides) if count else None
    measures = [*_total(gpu, wall, sides), *_phases(sides, has_kernels)]
    told_by: tuple[tuple[str, ...], ...] = ((), ())
    if has_kernels:
        modules, told_by = _modules(sides)
        measures += [*modules, *_kernels(sides), *_layers(sides, count)]
    num_kernels = tuple(int(np.count_nonzero(~side.graphs)) for side in sides)
    return TimeDiff(count, num_kernels, gpu, wall, tuple(measures), told_by)  # type: ignore[arg-type]


class _Side:
    """One run: the steps chosen (``rows``) and the kernels in them (``kernels``, a mask)."""

    def __init__(self, timeline: Timeline, steps: Steps) -> None:
        self.timeline, self.steps = timeline, steps
        kernels = timeline.trace.kernels
        self.duration: Int64 = kernels.end - kernels.start
        self.attention: Bool = attention_mask(timeline)
        self.graphs: Bool = are_whole_graphs(timeline.trace)
        self.rows: Int64 = np.zeros(0, np.int64)
        self.kernels: Bool = np.zeros(len(kernels), np.bool_)

    def choose(self, rows: Int64) -> None:
        chosen = np.zeros(len(self.steps) + 1, np.bool_)
        chosen[rows] = True
        self.rows, self.kernels = rows, chosen[self.steps.of_kernel]

    def choose_all(self, phase: str | None) -> None:
        self.kernels[:] = phase is None

    def of_part(self, part: int) -> tuple[Int64, Bool]:
        """The chosen steps of one part, and their kernels."""
        rows = self.rows[self.steps.part[self.rows] == part]
        chosen = np.zeros(len(self.steps) + 1, np.bool_)
        chosen[rows] = True
        return rows, chosen[self.steps.of_kernel]


def _keys(steps: Steps, phase: str | None) -> dict[tuple[str, int, int], int]:
    """(phase, number, nth of that number) to row: two ranks both have a step 5."""
    count: Counter[tuple[str, int]] = Counter()
    keys = {}
    parts = _PHASE_OF_PART[steps.part].tolist()
    for row, (name, number) in enumerate(zip(parts, steps.number.tolist(), strict=True)):
        if phase in (None, name):
            keys[name, number, count[name, number]] = row
            count[name, number] += 1
    return keys


def _total(gpu: tuple[int, ...] | None, wall: tuple[int, ...] | None, sides: list[_Side]) -> list[Measure]:
    found = []
    for metric, values in (("GPU time", gpu), ("wall time", wall)):
        if values is not None:
            found.append(Measure("total", "all", metric, "ns", *values))
    if gpu is not None:
        launches = (int((side.kernels & ~side.graphs).sum()) for side in sides)
        found.append(Measure("total", "all", "kernel launches", "count", *launches))
    return found


def _phases(sides: list[_Side], has_kernels: bool) -> list[Measure]:
    """Per phase: wall time of a step, then what its kernels took."""
    found = []
    for part, name in enumerate(PART_NAMES[:-1]):
        chosen = [side.of_part(part) for side in sides]
        if not all(len(rows) for rows, _ in chosen):
            continue
        each = "token" if part in (FIRST_DECODE, STEADY_DECODE) else "step"
        both = list(zip(sides, chosen, strict=True))
        walls = [float(np.median(side.steps.wall[rows])) for side, (rows, _) in both]
        found.append(Measure("phase", name, f"wall time per {each}, median", "ns", *walls))
        if not has_kernels:
            continue
        means = [_means(side, rows, mask) for side, (rows, mask) in both]
        for metric, unit in (
            (f"GPU time per {each}", "ns"),
            (f"attention per {each}", "ns"),
            (f"kernels per {each}", "count"),
            ("attention, of GPU time", "share"),
            ("GPU idle, of wall time", "share"),
            ("waiting for launch, of wall time", "share"),
        ):
            values = [mean[metric.removesuffix(f" per {each}")] for mean in means]
            found.append(Measure("phase", name, metric, unit, *values))
    return found


def _means(side: _Side, rows: Int64, mask: Bool) -> dict[str, float | None]:
    steps = side.steps
    gpu, attention = (float(side.duration[m].sum()) for m in (mask, mask & side.attention))
    hidden = bool((mask & side.graphs).any())
    wall = float((steps.wall[rows] * steps.devices[rows]).sum())
    idle, waiting = (
        float(values[rows].sum()) / wall if wall and np.all(values[rows] >= 0) else None
        for values in (steps.idle, steps.waiting)
    )
    return {
        "GPU time": gpu / len(rows),
        "attention": None if hidden else attention / len(rows),
        "kernels": float((mask & ~side.graphs).sum()) / len(rows),
        "attention, of GPU time": attention / gpu if gpu and not hidden else None,
        "GPU idle, of wall time": idle,
        "waiting for launch, of wall time": waiting,
    }


def _modules(sides: list[_Side]) -> tuple[list[Measure], tuple[tuple[str, ...], ...]]:
    """(GPU time and launches per module kind, the largest difference first; what tells each side's)."""
    totals, told_by = [], []
    for side in sides:
        work, mine = kernel_work(side.timeline), side.kernels
        kind, spent = KIND_SHOWN[work.kind[mine]], side.duration[mine]
        size = len(SHOWN_KINDS)
        time = np.bincount(kind, weights=spent, minlength=size)
        totals.append((time, np.bincount(kind[~side.graphs[mine]], minlength=size)))
        by_evidence = np.bincount(work.told_by[mine], weights=spent, minlength=len(EVIDENCE))
        order = np.argsort(-by_evidence, kind="stable").tolist()
        told_by.append(tuple(EVIDENCE[n] for n in order if by_evidence[n] and EVIDENCE[n]))
    (time_a, count_a), (time_b, count_b) = totals
    found = []
    for n in np.lexsort((-(time_a + time_b), -np.abs(time_b - time_a))).tolist():
        if time_a[n] or time_b[n]:
            name = SHOWN_KINDS[n]
            found.append(Measure("module", name, "GPU time", "ns", int(time_a[n]), int(time_b[n])))
            found.append(Measure("module", name, "launches", "count", int(count_a[n]), int(count_b[n])))
    return found, tuple(told_by)


def _kernels(sides: list[_Side]) -> list[Measure]:
    """GPU time and launches per kernel, by short name, the largest difference first."""
    totals = []
    for side in sides:
        kernels, strings = side.timeline.trace.kernels, side.timeline.trace.strings
        index, size = kernels.name[side.kernels], len(strings)
        time = np.bincount(index, weights=side.duration[side.kernels], minlength=size)
        launches = np.bincount(index, minlength=size)
        by_short: dict[str, tuple[int, int]] = {}
        for used in np.flatnonzero(launches).tolist():
            short = parse_kernel_name(strings[used]).kernel
            spent, times = by_short.get(short, (0, 0))
            by_short[short] = (spent + int(time[used]), times + int(launches[used]))
        totals.append(by_short)
    a, b = totals
    nothing = (0, 0)
    names = sorted(a.keys() | b.keys(), key=lambda n: (-abs(b.get(n, nothing)[0] - a.get(n, nothing)[0]), n))
    found = []
    for name in names:
        (time_a, count_a), (time_b, count_b) = a.get(name, nothing), b.get(name, nothing)
        found.append(Measure("kernel", name, "GPU time", "ns", time_a, time_b))
        found.append(Measure("kernel", name, "launches", "count", count_a, count_b))
    return found


def _layers(sides: list[_Side], steps: int) -> list[Measure]:
    """GPU time of each layer per step, all kernels and attention alone, up to the last one of both sides."""
    tables: list[dict[int, tuple[float, float]]] = []
    for side in sides:
        mine = side.kernels & (side.timeline.layer >= 0)
        layers, index = np.unique(side.timeline.layer[mine], return_inverse=True)
        spent = side.duration[mine]
        each = (
            np.bincount(index, w) / max(1, steps) for w in (spent, np.where(side.attention[mine], spent, 0))
        )
        tables.append(dict(zip(layers.tolist(), zip(*each, strict=True), strict=True)))
    last = min(max(table, default=-1) for table in tables)
    found = []
    for layer in sorted(layer for layer in set().union(*tables) if layer <= last):
        for column, metric in enumerate(("GPU time", "attention")):
            a, b = (float(table.get(layer, (0.0, 0.0))[column]) for table in tables)
            if a or b:
                found.append(Measure("layer", str(layer), metric, "ns", a, b))
    return found
