"""The attention calls of a timeline: which kernels belong to one call, and which calls look alike.

A call is a main kernel with what its library launches before it (a scheduler) and after it (a combine or
reduce), on one stream. Columns of :class:`ObservedCalls` have one element per call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from attnprof.arrays import Narrow, blocks, coded_rows, distinct, distinct_rows, occurring
from attnprof.check.bare_steps import find_bare_steps
from attnprof.check.math_layers import MathLayer, find_math_layers
from attnprof.check.observed_shape import ObservedShape, second_halves
from attnprof.check.odd_replays import OddReplay, find_odd_replays
from attnprof.check.repetition import Repetition, find_repetition, find_replays
from attnprof.check.same_kernels import OddWork, count_beside, find_odd_work
from attnprof.check.trace_edges import Edges, find_edges
from attnprof.dispatch.names.families import halves_of
from attnprof.dispatch.names.family import Halves
from attnprof.dispatch.names.kernel_names import KernelSignature, parse_kernel_name
from attnprof.model import KernelLaunch
from attnprof.trace.tables import WHOLE_GRAPH
from attnprof.trace.timeline import Timeline

if TYPE_CHECKING:
    from attnprof.trace.capture_join import Role

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

_BEFORE, _MAIN, _AFTER = 0, 1, 2
_ROLES = {"scheduler": _BEFORE, "combine": _AFTER}
NO_KERNEL = -1


@dataclass(frozen=True, slots=True)
class ObservedCalls:
    """Attention calls in order of their main kernel's start.

    ``shape`` indexes ``shapes``; ``duration`` is the GPU time of the call's attention kernels in ns; ``seq``,
    ``step``, ``layer`` are -1 and ``phase`` 0 where unknown; ``main`` indexes the timeline's kernels and
    ``pid`` is the launching process. ``replayed`` calls were launched by a CUDA graph: their ``seq`` is that
    of the captured call, and their layer, where the capture does not tell it, that of the call in the same
    place of an eager step. ``strangers`` are the kernels launched inside a recorded call, by its number, that
    belong to no attention library and do more than fill or copy.  ``bare_steps`` are those, by process and
    number, that ran what the steps beside them ran, except for any attention.  ``odd_replays`` are those of a
    CUDA graph with more or fewer calls than its others, ``odd_work`` the steps and replays whose attention is
    not that of those with the same other kernels.  ``math_layers`` are those of torch's math backend.
    ``edges`` are the calls in which the trace may begin, and end.  ``repeated`` has by process the steps and
    layers of its calls, in order, where no range names any but the kernels' repetition tells.
    """

    main: Int64
    pid: Int32
    shape: Int64
    duration: Int64
    num_kernels: Int64
    seq: Int64
    step: Int32
    layer: Int32
    phase: Int32
    replayed: Bool
    shapes: tuple[ObservedShape, ...]
    strangers: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    bare_steps: tuple[tuple[int, int], ...] = ()
    odd_replays: tuple[OddReplay, ...] = ()
    odd_work: tuple[OddWork, ...] = ()
    math_layers: tuple[MathLayer, ...] = ()
    edges: Edges = field(default_factory=Edges)
    repeated: Mapping[int, Repetition] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.main)


def attention_names(strings: list[str], used: Narrow) -> dict[int, KernelSignature]:
    """String index to signature, for the kernels of attention calls among the names in use.

    What plans one call is part of it; metadata is shared by the calls of a step.
    """
    signatures = {
        index: parse_kernel_name(strings[index]) for index in occurring(used, len(strings)).tolist()
    }
    return {i: one for i, one in signatures.items() if one.is_attention or one.role == "scheduler"}


def first_unrecorded(timeline: Timeline, observed: ObservedCalls) -> int | None:
    """The first call made after the profiler had stopped recording the GPU; None where it never did.

    Kineto stops for good when its buffer is full, and goes on recording ranges. A whole trace ends with API
    calls, the profiler's own synchronisation being the last.
    """
    trace = timeline.trace
    if trace.info.format != "torch-json" or not len(trace.api_calls):
        return None
    made = timeline.of_range.call[trace.ranges.start > trace.api_calls.end.max()]
    if not np.any(made >= 0):
        return None
    return int(observed.seq.max(initial=-1)) + 1


def operators_between_launches(timeline: Timeline) -> range:
    """The torch operators, by row, that began after the first recorded launch and ended before the last.

    Empty where several processes were recorded.
    """
    trace = timeline.trace
    ops, launched = trace.attention_ops, timeline.launch[timeline.launch >= 0]
    if ops is None or not len(ops) or not len(launched) or len(np.unique(ops.pid)) > 1:
        return range(0)
    starts = trace.api_calls.start[launched]
    inside = np.flatnonzero((ops.start > starts.min()) & (ops.end < starts.max()))
    return range(int(inside[0]), int(inside[-1]) + 1) if len(inside) else range(0)


def _role(signature: KernelSignature) -> int:
    return _ROLES.get(signature.role, _MAIN)


def observe(timeline: Timeline) -> ObservedCalls:
    """The attention calls that ran."""
    kernels = timeline.trace.kernels
    role_of_name, halves = _roles_of_names(timeline)
    found, role, first, seq = _attention_kernels(timeline, role_of_name, halves)
    call_of = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(found))))
    main = _first_with(role == _MAIN, call_of, first)
    after = _first_with(role == _AFTER, call_of, first, default=NO_KERNEL)
    before = _first_with(role == _BEFORE, call_of, first, default=NO_KERNEL)
    second = main.copy()
    second[call_of[role == _MAIN]] = np.flatnonzero(role == _MAIN)  # assigned last is last in the call
    after[after == main] = before[before == main] = NO_KERNEL  # all that is left of a cut call
    spent = np.add.reduceat(kernels.end[found] - kernels.start[found], first) if len(first) else first
    sizes = np.diff(np.append(first, len(found)))
    shape, shapes = _shapes(timeline, found, _Roles(before, main, after, call_of))
    in_time = np.argsort(kernels.start[found[main]], kind="stable")
    kernel, second = found[main][in_time], found[second][in_time]
    shape, spent, sizes, seq = (column[in_time] for column in (shape, spent, sizes, seq[main]))
    del found, role, first, call_of, main, after, before, in_time  # what follows needs room of its own
    replayed, launch, names = timeline.replayed(kernel), timeline.launch[kernel], role_of_name >= 0
    in_halves = halves[kernels.name[kernel]] == Halves.WHOLE
    calls = ObservedCalls(
        main=kernel,
        pid=kernels.pid[kernel].astype(np.int32),
        shape=shape,
        duration=spent,
        num_kernels=sizes,
        seq=seq,
        step=timeline.step[kernel].astype(np.int32),
        layer=_layers(timeline, kernel, replayed),
        phase=timeline.phase[kernel].astype(np.int32),
        replayed=replayed,
        shapes=shapes,
        strangers=_strangers(timeline),
        odd_replays=find_odd_replays(
            launch,
            kernels.pid[kernel],
            shape,
            timeline.phase[kernel],
            replayed,
            count_beside(timeline, launch, replayed, names),
        ),
        bare_steps=find_bare_steps(timeline, names),
        odd_work=find_odd_work(timeline, kernel, shape, replayed, names, in_halves),
        math_layers=find_math_layers(timeline, names),
        edges=find_edges(timeline, kernel, second),
    )
    return replace(calls, repeated=dict(_repeated(timeline, calls, names)))


def _repeated(timeline: Timeline, calls: ObservedCalls, names: Bool) -> Iterator[tuple[int, Repetition]]:
    """The steps and layers of the processes whose calls nothing names, or none names the layers of."""
    layered = (calls.seq >= 0) | (calls.layer >= 0)
    for pid in distinct(calls.pid).tolist():
        mine = np.flatnonzero(calls.pid == pid)
        if layered[mine].any():
            continue
        bare = not (calls.step[mine] >= 0).any()
        found = find_repetition(timeline, calls.main[mine], names) if bare else None
        if found := found or find_replays(timeline.launch[calls.main[mine]], calls.replayed[mine]):
            yield pid, found


def _roles_of_names(timeline: Timeline) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """The role of each string as a kernel's name, -1 where it is no attention call's, and its Halves."""
    strings = timeline.trace.strings
    role_of_name = np.full(len(strings) + 1, -1, dtype=np.int8)
    halves = np.zeros(len(strings) + 1, dtype=np.int8)
    for index, signature in attention_names(strings, timeline.trace.kernels.name).items():
        role_of_name[index] = _role(signature)
        halves[index] = halves_of(signature.library, strings[index])
    return role_of_name, halves


def _attention_kernels(
    timeline: Timeline, role_of_name: npt.NDArray[np.int8], halves: npt.NDArray[np.int8]
) -> tuple[Int64, npt.NDArray[np.int8], Int64, Int64]:
    """The attention kernels by stream and time, the role of each, where a call begins, each one's call id."""
    kernels = timeline.trace.kernels
    parts = [
        rows.start + np.flatnonzero(role_of_name[kernels.name[rows]] >= 0) for rows in blocks(len(kernels))
    ]
    found = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    streams = coded_rows([kernels.pid[found], kernels.device[found], kernels.stream[found]])[1]
    order = np.lexsort((kernels.start[found], streams))
    found, streams = found[order], streams[order]
    role = role_of_name[kernels.name[found]]
    seq = _call_ids(timeline, found)
    begins = np.ones(len(found), dtype=bool)
    same = (streams[1:] == streams[:-1]) & (seq[1:] == seq[:-1])
    starts_call = (role[1:] == _BEFORE) | ((role[1:] == _MAIN) & (role[:-1] != _BEFORE))
    begins[1:] = ~same | starts_call
    begins &= ~second_halves(kernels.name[found], seq >= 0, same, halves)
    return found, role, np.flatnonzero(begins), seq


