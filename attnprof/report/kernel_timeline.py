"""Every kernel of a trace for the page's timeline: columns as compressed bytes, and what they refer to.

The page's script reads ``KernelTimeline.head`` (JSON) and ``blob``: the columns of COLUMNS one after another,
each of unsigned 32-bit numbers as differences to the row before, their lowest bytes first, then the next
ones, all deflated and in base64. Rows are in order of lane, then start.
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnprof.analysis.kernel_groups import group_indices
from attnprof.analysis.phases import PART_NAMES, build_steps, kernel_parts
from attnprof.arrays import distinct_rows
from attnprof.dispatch.names.kernel_names import short_name
from attnprof.report.numbers import spans
from attnprof.report.thinned_kernels import MOST_ROWS, thinned
from attnprof.safety.redact import redact

if TYPE_CHECKING:
    from attnprof.analysis.splits import SplitRow
    from attnprof.check.check_run import CheckedCall
    from attnprof.check.observed_calls import ObservedCalls
    from attnprof.check.recording import Recording
    from attnprof.trace.tables import Int64
    from attnprof.trace.timeline import Timeline

# start: ticks since the first event; launch: one more, 0 for none. took, launched: ns, at most 2**32 - 1.
# kind: row of head["kinds"]. step, layer, call: one more than the number, 0 for none. count: kernels merged.
COLUMNS = ("start", "took", "kind", "launch", "launched", "step", "layer", "call", "phase", "count")
ROLES = ("attention", "matrix product", "communication", "normalisation", "elementwise", "other", "copy")
_OTHER_COLOURS = ("matrix product", "communication", "normalisation, elementwise", "other", "copy")
_COLOUR_OF_ROLE = (0, 0, 1, 2, 2, 3, 4)
_COPY = ROLES.index("copy")
_MOST = (1 << 32) - 1
SPLIT_LEVELS = (1, 2, 4, 8, 16, 32)  # a colour of attention up to each, and one above
_MOST_CHANGES = 400
_STRIPES = 240  # of the figure that stands in where no script runs

UInt32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Stripe:
    """A piece of the figure without script: lane, first and last of _STRIPES, and the role that has most."""

    lane: int
    first: int
    last: int
    role: int


@dataclass(frozen=True, slots=True)
class KernelTimeline:
    """What the page's timeline shows. ``thinned`` says what was merged so that the page stays small."""

    head: dict[str, Any]
    blob: str
    lanes: tuple[str, ...]
    stripes: tuple[Stripe, ...]
    thinned: str

    legend: tuple[tuple[int, str], ...]


