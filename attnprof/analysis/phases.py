"""Where time goes, prefill, first decode and steady decode apart: wall, GPU and idle time.

A step is *done* when its range has closed on the CPU and its last kernel has ended on the GPU. Its wall time
runs from when the step before was done, so it includes what happens between two forwards (sampling); that of
a prefill, and of a step with none before it, from its own start.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.analysis.idle import activities
from attnprof.arrays import blocks, coded_rows, look_up
from attnprof.check.observed_calls import attention_names
from attnprof.model import PHASES
from attnprof.trace.range_names import (
    DECODE,
    DRAFT,
    ENCODE,
    MIXED,
    OWN_DOMAIN,
    PREFILL,
    UNKNOWN_PHASE,
)
from attnprof.trace.tables import WHOLE_GRAPH, Bool, Int32, Int64
from attnprof.trace.timeline import Timeline

PART_NAMES = ("prefill", "first decode", "steady decode", "mixed", "encode", "draft", "unknown", "other")
PREFILL_PART, FIRST_DECODE, STEADY_DECODE, _MIXED, _ENCODE, _DRAFT, _UNKNOWN, OUTSIDE = range(8)
_PARTS = {  # the part of a step of each phase, the first decode apart
    PREFILL: PREFILL_PART, DECODE: STEADY_DECODE, MIXED: _MIXED, ENCODE: _ENCODE, DRAFT: _DRAFT,
    UNKNOWN_PHASE: _UNKNOWN,
}  # fmt: skip
_GRAPH, _KINDS = 2, 3  # of kernels: others, attention, graphs recorded whole
_PART_OF_PHASE = np.array([_PARTS.get(phase, OUTSIDE) for phase in range(len(PHASES))], np.int8)


@dataclass(frozen=True, slots=True)
class Steps:
    """Every step of every process, by process and time; one element per step. Times in ns.

    ``part`` is its place in PART_NAMES, FIRST_DECODE after a prefill; ``number`` the step's own.
    [``begin``, ``end``] is its wall time. ``idle`` is the wall time in which no kernel ran, summed over the
    ``devices`` its process uses; ``waiting`` the part of it in which the next kernel had not been launched;
    both are -1 where the trace cannot tell. ``of_kernel`` gives each kernel's step, -1 for none.
    """

    pid: Int32
    part: Int32
    number: Int32
    begin: Int64
    end: Int64
    kernels: Int64
    gpu: Int64
    attention: Int64
    devices: Int64
    idle: Int64
    waiting: Int64
    of_kernel: Int32

    def __len__(self) -> int:
        return len(self.part)

    @property
    def wall(self) -> Int64:
        """Wall time of each step."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class PhaseTotal:
    """One phase of PART_NAMES, of which "other" lies outside every step. Times in ns.

    ``wall_ns`` sums its steps' wall time, ``median_ns`` and ``p95_ns`` are of one step; None without steps.
    Without any step in the trace, "other" is all of it, from the first kernel to the last.
    ``device_wall_ns`` is the wall time times the GPUs in use; of it ``idle_ns`` passed without a kernel, and
    ``waiting_ns`` without the next kernel having been launched; None where the trace cannot tell.
    ``layer_ns`` and ``attention_layer_ns`` are GPU time of one layer in one step, None without layers.
    ``graph_ns`` of the GPU time were CUDA graphs recorded whole: what of it is attention is not known.
    """

    phase: str
    steps: int
    kernels: int
    gpu_ns: int
    attention_kernels: int
    attention_ns: int
    wall_ns: int | None = None
    median_ns: float | None = None
    p95_ns: float | None = None
    device_wall_ns: int | None = None
    idle_ns: int | None = None
    waiting_ns: int | None = None
    layer_ns: float | None = None
    attention_layer_ns: float | None = None
    graph_ns: int = 0

    @property
    def attention_share(self) -> float | None:
        """Attention's share of the phase's GPU time, 0 to 1; None without GPU time, or hidden in graphs."""
        return self.attention_ns / self.gpu_ns if self.gpu_ns and not self.graph_ns else None

    @property
    def idle_share(self) -> float | None:
        """Idle time's share of the wall time, 0 to 1."""
        return self._of_wall(self.idle_ns)

    @property
    def waiting_share(self) -> float | None:
        """The share of the wall time in which the GPU waited for a launch, 0 to 1."""
        return self._of_wall(self.waiting_ns)

    @property
    def attention_of_wall(self) -> float | None:
        """Attention's GPU time as a share of the wall time, 0 to 1."""
        return self._of_wall(self.attention_ns if self.kernels and not self.graph_ns else None)

    def _of_wall(self, part_ns: int | None) -> float | None:
        return None if part_ns is None or not self.device_wall_ns else part_ns / self.device_wall_ns