class _Roles(NamedTuple):
    """Per call, which of the attention kernels has which role, NO_KERNEL for none; per kernel, its call."""

    before: Int64
    main: Int64
    after: Int64
    call_of: Int64


def _shapes(timeline: Timeline, found: Int64, roles: _Roles) -> tuple[Int64, tuple[ObservedShape, ...]]:
    """The shape of each call, and the shapes."""
    trace, kernels = timeline.trace, timeline.trace.kernels
    (names, sizes), launch_of = coded_rows([kernels.name[found], kernels.shape[found]])
    launches = [
        _launch(trace.strings[name], size)
        for name, size in zip(names.tolist(), kernels.shapes[sizes].tolist(), strict=True)
    ]
    coded = np.append(launch_of, NO_KERNEL)  # where NO_KERNEL finds itself
    beside, groups = _beside(roles, launch_of)
    columns, shape = distinct_rows([
        coded[roles.main], coded[roles.after], coded[roles.before], beside, kernels.device[found[roles.main]]
    ])  # fmt: skip
    shapes = []
    for m, a, b, group, device in zip(*(column.tolist() for column in columns), strict=True):
        mine = [launches[at] for at in (m, a) if at >= 0]
        signatures = tuple(parse_kernel_name(launch.kernel) for launch in mine)
        planned = (launches[b],) if b >= 0 else ()
        more = tuple(launches[at] for at in groups[group])
        again = tuple(one for one in more if one.kernel == mine[0].kernel)[:1]
        others = tuple(one for one in more if one.kernel != mine[0].kernel)
        shapes.append(ObservedShape(tuple(mine), signatures, device, planned, others, again))
    return shape, tuple(shapes)