def kernel_timeline(
    run: Recording, calls: Sequence[CheckedCall], splits: Sequence[SplitRow]
) -> KernelTimeline | None:
    """The timeline of a recording; None where it holds no kernel."""
    timeline = run.timeline
    if not len(timeline.trace.kernels):
        return None
    columns, lane, kinds, lanes, times = _rows(timeline, run.observed)
    begin, end = times
    span = max(1, end - begin)
    rows = len(lane)
    said = ""
    if rows > MOST_ROWS:
        columns, lane, merged = thinned(columns, lane, kinds, [_role(kind) for kind in kinds])
        said = (
            f"Of {rows:,} kernels and copies, {merged:,} that follow each other on a stream without "
            "attention between them are merged, so that the page stays small; attention is shown whole."
        )
    columns["count"] = columns.get("count", np.ones(len(lane), np.int64))
    tick = max(1, -(-span // _MOST))
    blob = _packed(columns, tick)
    head = {
        "tick": tick, "levels": SPLIT_LEVELS, "rows": len(lane), "columns": COLUMNS, "roles": ROLES,
        "lanes": [
            {"name": name, "first": int(first), "rows": int(count)}
            for name, first, count in zip(lanes, *_extents(lane, len(lanes)), strict=True)
        ],
        "kinds": [[redact(name), redact(full), role, n, grid] for name, full, role, n, grid in kinds],
        "phases": PART_NAMES,
        "changes": _changes(run.observed, timeline, splits, begin, tick),
        "calls": _call_rows(run.observed, calls),
    }  # fmt: skip
    stripes = _stripes(columns, lane, np.array([_role(kind) for kind in kinds]), span)
    return KernelTimeline(head, blob, tuple(lanes), stripes, said, _legend(kinds))


_UNSPLIT = ("splits not told", "not split")
_Kind = tuple[str, str, int, int, str]  # short name, full name, role, num_splits (0 unknown), grid
_Rows = tuple[dict[str, "Int64"], "Int64", list[_Kind], list[str], tuple[int, int]]


def _role(kind: _Kind) -> int:
    return kind[2]


def _rows(timeline: Timeline, observed: ObservedCalls) -> _Rows:
    """Kernels and copies as columns (times in ns since the first event), by lane and start."""
    trace = timeline.trace
    kernels, copies, api = trace.kernels, trace.copies, trace.api_calls
    splits, call = _of_attention(timeline, observed)
    steps = build_steps(timeline)
    lane_key = [np.concatenate([getattr(kernels, key), getattr(copies, key)]).astype(np.int64)
                for key in ("device", "stream")]  # fmt: skip
    several = len(np.unique(kernels.pid)) > 1
    pids = np.concatenate([kernels.pid, copies.pid]).astype(np.int64)
    lanes, lane = distinct_rows([pids if several else np.zeros_like(pids), *lane_key])
    none = np.full(len(copies), -1, np.int64)
    group = np.concatenate([group_indices(timeline).astype(np.int64), none - none + _COPY])
    name = np.concatenate([kernels.name.astype(np.int64), none])
    shape = np.concatenate([kernels.shape.astype(np.int64), none])
    of_call = np.concatenate([splits, none - none])
    kinds, kind = distinct_rows([group, name, shape, of_call])
    known = timeline.launch >= 0
    at = np.where(known, timeline.launch, 0)
    launch = np.where(known, api.start[at], 0) if len(api) else np.zeros(len(known), np.int64)
    launched = np.where(known, (api.end - api.start)[at], 0) if len(api) else launch
    begin = int(
        min([kernels.start.min(), *launch[known][:1], *([launch[known].min()] if known.any() else [])])
    )
    begin = min(begin, int(copies.start.min(initial=begin)))
    end = int(max(kernels.end.max(), copies.end.max(initial=0)))
    start = np.concatenate([kernels.start, copies.start]) - begin
    columns = {
        "start": start,
        "took": np.concatenate([kernels.end - kernels.start, copies.end - copies.start]),
        "kind": kind.astype(np.int64),
        "launch": np.concatenate([np.where(known, launch - begin + 1, 0), none - none]),
        "launched": np.concatenate([launched, none - none]),
        "step": np.concatenate([timeline.step.astype(np.int64), none]) + 1,
        "layer": np.concatenate([timeline.layer.astype(np.int64), none]) + 1,
        "call": np.concatenate([call, none]) + 1,
        "phase": np.concatenate([kernel_parts(timeline, steps).astype(np.int64), none + len(PART_NAMES)]),
    }
    order = np.lexsort((start, lane))
    columns = {key: values[order] for key, values in columns.items()}
    return (
        columns,
        lane[order],
        _kinds(trace.strings, trace.kernels.shapes, kinds),
        _lanes(lanes),
        (begin, end),
    )


def _kinds(strings: Sequence[str], shapes: npt.NDArray[np.int32], kinds: Sequence[Int64]) -> list[_Kind]:
    found: list[_Kind] = []
    for group, name, shape, splits in zip(*(column.tolist() for column in kinds), strict=True):
        if name < 0:
            found.append(("copy or set of memory", "", group, 0, ""))
            continue
        size = shapes[shape].tolist()
        grid = f"{'x'.join(map(str, size[:3]))}, block {'x'.join(map(str, size[3:]))}" if any(size) else ""
        found.append((short_name(strings[name]), strings[name], group, splits, grid))
    return found


def _legend(kinds: Sequence[_Kind]) -> tuple[tuple[int, str], ...]:
    """(colour, what it stands for) of those that occur; the page's script numbers them alike."""
    spans = pairwise((0, *SPLIT_LEVELS))
    labels = [f"{a + 1}–{b} splits" if b > a + 1 else f"{b} splits" for a, b in spans]
    told = {splits for _, _, role, splits, _ in kinds if role == 0} & {0, 1}
    first = " or ".join(words for count, words in enumerate(_UNSPLIT) if count in told)
    labels = [f"attention, {first}", *labels[1:], f"over {SPLIT_LEVELS[-1]} splits", *_OTHER_COLOURS]
    used = {
        bisect_left(SPLIT_LEVELS, splits) if role == 0 else len(SPLIT_LEVELS) + 1 + _COLOUR_OF_ROLE[role]
        for _, _, role, splits, _ in kinds
    }
    return tuple((colour, labels[colour]) for colour in sorted(used))


def _lanes(lanes: Sequence[Int64]) -> list[str]:
    pids, devices, _ = lanes
    several = len(np.unique(devices)) > 1
    # A process with a GPU of its own is told by it.
    pairs = len(distinct_rows([pids, devices])[0][0])
    processes = len(np.unique(pids)) > 1 and not pairs == len(np.unique(devices)) == len(np.unique(pids))
    return [
        (f"process {pid}, " if processes else "")
        + (f"GPU {device}, " if several else "")
        + f"stream {stream}"
        for pid, device, stream in zip(*(column.tolist() for column in lanes), strict=True)
    ]


def _of_attention(timeline: Timeline, observed: ObservedCalls) -> tuple[Int64, Int64]:
    """Per kernel of an attention call, its split count (0 unknown) and the call's place, -1 for none.

    What follows a main kernel on its stream and attends belongs to its call.
    """
    kernels = timeline.trace.kernels
    attends = np.flatnonzero(group_indices(timeline) == 0)
    place = np.full(len(kernels), -1, np.int64)
    place[observed.main] = np.arange(len(observed))
    columns = [kernels.pid[attends], kernels.device[attends], kernels.stream[attends]]
    stream = distinct_rows(columns)[1]
    order = attends[np.lexsort((kernels.start[attends], stream))]
    at = (
        np.maximum.accumulate(np.where(place[order] >= 0, np.arange(len(order)), -1)) if len(order) else order
    )
    belongs = at >= 0
    place[order[belongs]] = place[order[at[belongs]]]
    counts = np.array([shape.num_splits or 0 for shape in observed.shapes], np.int64)
    splits = np.zeros(len(kernels), np.int64)
    mine = place >= 0
    if mine.any():
        splits[mine] = counts[observed.shape[place[mine]]]
    return splits, place


def _packed(columns: Mapping[str, Int64], tick: int) -> str:
    """The columns as they lie in the page."""
    parts = []
    for name in COLUMNS:
        values = columns[name]
        if name in ("start", "launch"):
            values = values // tick + (values > 0) * (name == "launch" and tick > 1)
        clipped = np.minimum(values, _MOST).astype(np.uint32)
        different: UInt32 = np.diff(clipped, prepend=np.uint32(0))  # wraps, as the page's sum does
        parts.append(np.ascontiguousarray(different.view(np.uint8).reshape(-1, 4).T).tobytes())
    return base64.b64encode(zlib.compress(b"".join(parts), 5)).decode("ascii")


def _extents(lane: Int64, lanes: int) -> tuple[Int64, Int64]:
    """First row and number of rows of each lane."""
    count = np.bincount(lane, minlength=lanes)
    return np.cumsum(count) - count, count


def _changes(
    observed: ObservedCalls, timeline: Timeline, splits: Sequence[SplitRow], begin: int, tick: int
) -> list[list[Any]]:
    """[tick, words] of each moment from which on layers run another kernel or split count, in order."""
    start = timeline.trace.kernels.start[observed.main] - begin
    every = {(row.phase, slot) for row in splits for slot in row.slots}
    found: dict[int, str] = {}
    for before, after in pairwise(splits):
        same = (before.phase, before.slots, before.processes) == (after.phase, after.slots, after.processes)
        if not same or not after.steps or not after.observed:
            continue
        mine = np.flatnonzero(observed.step == after.steps[0])
        if len(mine):
            counts = [row.num_splits for row in (before, after)]
            what = f"{counts[0]} to {counts[1]} splits" if counts[0] != counts[1] else f"to {after.kernel}"
            layers = (
                f", layers {spans(after.layers)}"
                if after.layers and len(after.slots) < sum(phase == after.phase for phase, _ in every)
                else ""
            )
            words = f"{after.phase} step {after.steps[0]}: {what}{layers}"
            found.setdefault(int(start[mine].min()) // tick, words)
    return [[at, words] for at, words in sorted(found.items())][:_MOST_CHANGES]


def _call_rows(observed: ObservedCalls, calls: Sequence[CheckedCall]) -> list[int] | None:
    """Of each call as the page lists them, its place among the observed, -1 for none; None where alike."""
    from attnprof.check.verdicts import ReadBackCalls

    if isinstance(calls, ReadBackCalls):
        return None
    waiting: dict[int, list[int]] = {}
    for place, seq in reversed(list(enumerate(observed.seq.tolist()))):
        waiting.setdefault(seq, []).append(place)
    found = []
    for call in calls:
        queue = waiting.get(-1 if call.seq is None else call.seq) if call.observed is not None else None
        found.append(queue.pop() if queue else -1)
    return None if found == list(range(len(observed))) else found


def _stripes(columns: Mapping[str, Int64], lane: Int64, role_of_kind: Int64, span: int) -> tuple[Stripe, ...]:
    """The figure without script: who has most of each stripe, neighbours alike together."""
    roles = len(ROLES)
    lanes = int(lane.max()) + 1
    at = np.minimum(columns["start"] * _STRIPES // span, _STRIPES - 1)
    code = (lane * _STRIPES + at) * roles + role_of_kind[columns["kind"]]
    short = np.minimum(columns["took"], -(-span // _STRIPES))
    spent = np.bincount(code, weights=short, minlength=lanes * _STRIPES * roles)
    spent = spent.reshape(lanes, _STRIPES, roles)
    for row in np.flatnonzero(columns["took"] > short).tolist():  # at most _STRIPES in a lane
        last = int(columns["start"][row] + columns["took"][row]) * _STRIPES // span
        spent[lane[row], at[row] + 1 : last, role_of_kind[columns["kind"][row]]] += short[row]
    most = np.where(spent.any(axis=2), spent.argmax(axis=2), -1)
    found = []
    for number in range(lanes):
        edges = np.flatnonzero(np.diff(most[number], prepend=-2, append=-2))
        for first, after in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if most[number, first] >= 0:
                found.append(Stripe(number, first, after - 1, int(most[number, first])))
    return tuple(found)