def attention_mask(timeline: Timeline) -> Bool:
    """Which kernels are attention kernels."""
    trace = timeline.trace
    return look_up(_attention_by_name(timeline), trace.kernels.name)


def _attention_by_name(timeline: Timeline) -> Bool:
    trace = timeline.trace
    known = np.zeros(len(trace.strings) + 1, np.bool_)
    known[list(attention_names(trace.strings, trace.kernels.name))] = True
    return known


def build_steps(timeline: Timeline) -> Steps:
    """The steps of a timeline; none where no range names a phase."""
    of_range = timeline.of_range
    kernels, ranges = timeline.trace.kernels, timeline.trace.ranges
    openers = np.concatenate([_step_ranges(timeline, phase) for phase in _PARTS])
    openers = openers[np.lexsort((ranges.start[openers], ranges.pid[openers]))]
    of_kernel = _step_of_kernel(timeline, openers)
    openers, of_kernel, end = _joined(timeline, openers, of_kernel)
    pid, start = ranges.pid[openers].astype(np.int32), ranges.start[openers]
    follows = np.append(False, pid[1:] == pid[:-1]) if len(pid) else np.zeros(0, np.bool_)
    phase = of_range.phase[openers]
    part = np.where(_after_prefill(phase, follows), FIRST_DECODE, _PART_OF_PHASE[phase])
    done = end
    for rows in blocks(len(kernels)):
        inside = np.flatnonzero(of_kernel[rows] >= 0)
        np.maximum.at(done, of_kernel[rows][inside], kernels.end[rows][inside])
    done = _running_max(done, follows)
    before = np.where(follows, np.roll(done, 1), start)
    begins = (phase == PREFILL) | (phase == ENCODE)  # what came before is not of this generation
    begin = np.where(follows & ~begins, before, np.maximum(start, before))
    end = np.maximum(done, begin)

    attention = _attention_by_name(timeline)
    sums = Sums(2 * len(pid) + 2)  # by step, those without one last, and whether it is attention
    for rows in blocks(len(kernels)):
        step = np.where(of_kernel[rows] >= 0, of_kernel[rows], np.int32(len(pid)))
        sums.add(
            2 * step.astype(np.int64) + attention[kernels.name[rows]], kernels.end[rows] - kernels.start[rows]
        )
    count, spent = (values.reshape(-1, 2)[:-1] for values in (sums.count, sums.total))
    devices, idle, waiting = _idle(timeline, pid, begin, end)
    return Steps(
        pid=pid,
        part=part.astype(np.int32),
        number=of_range.step[openers],
        begin=begin,
        end=end,
        kernels=count.sum(axis=1),
        gpu=spent.sum(axis=1),
        attention=spent[:, 1],
        devices=devices,
        idle=idle,
        waiting=waiting,
        of_kernel=of_kernel,
    )


def _joined(timeline: Timeline, openers: Int64, of_kernel: Int32) -> tuple[Int64, Int32, Int64]:
    """(first range, step of each kernel, end on the CPU) of the steps: what runs ahead of a step is its own.

    A vision tower may run before the forward it serves: attnprof's range of it has the same step then.
    """
    ranges, of_range, strings = timeline.trace.ranges, timeline.of_range, timeline.trace.strings
    same = np.zeros(len(openers), np.bool_)
    own = np.isin(ranges.domain[openers], [i for i, text in enumerate(strings) if text == OWN_DOMAIN])
    same[1:] = own[1:] & own[:-1]
    for column in (ranges.pid, ranges.thread, of_range.phase, of_range.step):
        same[1:] &= column[openers[1:]] == column[openers[:-1]]
    if not same.any():
        return openers, of_kernel, ranges.end[openers].copy()
    first = np.flatnonzero(~same)
    step = np.append(np.cumsum(~same) - 1, -1).astype(np.int32)  # the last one is what -1 finds
    return openers[first], step[of_kernel], np.maximum.reduceat(ranges.end[openers], first)