def _beside(roles: _Roles, launch_of: Int64) -> tuple[Int64, list[tuple[int, ...]]]:
    """Per call, the number of the launches beyond one of each role, 0 being none; and these launches."""
    left = np.ones(len(roles.call_of), np.bool_)
    for positions in (roles.before, roles.main, roles.after):
        left[positions[positions >= 0]] = False
    more: dict[int, list[int]] = {}
    for position in np.flatnonzero(left).tolist():
        more.setdefault(int(roles.call_of[position]), []).append(int(launch_of[position]))
    numbers: dict[tuple[int, ...], int] = {(): 0}
    beside = np.zeros(len(roles.main), np.int64)
    for call, group in more.items():
        beside[call] = numbers.setdefault(tuple(group), len(numbers))
    return beside, list(numbers)


def _layers(timeline: Timeline, kernel: Int64, replayed: Bool) -> Int32:
    """The layer of each call, told from the ranges or from the call's place in a graph's replay.

    A process's replays with as many calls as its eager steps have take the layers of these, in order.
    """
    layer: Int32 = timeline.layer[kernel].astype(np.int32)
    pid = timeline.trace.kernels.pid[kernel]
    lost = np.flatnonzero(replayed & (layer < 0))
    if not len(lost):
        return layer
    orders = _eager_orders(timeline, kernel, replayed)
    replay = distinct_rows([pid[lost], timeline.launch[kernel[lost]]])[1]
    by_replay = lost[np.argsort(replay, kind="stable")]
    replays = np.split(by_replay, np.flatnonzero(np.diff(np.sort(replay))) + 1)
    for number, members in enumerate(replays):
        beside = [one for one in replays[max(0, number - 1) : number + 2] if pid[one[0]] == pid[members[0]]]
        if members is beside[-1] and len(members) < len(beside[0]):
            continue  # the trace may end inside it
        order = orders.get((int(pid[members[0]]), len(members)))
        if order is not None:
            layer[members] = order
    return layer


