"""A timeline as the JSON that ui.perfetto.dev and chrome://tracing open, event by event.

Tracks: the ranges of each thread, kernels and copies of each stream, and num_splits as a counter per process.
Times are in microseconds since the first event: a trace's own clock may need more digits than a double has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from attnprof.dispatch.names.kernel_names import short_name
from attnprof.trace.range_nesting import lanes
from attnprof.trace.timeline import PHASE_NAMES

if TYPE_CHECKING:
    from attnprof.check.observed_calls import ObservedCalls
    from attnprof.trace.tables import Bool, Int64
    from attnprof.trace.timeline import Timeline

_GPU_PID = 9_000_000  # above every process id, so that a GPU is a process of its own
_LANE = 1 << 24  # above every thread id: further tracks of a thread
_AT_ONCE = 1 << 14

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """What is written: everything, or what touches [``begin``, ``end``] ns."""

    begin: int
    end: int

    def holds(self, start: Int64, end: Int64) -> Bool:
        return (start <= self.end) & (end >= self.begin)


def whole(timeline: Timeline) -> Window:
    """The window of all that was recorded; of nothing, an empty one."""
    trace = timeline.trace
    tables = [t for t in (trace.kernels, trace.copies, trace.ranges) if len(t)]
    begin = min((int(table.start.min()) for table in tables), default=0)
    return Window(begin, max((int(table.end.max()) for table in tables), default=0))


def window_of_steps(timeline: Timeline, first: int, last: int) -> Window | None:
    """The time of these steps, their ranges and their kernels; None where there is no such step."""
    trace, step = timeline.trace, timeline.of_range.step
    ranges = np.flatnonzero((step >= first) & (step <= last))
    kernels = np.flatnonzero((timeline.step >= first) & (timeline.step <= last))
    starts = [*trace.ranges.start[ranges].tolist()[:1], *trace.kernels.start[kernels].tolist()[:1]]
    if not starts:
        return None
    ends = [trace.ranges.end[ranges].max(initial=0), trace.kernels.end[kernels].max(initial=0)]
    return Window(min(starts), int(max(ends)))


def write_perfetto(timeline: Timeline, observed: ObservedCalls, out: TextIO, window: Window) -> int:
    """Writes the events of a window; returns how many."""
    out.write('{"displayTimeUnit": "ns", "traceEvents": [')
    number = 0
    for number, event in enumerate(_events(timeline, observed, window), start=1):
        out.write(("\n" if number == 1 else ",\n") + json.dumps(event, ensure_ascii=False))
    out.write("\n]}\n")
    return number


def _events(timeline: Timeline, observed: ObservedCalls, window: Window) -> Iterator[Event]:
    yield from _range_events(timeline, window)
    yield from _gpu_events(timeline, window)
    yield from _split_events(timeline, observed, window)


def _name(kind: str, pid: int, name: str, tid: int = 0) -> Event:
    return {"ph": "M", "name": f"{kind}_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _micros(ns: int, window: Window) -> float:
    return (ns - window.begin) / 1000


def _range_events(timeline: Timeline, window: Window) -> Iterator[Event]:
    """The ranges, a track per thread, and a further one for ranges that overlap without nesting."""
    trace = timeline.trace
    ranges, strings = trace.ranges, trace.strings
    inside = window.holds(ranges.start, ranges.end)
    mask = 0xFFFFFF if trace.info.format == "nsys-sqlite" else 0xFFFFFFFF
    for pid in np.unique(ranges.pid[inside]).tolist():
        yield _name("process", pid, f"process {pid}")
    seen: dict[int, int] = {}
    for lane in lanes(ranges):
        rows = lane.members[inside[lane.members]]
        if not len(rows):
            continue
        number = seen[lane.thread] = seen.get(lane.thread, -1) + 1
        pid, tid = int(ranges.pid[rows[0]]), (lane.thread & mask) + number * _LANE
        more = f", ranges {number + 1}" if number else ""
        yield _name("thread", pid, f"thread {lane.thread & mask}{more}", tid)
        of = timeline.of_range
        columns = (ranges.start, ranges.end, ranges.name, ranges.domain, of.step, of.layer, of.call)
        for start, end, name, domain, step, layer, call in zip(
            *(column[rows].tolist() for column in columns), strict=True
        ):
            label = f"{strings[domain]}:{strings[name]}" if domain else strings[name]
            known = {"step": step, "layer": layer, "call": call}
            args = {key: value for key, value in known.items() if value >= 0}
            at = {"ts": _micros(start, window), "dur": (end - start) / 1000}
            yield {"ph": "X", "name": label, "pid": pid, "tid": tid, **at, "args": args}


def _gpu_events(timeline: Timeline, window: Window) -> Iterator[Event]:
    """Kernels and copies, a process per GPU and a track per stream."""
    trace = timeline.trace
    kernels, copies = trace.kernels, trace.copies
    names = {device.index: device.name for device in trace.info.devices}
    shorts = [short_name(text) for text in trace.strings]
    launched = [_launched(shape) for shape in kernels.shapes.tolist()]
    mine = np.flatnonzero(window.holds(kernels.start, kernels.end))
    copied = np.flatnonzero(window.holds(copies.start, copies.end))
    pairs = zip((kernels.device, kernels.stream), (copies.device, copies.stream), strict=True)
    device, stream = (np.concatenate([k[mine], c[copied]]) for k, c in pairs)
    for gpu in np.unique(device).tolist():
        yield _name("process", _GPU_PID + gpu, f"GPU {gpu} {names.get(gpu) or ''}".strip())
        for one in np.unique(stream[device == gpu]).tolist():
            yield _name("thread", _GPU_PID + gpu, f"stream {one}", one)
    for first in range(0, len(mine), _AT_ONCE):
        rows = mine[first : first + _AT_ONCE]
        columns = (
            kernels.start, kernels.end, kernels.name, kernels.device, kernels.stream, kernels.shape,
            timeline.phase, timeline.step, timeline.layer,
        )  # fmt: skip
        for start, end, name, gpu, one, shape, phase, step, layer in zip(
            *(column[rows].tolist() for column in columns), strict=True
        ):
            args: dict[str, Any] = {"kernel": trace.strings[name]}
            args |= launched[shape]
            if phase:
                args["phase"] = PHASE_NAMES[phase]
            args |= {key: value for key, value in (("step", step), ("layer", layer)) if value >= 0}
            at = {"ts": _micros(start, window), "dur": (end - start) / 1000}
            yield {"ph": "X", "name": shorts[name], "pid": _GPU_PID + gpu, "tid": one, **at, "args": args}
    placed = (copies.start, copies.end, copies.device, copies.stream)
    for start, end, gpu, one in zip(*(column[copied].tolist() for column in placed), strict=True):
        at = {"ts": _micros(start, window), "dur": (end - start) / 1000}
        yield {"ph": "X", "name": "copy or set", "pid": _GPU_PID + gpu, "tid": one, **at, "args": {}}


def _launched(shape: list[int]) -> dict[str, str]:
    """Grid and block; nothing where the trace does not say."""
    if not shape[0]:
        return {}
    return {"grid": "x".join(map(str, shape[:3])), "block": "x".join(map(str, shape[3:]))}


def _split_events(timeline: Timeline, observed: ObservedCalls, window: Window) -> Iterator[Event]:
    """num_splits over time, an event where it changes."""
    kernels = timeline.trace.kernels
    before: dict[int, int | None] = {}
    splits = [shape.num_splits for shape in observed.shapes]
    start, device = kernels.start[observed.main], kernels.device[observed.main]
    rows = zip(start.tolist(), device.tolist(), observed.shape.tolist(), strict=True)
    for moment, gpu, shape in rows:
        if splits[shape] is None or not window.begin <= moment <= window.end:
            continue
        if before.get(gpu) != splits[shape]:
            before[gpu] = splits[shape]
            at = {"ts": _micros(moment, window), "pid": _GPU_PID + gpu, "tid": 0}
            yield {"ph": "C", "name": "num_splits", **at, "args": {"num_splits": splits[shape]}}
