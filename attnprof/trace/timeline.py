"""Kernels joined with what launched them: the API call, the ranges around it, and the phase, step, layer and
attention call these name. Every join is an array operation; a launch counts by its time on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnprof.arrays import Narrow, blocks, distinct_rows, narrowest
from attnprof.model import PHASES
from attnprof.trace.range_contents import Held, calls_inside, gathered, latest, moments_inside, ranges_inside
from attnprof.trace.range_names import DECODE, NONE, UNKNOWN_PHASE, named_attributes
from attnprof.trace.range_nesting import MOST_LANES, Lane, lanes
from attnprof.trace.tables import Bool, Copies, GraphNodes, Int32, Int64, Kernels, NodeNames, Trace

NO_PHASE = 0
PHASE_NAMES: dict[int, str] = dict(enumerate(PHASES))
UNKNOWN = -1
_GRAPH_LAUNCH = "GraphLaunch"  # of cuda, cu and hip
_NEVER = np.iinfo(np.int64).max
_SPARSEST = 4  # ids per call


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known of each row: ``phase`` is its place in model.PHASES, the others are -1 where unknown.

    ``call`` is the sequence number of the attention call.
    """

    phase: Int32
    step: Int32
    layer: Int32
    call: Int32


@dataclass(frozen=True, slots=True)
class Projection:
    """Each range's GPU work: first start and last end (0 where there is none), how many operations.

    An operation is an API call with kernels, copies or sets; it belongs to every range that holds the call.
    ``kernel_ns`` sums the kernels' durations.
    """

    start: Int64
    end: Int64
    num_ops: Int64
    num_kernels: Int64
    kernel_ns: Int64


@dataclass(frozen=True, slots=True)
class Timeline:
    """A trace with its joins.

    Per kernel: ``launch`` (index into ``api_calls``) and ``range`` (the innermost around the launch), both
    -1 for none; ``phase``, ``step``, ``layer``, ``call`` as in Attributes. Per range: ``parent`` (index or
    -1), ``level`` (0 for outermost) and ``of_range``, its own and inherited attributes. ``notes`` are the
    trace's and what the joins found missing.
    """

    trace: Trace
    launch: Int32
    range: Int32
    phase: Narrow
    step: Narrow
    layer: Narrow
    call: Narrow
    parent: Int32
    level: Int32
    of_range: Attributes
    notes: tuple[str, ...]

    def enclosing(self, kernel: int) -> list[int]:
        """The ranges around the kernel's launch on its thread, outermost first."""
        launch = self.launch[kernel]
        if launch < 0:
            return []
        calls, ranges = self.trace.api_calls, self.trace.ranges
        around = (ranges.thread == calls.thread[launch]) & (ranges.start <= calls.start[launch])
        around &= ranges.end >= calls.end[launch]
        return [int(i) for i in np.flatnonzero(around)]

    def replayed(self, kernels: Int64 | slice = slice(None)) -> Bool:
        """Which kernels, all or these, a CUDA graph's launch started."""
        calls, strings = self.trace.api_calls, self.trace.strings
        graph = np.array([_GRAPH_LAUNCH in text for text in strings], np.bool_)
        found: Bool = self.trace.kernels.graph_node[kernels] != 0
        if graph.any() and len(calls):
            launch = self.launch[kernels]
            found = found | ((launch >= 0) & graph[calls.name[launch]])
        return found

    def held(self) -> list[Held]:
        """Which ranges hold the calls that launched something."""
        launching = _launching(self.trace, self.launch)
        return calls_inside(lanes(self.trace.ranges), self.trace.api_calls, launching)

    def projection(self) -> Projection:
        """The ranges on the GPU, as nsys's nvtx_gpu_proj_trace gives them."""
        trace, num_calls = self.trace, len(self.trace.api_calls)
        first = np.full(num_calls, _NEVER)
        last, kernels, kernel_ns = (np.zeros(num_calls, np.int64) for _ in range(3))
        for table, launch in ((trace.kernels, self.launch), (trace.copies, _launches(trace.copies, trace))):
            known = launch >= 0
            at = launch[known]
            np.minimum.at(first, at, table.start[known])
            np.maximum.at(last, at, table.end[known])
            if table is trace.kernels:
                kernels += np.bincount(at, minlength=num_calls)
                np.add.at(kernel_ns, at, (table.end - table.start)[known])
        ops = (first < _NEVER).astype(np.int64)
        columns = (
            (np.minimum, first, _NEVER),
            (np.maximum, last, 0),
            *((np.add, c, 0) for c in (ops, kernels, kernel_ns)),
        )
        held = self.held()
        projected = [gathered(held, len(trace.ranges), *column) for column in columns]
        projected[0][projected[2] == 0] = 0
        return Projection(*projected)


