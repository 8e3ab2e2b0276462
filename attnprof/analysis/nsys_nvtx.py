"""nsys's two reports about NVTX ranges: their projection onto the GPU, and the kernels inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnprof.analysis.nsys_columns import (
    Column,
    NsysReport,
    array_column,
    coded_column,
    grouped,
    require,
)
from attnprof.arrays import distinct_rows
from attnprof.trace.range_contents import Held, ranges_inside, tightest
from attnprof.trace.range_nesting import lanes
from attnprof.trace.tables import Int32, Int64, Ranges, Trace
from attnprof.trace.timeline import Timeline, build_timeline

_PUSH_POP, _START_END = "PushPop", "StartEnd"
_CELLS_PER_PAIR = 4  # of a table of all ranges and names, where sorting the pairs would cost more
_LEVELS_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class _Nvtx:
    """What both NVTX reports start from: ranges that end on the thread they began on, and their labels.

    ``key`` numbers the distinct (pid, thread, name, style) of the ranges and ``labels`` are these.
    """

    timeline: Timeline
    range_id: Int64
    key: Int64
    labels: list[tuple[int, int, str, str]]

    @property
    def ranges(self) -> Ranges:
        return self.timeline.trace.ranges


def _nvtx(timeline: Timeline) -> _Nvtx:
    trace = timeline.trace
    require(len(trace.ranges) > 0, trace, "holds no NVTX range")
    require(len(trace.api_calls) > 0, trace, "holds no CUDA API call")
    require(len(trace.kernels) + len(trace.copies) > 0, trace, "holds no GPU work")
    range_id = np.arange(1, len(trace.ranges) + 1)
    if trace.details is not None:
        range_id, stays = trace.details.range_id, ~trace.details.crosses
        if not stays.all():
            columns = {field: getattr(trace.ranges, field)[stays] for field in Ranges.__slots__}
            timeline = build_timeline(replace(trace, ranges=Ranges(**columns)))
            range_id = range_id[stays]
    ranges, strings = timeline.trace.ranges, trace.strings
    rows, key = distinct_rows(
        [ranges.pid, ranges.thread, ranges.domain, ranges.name, ranges.nested.astype(np.int8)]
    )
    labels = [
        (pid, thread, f"{strings[domain]}:{strings[text]}" if domain else strings[text],
         _PUSH_POP if nested else _START_END)
        for pid, thread, domain, text, nested in zip(*(column.tolist() for column in rows), strict=True)
    ]  # fmt: skip
    return _Nvtx(timeline, range_id, key, labels)


def _tid(thread: Int64, trace: Trace) -> Int64:
    return thread & (0xFFFFFF if trace.info.format == "nsys-sqlite" else 0xFFFFFFFF)


def projection_trace(name: str, timeline: Timeline) -> NsysReport:
    """Each range with GPU work, as it lies on the GPU."""
    nvtx = _nvtx(timeline)
    timeline, ranges = nvtx.timeline, nvtx.ranges
    p = timeline.projection()
    inside = ranges_inside(lanes(ranges))
    parent = tightest(inside, ranges)
    level, stacks = _nested(parent, nvtx.range_id)
    shown = np.flatnonzero(p.num_ops)
    children = np.bincount(parent[shown][parent[shown] >= 0], minlength=len(parent))
    shown = shown[np.argsort(nvtx.range_id[shown], kind="stable")]
    of_parent = np.append(nvtx.range_id, 0)[parent]
    columns = (
        coded_column("Name", [label[2] for label in nvtx.labels], nvtx.key[shown]),
        array_column("Projected Start (ns)", p.start[shown]),
        array_column("Projected Duration (ns)", (p.end - p.start)[shown]),
        array_column("Orig Start (ns)", ranges.start[shown]),
        array_column("Orig Duration (ns)", (ranges.end - ranges.start)[shown]),
        coded_column("Style", [label[3] for label in nvtx.labels], nvtx.key[shown]),
        array_column("PID", ranges.pid[shown]),
        array_column("TID", _tid(ranges.thread[shown], timeline.trace)),
        array_column("NumGPUOps", p.num_ops[shown]),
        array_column("Lvl", level[shown]),
        array_column("NumChild", children[shown]),
        array_column("RangeId", nvtx.range_id[shown]),
        array_column("ParentId", of_parent[shown], parent[shown] >= 0),
        coded_column("RangeStack", stacks, shown, own=True),
    )
    return NsysReport(name, columns, len(shown))


def _nested(parent: Int32 | Int64, range_id: Int64) -> tuple[Int32, list[str]]:
    """Of each range how many are around it, and their ids and its own, outermost first.

    ``parent`` is the place of the range around it, which stands before it, -1 of none.
    """
    level = np.zeros(len(parent), np.int32)
    around: Int32 | Int64 = parent
    below = np.arange(len(parent))
    while len(below):  # no more steps in all than there are ids in the stacks
        inside = around >= 0
        below, around = below[inside], around[inside]
        level[below] += 1
        around = parent[around]
    stacks = [*map(":%d".__mod__, range_id.tolist())]
    inner = np.flatnonzero(level)
    for outer, own in zip(parent[inner].tolist(), inner.tolist(), strict=True):
        stacks[own] = stacks[outer] + stacks[own]
    return level, stacks


def nvtx_kernel_summary(name: str, timeline: Timeline) -> NsysReport:
    """Kernels by the ranges around their launch, each kernel once in every range that holds it."""
    require(len(timeline.trace.kernels) > 0, timeline.trace, "holds no CUDA kernel")
    nvtx = _nvtx(timeline)
    timeline, trace = nvtx.timeline, nvtx.timeline.trace
    kernels = trace.kernels
    names, of_name = np.unique(kernels.name, return_inverse=True)
    duration = kernels.end - kernels.start
    outside_key, outside_labels = _outside(nvtx)
    free = np.flatnonzero(outside_key >= 0)
    labels: list[tuple[int | None, int | None, str | None, str | None]] = [*nvtx.labels, *outside_labels]

    held = timeline.held()

    def of_pairs(value: Callable[[Int64, Int64], Int64], of_free: Int64) -> Int64:
        pairs = _pairs(timeline, held)
        return np.concatenate([of_free, *(value(kernel, around) for kernel, around in pairs)])

    # One array of pairs at a time: with every level of ranges there are several times as many as kernels.
    code = of_pairs(
        lambda kernel, around: nvtx.key[around] * len(names) + of_name[kernel],
        outside_key[free] * len(names) + of_name[free],
    )
    once = _each_kernel_once(nvtx, held)
    distinct_kernels = None if once else _distinct_per_group(code, of_pairs(lambda k, around: k, free))
    if len(nvtx.key) * len(names) <= _CELLS_PER_PAIR * len(code):
        instances = None
    else:
        instances = _distinct_per_group(code, of_pairs(lambda k, around: around, np.full(len(free), -1)))
    made = grouped(code, of_pairs(lambda kernel, around: duration[kernel], duration[free]))
    del code
    if distinct_kernels is None:
        distinct_kernels = made.count
    if instances is None:
        there = np.zeros(len(nvtx.key) * len(names), np.bool_)
        for kernel, around in _pairs(timeline, held):
            there[around * len(names) + of_name[kernel]] = True
        cell = np.flatnonzero(there)
        codes = nvtx.key[cell // len(names)] * len(names) + cell % len(names)
        instances = np.bincount(np.searchsorted(made.code, codes), minlength=len(made.code))
    in_range = made.code // len(names) < len(nvtx.labels)
    keys = (made.code // len(names)).tolist()
    texts = [trace.strings[i] for i in names.tolist()]

    def rank(row: int) -> tuple[Any, ...]:
        pid, thread, text, _ = labels[keys[row]]
        return (text is not None, text or "", pid is not None, pid or 0, thread or 0, -totals[row])

    totals = made.total.tolist()
    order = np.array(sorted(range(len(keys)), key=rank), np.int64)
    key = np.array(keys, np.int64)[order]
    tid = [None if label[1] is None else int(_tid(np.int64(label[1]), trace)) for label in labels]
    columns = (
        coded_column("NVTX Range", [label[2] for label in labels], key),
        coded_column("Style", [label[3] for label in labels], key),
        Column("PID", lambda rows: [labels[i][0] for i in key[rows].tolist()]),
        Column("TID", lambda rows: [tid[i] for i in key[rows].tolist()]),
        array_column("NVTX Inst", np.where(in_range, instances, 0)[order]),
        array_column("Kern Inst", distinct_kernels[order]),
        *made.columns(order),
        coded_column("Kernel Name", texts, (made.code % len(names))[order]),
    )
    return NsysReport(name, columns, len(order))


def _outside(nvtx: _Nvtx) -> tuple[Int64, list[tuple[int | None, int | None, None, None]]]:
    """A key, behind those of the ranges, per kernel that no range holds (else -1), and these keys' labels."""
    timeline = nvtx.timeline
    calls, base = timeline.trace.api_calls, len(nvtx.labels)
    key = np.full(len(timeline.launch), -1)
    key[timeline.launch < 0] = base
    free = np.flatnonzero((timeline.launch >= 0) & (timeline.range < 0))
    at = timeline.launch[free]
    (pids, threads), group = distinct_rows([calls.pid[at], calls.thread[at]])
    key[free] = base + 1 + group
    known = zip(pids.tolist(), threads.tolist(), strict=True)
    return key, [(None, None, None, None), *((pid, thread, None, None) for pid, thread in known)]