def _after_prefill(phase: Int32, follows: Bool) -> Bool:
    """Which steps are a generation's first decode: the steps of an assistant between do not count."""
    known = np.flatnonzero((phase == PREFILL) | (phase == DECODE) | (phase == MIXED))
    first = np.zeros(len(phase), np.bool_)
    process = np.cumsum(~follows)  # counts up at each process's first step
    mine, of = phase[known], process[known]
    first[known[1:]] = (mine[1:] == DECODE) & (mine[:-1] == PREFILL) & (of[1:] == of[:-1])
    return first


def phase_totals(timeline: Timeline, steps: Steps | None = None) -> list[PhaseTotal]:
    """The phases that have kernels or steps, in order; ``steps`` where they are known already."""
    steps = build_steps(timeline) if steps is None else steps
    kernels, kinds = timeline.trace.kernels, _attention_by_name(timeline).astype(np.int8)
    if timeline.trace.info.whole_graph_launches:
        kinds[[n for n, text in enumerate(timeline.trace.strings) if text == WHOLE_GRAPH]] = _GRAPH
    (layers,), of_layer = coded_rows([timeline.layer])
    sums = Sums(len(PART_NAMES) * len(layers) * _KINDS)  # by phase, layer and kind
    for rows in blocks(len(kernels)):
        where = kernel_parts(timeline, steps, rows).astype(np.int64) * len(layers) + of_layer[rows]
        sums.add(_KINDS * where + kinds[kernels.name[rows]], kernels.end[rows] - kernels.start[rows])
    shape = len(PART_NAMES), len(layers), _KINDS
    found = []
    for code in range(len(PART_NAMES)):
        count, spent = sums.count.reshape(shape)[code], sums.total.reshape(shape)[code]
        of_phase = steps.part == code
        if not count.any() and not of_phase.any():
            continue
        of_steps = int(of_phase.sum())
        total = PhaseTotal(
            phase=PART_NAMES[code],
            steps=of_steps,
            kernels=int(count[:, :_GRAPH].sum()),
            gpu_ns=int(spent.sum()),
            graph_ns=int(spent[:, _GRAPH].sum()),
            attention_kernels=int(count[:, 1].sum()),
            attention_ns=int(spent[:, 1].sum()),
            **(_of_steps(steps, of_phase) if of_steps else {}),
            **(_of_layers(count[layers >= 0], spent[layers >= 0], of_steps) if of_steps else {}),
            **(_of_trace(timeline) if not len(steps) else {}),
        )
        found.append(total)
    return found


def kernel_parts(timeline: Timeline, steps: Steps, rows: slice = slice(None)) -> npt.NDArray[np.int8]:
    """Each kernel's phase, as index into PART_NAMES; only those of ``rows`` where given."""
    of_kernel = steps.of_kernel[rows]
    parts = np.append(steps.part, 0).astype(np.int8)[of_kernel]
    found: npt.NDArray[np.int8] = np.where(of_kernel >= 0, parts, _PART_OF_PHASE[timeline.phase[rows]])
    return found


class Sums:
    """How many durations there are of each code, and their sum, block by block."""

    def __init__(self, codes: int) -> None:
        self.count, self.total = np.zeros(codes, np.int64), np.zeros(codes, np.int64)

    def add(self, code: Int64, duration: Int64) -> None:
        """Takes the durations of some rows."""
        size = len(self.count)
        self.count += np.bincount(code, minlength=size)
        # bincount adds floats: exact below 2**53, which a block's nanoseconds do not reach.
        self.total += np.bincount(code, weights=duration, minlength=size).astype(np.int64)


def _of_steps(steps: Steps, mine: Bool) -> dict[str, Any]:
    """The fields of PhaseTotal that come from its steps."""
    wall = steps.wall[mine]

    def known(values: Int64) -> int | None:
        return int(values[mine].sum()) if np.all(values[mine] >= 0) else None

    return {
        "wall_ns": int(wall.sum()),
        "median_ns": float(np.median(wall)),
        "p95_ns": float(np.percentile(wall, 95)),
        "device_wall_ns": int((wall * steps.devices[mine]).sum()) or None,
        "idle_ns": known(steps.idle),
        "waiting_ns": known(steps.waiting),
    }