def build_timeline(trace: Trace) -> Timeline:
    """Join the trace's tables."""
    launch = _launches(trace.kernels, trace)
    nested = lanes(trace.ranges)
    ranges_held = ranges_inside(nested)
    said = _attributes(trace, nested, ranges_held)
    nearest: dict[str, Int32] = {}
    of_range: dict[str, Int32] = {}
    for key, none in NONE.items():
        nearest[key], of_range[key] = _inherited(said[key], none, nested, ranges_held)
    innermost, of_kernel = _around_launches(trace, launch, nested, said, nearest)
    if trace.graph_nodes is not None:
        for key in _FROM_CAPTURE:
            if np.any(nearest[key] >= 0):
                of_kernel[key] = _captured(trace, nested, nearest[key], said[key], of_kernel[key])
    if (names := trace.node_names) is not None:
        for key in _NAMED:
            of_kernel[key] = _of_nodes(trace.kernels, names, getattr(names, key), of_kernel[key], NONE[key])
    del said, nearest
    parent = latest(ranges_held, len(trace.ranges))
    return Timeline(
        trace=trace,
        launch=launch,
        range=innermost,
        **of_kernel,
        parent=parent,
        level=_levels(parent),
        of_range=Attributes(**of_range),
        notes=(*trace.info.notes, *_notes(trace, launch), *_left_out(nested, len(trace.ranges))),
    )


def _around_launches(
    trace: Trace, launch: Int32, nested: list[Lane], said: dict[str, Int32], nearest: dict[str, Int32]
) -> tuple[Int32, dict[str, Narrow]]:
    """Per kernel, the innermost range around its launch, and what the ranges around it say."""
    calls = trace.api_calls
    innermost = np.full(len(launch), UNKNOWN, np.int32)
    found: dict[str, Narrow] = {}
    for key, none in NONE.items():
        if np.all(nearest[key] < 0):
            found[key] = np.broadcast_to(np.int8(none), launch.shape)
        else:
            kind = narrowest(int(said[key].min()), int(said[key].max()))
            found[key] = np.full(len(launch), none, kind)
    told = {key: _or_none(said[key], NONE[key]) for key, values in found.items() if values.flags.writeable}
    alone = len({lane.thread for lane in nested}) == len(nested)  # no thread has ranges that do not nest
    of_range = (
        {
            key: _or_none(values[nearest[key]], NONE[key]).astype(found[key].dtype)
            for key, values in told.items()
        }
        if alone
        else {}
    )
    for rows in blocks(len(launch) if nested and len(calls) else 0):
        known = np.flatnonzero(launch[rows] >= 0)
        whole = len(known) == rows.stop - rows.start
        at, kernel = (launch[rows], rows) if whole else (launch[rows][known], known + rows.start)
        held = moments_inside(nested, calls.thread[at], calls.start[at], calls.end[at])
        inside = innermost[kernel] = latest(held, len(at))
        for key, values in told.items():
            if alone:
                found[key][kernel] = of_range[key][inside]
            else:
                found[key][kernel] = values[latest(held, len(at), nearest[key])]
    return innermost, found


def without_phases(timeline: Timeline) -> Timeline:
    """The timeline with every step's phase unknown: for one whose phases are not to be believed."""

    def unknown(phase: Narrow) -> Narrow:
        return np.where(phase == NO_PHASE, phase, phase.dtype.type(UNKNOWN_PHASE))

    of_range = replace(timeline.of_range, phase=unknown(timeline.of_range.phase))
    return replace(timeline, phase=unknown(timeline.phase), of_range=of_range)