def _pairs(timeline: Timeline, every: list[Held]) -> Iterator[tuple[Int64, Int64]]:
    """(kernels, the range around each), level by level from the innermost outwards."""
    launched = np.flatnonzero(timeline.launch >= 0)
    at = timeline.launch[launched]
    for held in every:
        within = np.full(len(timeline.trace.api_calls), -1)
        within[held.rows] = held.within
        member, kernel = within[at], launched
        while True:
            inside = member >= 0
            member, kernel = member[inside], kernel[inside]
            if not len(member):
                break
            yield kernel, held.lane.members[member]
            member = held.lane.parent[member]


def _each_kernel_once(nvtx: _Nvtx, every: list[Held]) -> bool:
    """Whether no kernel is in two ranges of one key: a single lane in which no range holds its like."""
    if len(every) != 1:
        return not every
    lane = every[0].lane
    key, inner = nvtx.key[lane.members], np.arange(len(lane.members))
    outer = lane.parent.astype(np.int64)
    for _ in range(_LEVELS_LOOKED_AT):
        known = outer >= 0
        inner, outer = inner[known], outer[known]
        if not len(inner):
            return True
        if np.any(key[inner] == key[outer]):
            return False
        outer = lane.parent[outer].astype(np.int64)
    return False


def _distinct_per_group(code: Int64, value: Int64 | Int32) -> Int64:
    """How many different values (from -1 up) each code has, by ascending code."""
    wide = (int(value.max(initial=0)) + 1).bit_length()
    if wide + int(code.max(initial=0)).bit_length() <= 63:
        packed = code << wide
        packed |= value + np.int64(1)
        packed.sort()
        group = packed[np.flatnonzero(np.diff(packed, prepend=-1))] >> wide
    else:
        group = distinct_rows([code, value.astype(np.int64)])[0][0]
    return np.diff(np.append(np.flatnonzero(np.diff(group, prepend=-1)), len(group)))