def _of_layers(count: Int64, spent: Int64, steps: int) -> dict[str, Any]:
    """GPU time of one layer in one step, from counts and times by layer and attention."""
    layers = int(np.count_nonzero(count.any(axis=1)))
    if not layers:
        return {}
    each = steps * layers
    return {"layer_ns": float(spent.sum()) / each, "attention_layer_ns": float(spent[:, 1].sum()) / each}


def _of_trace(timeline: Timeline) -> dict[str, Any]:
    """Wall and idle time of a trace without steps: from the first kernel to the last."""
    kernels = timeline.trace.kernels
    begin, end = int(kernels.start.min()), int(kernels.end.max())
    window = np.array([begin]), np.array([end])
    gpus = [gpu for _, gpu in activities(timeline, begin, np.concatenate(window))]
    wall = (end - begin) * len(gpus)
    fields: dict[str, Any] = {"wall_ns": end - begin, "device_wall_ns": wall}
    if timeline.trace.info.whole_graph_launches:
        return fields
    fields["idle_ns"] = wall - sum(int(gpu.busy.within(*window)[0]) for gpu in gpus)
    waits = [gpu.waiting for gpu in gpus if gpu.waiting is not None]
    if len(waits) == len(gpus):
        fields["waiting_ns"] = sum(int(one.within(*window)[0]) for one in waits)
    return fields


def _idle(timeline: Timeline, pid: Int32, begin: Int64, end: Int64) -> tuple[Int64, Int64, Int64]:
    """(GPUs of the step's process, idle time, time waited for launches) per step; -1 where it cannot be told.

    Kernels inside graphs that were recorded whole are not in the trace: then no GPU can be called idle.
    """
    kernels = timeline.trace.kernels
    devices, busy, waited, waits = np.zeros((4, len(pid)), np.int64)
    if len(kernels) and len(pid):
        steps_of = {process: np.flatnonzero(pid == process) for process in np.unique(pid).tolist()}
        users = defaultdict(list)
        pairs = (column.tolist() for column in coded_rows([kernels.pid, kernels.device])[0])
        for process, device in zip(*pairs, strict=True):
            if process in steps_of:
                users[device].append(steps_of[process])
        for device, gpu in activities(timeline, int(begin.min()), np.concatenate([begin, end])):
            for mine in users[device]:
                devices[mine] += 1
                busy[mine] += gpu.busy.within(begin[mine], end[mine])
                if gpu.waiting is not None:
                    waits[mine] += 1
                    waited[mine] += gpu.waiting.within(begin[mine], end[mine])
    told = (devices > 0) & (timeline.trace.info.whole_graph_launches == 0)
    idle = np.where(told, devices * (end - begin) - busy, -1)
    return devices, idle, np.where(told & (waits == devices), waited, -1)


def _step_of_kernel(timeline: Timeline, openers: Int64) -> Int32:
    """Index of each kernel's step, by the ranges around its launch; -1 for none."""
    owner = np.full(len(timeline.parent) + 1, -1, np.int32)  # the last one is what -1 finds
    owner[openers] = np.arange(len(openers))
    for level in range(1, int(timeline.level.max(initial=0)) + 1):
        here = np.flatnonzero((timeline.level == level) & (owner[:-1] < 0))
        owner[here] = owner[timeline.parent[here]]
    return look_up(owner, timeline.range)


def _running_max(values: Int64, follows: npt.NDArray[np.bool_]) -> Int64:
    """The largest so far of each process, whose first element does not follow another."""
    highest: Int64 = values.copy()
    edges = np.append(np.flatnonzero(~follows), len(values))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        highest[first:last] = np.maximum.accumulate(values[first:last])
    return highest


def _step_ranges(timeline: Timeline, phase: int) -> Int64:
    """The ranges that open a step of the phase: those whose parent is of another phase or step."""
    mine, step = timeline.of_range.phase, timeline.of_range.step
    parent = timeline.parent
    inside = (parent >= 0) & (mine[parent] == phase) & (step[parent] == step)
    return np.flatnonzero((mine == phase) & ~inside)