_PER_KERNEL = ("launch", "range", *NONE)


def timeline_columns(timeline: Timeline) -> dict[str, Narrow]:
    """What the joins computed, to be kept with the trace."""
    of_range = {f"of_range.{key}": getattr(timeline.of_range, key) for key in NONE}
    return {name: getattr(timeline, name) for name in (*_PER_KERNEL, "parent", "level")} | of_range


def restore_timeline(trace: Trace, columns: dict[str, Any]) -> Timeline:
    """The timeline whose :func:`timeline_columns` these are."""
    kept = {name: columns[name] for name in (*_PER_KERNEL, "parent", "level")}
    of_range = Attributes(**{key: columns[f"of_range.{key}"] for key in NONE})
    notes = dict.fromkeys((*trace.info.notes, *_notes(trace, kept["launch"])))
    return Timeline(trace, **kept, of_range=of_range, notes=tuple(notes))


_FROM_CAPTURE = ("layer", "call")
_NAMED = ("layer", "phase")  # what a node's name tells of every replay; a step it names is the capture's


def _captured(trace: Trace, nested: list[Lane], nearest: Int32, said: Int32, launched: Narrow) -> Int32:
    """An attribute per kernel: what its launch gives, else for a graph's kernel the ranges of its capture."""
    nodes = trace.graph_nodes
    assert nodes is not None
    held = calls_inside(nested, nodes, np.arange(len(nodes)))
    of_node = _or_none(said, UNKNOWN)[latest(held, len(nodes), nearest)]
    return _of_nodes(trace.kernels, nodes, of_node, launched, UNKNOWN)


def _of_nodes(
    kernels: Kernels, nodes: GraphNodes | NodeNames, of_node: Narrow, launched: Narrow, none: int
) -> Int32:
    """An attribute per kernel: what its launch gives, else for a graph's kernel that of its node."""
    keys = zip(nodes.pid.tolist(), nodes.node.tolist(), strict=True)
    known = dict(zip(keys, of_node.tolist(), strict=True))
    found = launched.astype(np.int32)
    for rows in blocks(len(found)):
        mine = rows.start + np.flatnonzero((found[rows] == none) & (kernels.graph_node[rows] != 0))
        (pids, numbers), group = distinct_rows([kernels.pid[mine], kernels.graph_node[mine]])
        values = [known.get(key, none) for key in zip(pids.tolist(), numbers.tolist(), strict=True)]
        found[mine] = np.array(values, np.int32)[group]
    return found


def _or_none(values: Int32, none: int) -> Int32:
    """The values and ``none`` behind them, where index -1 finds it."""
    return np.append(values, np.int32(none))


def _launches(launched: Kernels | Copies, trace: Trace) -> Int32:
    """Index of the API call that launched each row, by process and correlation; -1 for none.

    Of several calls with one correlation it is the first. All kernels of a CUDA graph share one call.
    """
    calls = trace.api_calls
    launch = np.full(len(launched), -1, np.int32)
    callers = dict(_by_process(calls.pid))
    for process, rows in _by_process(launched.pid):
        if process in callers:
            mine = callers[process]
            found = _match(launched.correlation[rows], calls.correlation[mine])
            launch[rows] = found if isinstance(mine, slice) else np.append(mine, -1)[found]
    return launch


def _by_process(pid: Narrow) -> Iterator[tuple[int, slice | Int64]]:
    """The rows of each process; all of them as one slice when there is a single one."""
    if len(pid) and np.all(pid == pid[0]):
        yield int(pid[0]), slice(None)
        return
    for one in np.unique(pid).tolist():
        yield one, np.flatnonzero(pid == one)