def _eager_orders(timeline: Timeline, kernel: Int64, replayed: Bool) -> dict[tuple[int, int], Narrow]:
    """By process and number of calls, the layers of an eager step's calls in order of their launches.

    Steps that disagree tell nothing.
    """
    eager = np.flatnonzero(~replayed & (timeline.layer[kernel] >= 0) & (timeline.step[kernel] >= 0))
    mine = kernel[eager]
    pid, step = timeline.trace.kernels.pid[mine], timeline.step[mine]
    order = np.lexsort((timeline.launch[mine], step, pid))
    mine, pid, step = mine[order], pid[order], step[order]
    edges = np.flatnonzero((np.diff(pid) != 0) | (np.diff(step) != 0)) + 1
    found: dict[tuple[int, int], list[Narrow]] = {}
    for part in np.split(mine, edges) if len(mine) else []:
        process = int(timeline.trace.kernels.pid[part[0]])
        found.setdefault((process, len(part)), []).append(timeline.layer[part])
    return {
        key: orders[0] for key, orders in found.items() if all(np.array_equal(orders[0], o) for o in orders)
    }


def _call_ids(timeline: Timeline, found: Int64) -> Int64:
    """Of these kernels, the number of the attention call: its range's, else the torch operator's row."""
    owner = _operators(timeline)
    if owner is None:
        return timeline.call[found].astype(np.int64)
    kernels = timeline.trace.kernels
    rows = zip(kernels.pid[found].tolist(), kernels.correlation[found].tolist(), strict=True)
    return np.fromiter((owner.get(key, NO_KERNEL) for key in rows), np.int64, len(found))


def _operators(timeline: Timeline) -> dict[tuple[int, int], int] | None:
    """Row of the torch operator by process and correlation of launches; None where ranges tell the call."""
    ops = timeline.trace.attention_ops
    if ops is None or not len(ops) or np.any(timeline.call >= 0):
        return None
    # Operators nest and come outermost first, so the innermost one is written last.
    return {
        (pid, correlation): row
        for row, pid in enumerate(ops.pid.tolist())
        for correlation in ops.correlations[row]
    }


# What an attention call launches beside its own kernels: filled, padded or copied tensors.
_HELPERS = re.compile(r"(?i)fill|copy|pad|CatArray|arange|random|distribution|zero")


def role_in_capture(name: str) -> Role:
    """Which kernel an attention operator may launch, by its name; a cache's writing is one's helper."""
    signature = parse_kernel_name(name)
    if signature.is_attention or signature.role == "scheduler":
        return "attention"
    return "helper" if _HELPERS.search(name) or "cache" in name else "other"


def _strangers(timeline: Timeline) -> dict[int, tuple[str, ...]]:
    """By number of the call, the kernels inside it that are neither attention nor such helpers."""
    kernels, strings = timeline.trace.kernels, timeline.trace.strings
    owner = _operators(timeline)
    if owner is None:
        inside = np.flatnonzero(timeline.call >= 0)
    else:
        inside = np.flatnonzero(np.isin(kernels.correlation, [correlation for _, correlation in owner]))
    odd = np.zeros(len(strings) + 1, np.bool_)
    for index in occurring(kernels.name[inside], len(strings)).tolist():
        name = strings[index]
        odd[index] = not (name == WHOLE_GRAPH or parse_kernel_name(name).library or _HELPERS.search(name))
    inside = inside[odd[kernels.name[inside]]]
    seqs = _call_ids(timeline, inside)
    found: dict[int, dict[str, None]] = {}
    for seq, name in zip(seqs.tolist(), kernels.name[inside].tolist(), strict=True):
        if seq >= 0:
            found.setdefault(seq, {})[parse_kernel_name(strings[name]).kernel] = None
    return {seq: tuple(names) for seq, names in found.items()}


def _first_with(
    wanted: npt.NDArray[np.bool_], call_of: Int64, first: Int64, default: int | None = None
) -> Int64:
    """Per call, the position of its first wanted kernel; else ``default``, or the call's first kernel."""
    answer = first.copy() if default is None else np.full(len(first), default, dtype=np.int64)
    positions = np.flatnonzero(wanted)[::-1]  # assigned last is first in the call
    answer[call_of[positions]] = positions
    return answer


def _launch(name: str, shape: list[int]) -> KernelLaunch:
    gx, gy, gz, bx, by, bz = shape
    # ROCm's tools may name the kernel's descriptor.
    return KernelLaunch(name.removesuffix(".kd"), (gx, gy, gz), (bx, by, bz))