def _match(wanted: Narrow, offered: Narrow) -> Int32:
    """Index of the first ``offered`` that equals each ``wanted``; -1 for none or a negative id."""
    found = np.empty(len(wanted), np.int32)
    low, high = int(offered.min()), int(offered.max())
    if high - low <= _SPARSEST * len(offered) + 1024:  # correlation ids count up: look the call up directly
        table = np.full(high - low + 2, -1, np.int32)
        for rows in reversed([*blocks(len(offered))]):
            table[offered[rows][::-1].astype(np.int64) - low] = np.arange(
                rows.stop - 1, rows.start - 1, -1, dtype=np.int32
            )
        for rows in blocks(len(wanted)):
            ids = wanted[rows].astype(np.int64)
            found[rows] = table[np.where((ids >= max(low, 0)) & (ids <= high), ids - low, -1)]
        return found
    order = np.argsort(offered, kind="stable")
    ascending = offered[order]
    for rows in blocks(len(wanted)):
        ids = wanted[rows].astype(np.int64)
        at = np.minimum(np.searchsorted(ascending, ids), len(order) - 1)
        found[rows] = np.where((ascending[at] == ids) & (ids >= 0), order[at], -1)
    return found


def _inherited(said: Int32, none: int, nested: list[Lane], ranges_held: list[Held]) -> tuple[Int32, Int32]:
    """The nearest range of its lane, itself included, that says something, and the value each range has."""
    if np.all(said == none):
        return np.broadcast_to(np.int32(-1), said.shape), np.broadcast_to(np.int32(none), said.shape)
    nearest = np.full(len(said), -1, np.int32)
    for lane in nested:
        known = said[lane.members] != none
        if known.any():
            at = lane.nearest(known)
            nearest[lane.members] = np.where(at >= 0, lane.members[at], -1)
    source = np.maximum(nearest, latest(ranges_held, len(said), nearest))
    return nearest, _or_none(said, none)[source]


def _attributes(trace: Trace, nested: list[Lane], ranges_held: list[Held]) -> dict[str, Int32]:
    """What each range says by itself, with steps counted where prefill and decode carry no number.

    Per process: a step is an outermost prefill or decode range. They are counted in order, the first prefill
    being 0, unless numbers tell them apart already: their own, those around them or those inside them.
    """
    said, own = named_attributes(trace)
    phases = np.flatnonzero((said["phase"] != NO_PHASE) & ~own)
    if not len(phases):
        return said
    pid = trace.ranges.pid
    nearest, phase = _inherited(said["phase"], NO_PHASE, nested, ranges_held)
    _, step = _inherited(said["step"], UNKNOWN, nested, ranges_held)
    around = latest(ranges_held, len(phase), nearest)  # the phase range each range is inside of
    steps = phases[around[phases] < 0]
    numbered_inside = pid[(said["step"] >= 0) & (around >= 0)]
    for process, rows in _by_process(pid[steps]):
        mine = steps[rows]
        decode = step[mine[said["phase"][mine] == DECODE]]
        told_apart = len(decode) and decode.min() >= 0 and len(np.unique(decode)) == len(decode)
        if not told_apart and process not in numbered_inside:
            said["step"][mine] = np.arange(len(mine)) + (said["phase"][mine[0]] == DECODE)
    return said


def _launching(trace: Trace, launch: Int32) -> Int64:
    """The calls that launched kernels, copies or sets, in order."""
    used = np.zeros(len(trace.api_calls), np.bool_)
    for launched in (launch, _launches(trace.copies, trace)):
        used[launched[launched >= 0]] = True
    return np.flatnonzero(used)


def _levels(parent: Int32) -> Int32:
    level = np.zeros(len(parent), np.int32)
    inner = np.flatnonzero(parent >= 0)
    while len(inner):
        deeper = level[parent[inner]] + 1
        changed = level[inner] != deeper
        level[inner] = deeper
        inner = inner[changed]
    return level


def _notes(trace: Trace, launch: Int32) -> list[str]:
    """What the joins found missing."""
    lost = int(np.count_nonzero(launch < 0))
    if not lost:
        return []
    why = "the trace was cut" if len(trace.api_calls) else "no CUDA API call was recorded"
    return [f"{lost:,} of {len(launch):,} kernels have no launching call ({why}): attributed to no range"]


def _left_out(nested: list[Lane], num_ranges: int) -> list[str]:
    """What is said of ranges that no lane has room for."""
    lost = num_ranges - sum(len(lane.members) for lane in nested)
    if not lost:
        return []
    return [f"{lost:,} ranges each overlap {MOST_LANES} others of their thread without nesting: left out"]
