"""Where time goes, prefill, first decode and steady decode apart: wall, GPU and idle time.

A step is *done* when its range has closed on the CPU and its last kernel has ended on the GPU. Its wall time
runs from when the step before was done, so it includes what happens between two forwards (sampling); that of
a prefill, and of a step with none before it, from its own start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.analysis.idle import activities
from attnprof.observe import attention_names
from attnprof.timeline import Timeline
from attnprof.trace.model import Bool, Int32, Int64
from attnprof.trace.range_names import DECODE, PREFILL

PREFILL_PART, FIRST_DECODE, STEADY_DECODE, OUTSIDE = range(4)
PART_NAMES = ("prefill", "first decode", "steady decode", "other")


@dataclass(frozen=True, slots=True)
class Steps:
    """Every step of every process, by process and time; one element per step. Times in ns.

    ``part`` is PREFILL_PART, FIRST_DECODE (follows a prefill) or STEADY_DECODE; ``number`` the step's own.
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
    of_kernel: Int64

    def __len__(self) -> int:
        return len(self.part)

    @property
    def wall(self) -> Int64:
        """Wall time of each step."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class PhaseTotal:
    """One phase: prefill, first decode, steady decode, or what lies outside every step. Times in ns.

    ``wall_ns`` sums its steps' wall time, ``median_ns`` and ``p95_ns`` are of one step; None without steps.
    Without any step in the trace, "other" is all of it, from the first kernel to the last.
    ``device_wall_ns`` is the wall time times the GPUs in use; of it ``idle_ns`` passed without a kernel, and
    ``waiting_ns`` without the next kernel having been launched; None where the trace cannot tell.
    ``layer_ns`` and ``attention_layer_ns`` are GPU time of one layer in one step, None without layers.
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

    @property
    def attention_share(self) -> float | None:
        """Attention's share of the phase's GPU time, 0 to 1; None without GPU time."""
        return self.attention_ns / self.gpu_ns if self.gpu_ns else None

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
        return self._of_wall(self.attention_ns if self.kernels else None)

    def _of_wall(self, part_ns: int | None) -> float | None:
        return None if part_ns is None or not self.device_wall_ns else part_ns / self.device_wall_ns


def attention_mask(timeline: Timeline) -> Bool:
    """Which kernels are attention kernels."""
    trace = timeline.trace
    known = np.zeros(len(trace.strings) + 1, np.bool_)
    known[list(attention_names(trace.strings, trace.kernels.name))] = True
    return known[trace.kernels.name]


def build_steps(timeline: Timeline) -> Steps:
    """The steps of a timeline; none where no range names a phase."""
    trace, of_range = timeline.trace, timeline.of_range
    kernels, ranges = trace.kernels, trace.ranges
    openers = np.concatenate([_step_ranges(timeline, phase) for phase in (PREFILL, DECODE)])
    openers = openers[np.lexsort((ranges.start[openers], ranges.pid[openers]))]
    of_kernel = _step_of_kernel(timeline, openers)
    pid, start = ranges.pid[openers], ranges.start[openers]
    follows = np.append(False, pid[1:] == pid[:-1]) if len(pid) else np.zeros(0, np.bool_)
    phase = of_range.phase[openers]
    after_prefill = follows & (np.roll(phase, 1) == PREFILL)
    part = np.where(phase == PREFILL, PREFILL_PART, np.where(after_prefill, FIRST_DECODE, STEADY_DECODE))
    inside = of_kernel >= 0
    done = ranges.end[openers].copy()
    np.maximum.at(done, of_kernel[inside], kernels.end[inside])
    done = _running_max(done, follows)
    before = np.where(follows, np.roll(done, 1), start)
    begin = np.where(follows & (phase == DECODE), before, np.maximum(start, before))
    end = np.maximum(done, begin)

    duration = kernels.end - kernels.start
    attention = inside & attention_mask(timeline)
    devices, idle, waiting = _idle(timeline, pid, begin, end)
    return Steps(
        pid=pid,
        part=part.astype(np.int32),
        number=of_range.step[openers],
        begin=begin,
        end=end,
        kernels=np.bincount(of_kernel[inside], minlength=len(pid)),
        gpu=_sums(of_kernel[inside], duration[inside], len(pid)),
        attention=_sums(of_kernel[attention], duration[attention], len(pid)),
        devices=devices,
        idle=idle,
        waiting=waiting,
        of_kernel=of_kernel,
    )


def phase_totals(timeline: Timeline, steps: Steps | None = None) -> list[PhaseTotal]:
    """The phases that have kernels or steps, in order; ``steps`` where they are known already."""
    steps = build_steps(timeline) if steps is None else steps
    kernels = timeline.trace.kernels
    parts = kernel_parts(timeline, steps)
    attention = attention_mask(timeline)
    duration = kernels.end - kernels.start
    rows = []
    for code, name in enumerate(PART_NAMES):
        mine, of_phase = parts == code, steps.part == code
        if not mine.any() and not of_phase.any():
            continue
        count = int(of_phase.sum())
        total = PhaseTotal(
            phase=name,
            steps=count,
            kernels=int(mine.sum()),
            gpu_ns=int(duration[mine].sum()),
            attention_kernels=int((mine & attention).sum()),
            attention_ns=int(duration[mine & attention].sum()),
            **(_of_steps(steps, of_phase) if count else {}),
            **(_of_layers(timeline, mine, attention, count) if count else {}),
            **(_of_trace(timeline) if not len(steps) else {}),
        )
        rows.append(total)
    return rows


def kernel_parts(timeline: Timeline, steps: Steps) -> Int64:
    """Each kernel's phase, as index into PART_NAMES."""
    by_phase = np.full(3, OUTSIDE)
    by_phase[[PREFILL, DECODE]] = PREFILL_PART, STEADY_DECODE
    parts = np.append(steps.part, 0)[steps.of_kernel]
    found: Int64 = np.where(steps.of_kernel >= 0, parts, by_phase[timeline.phase])
    return found


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


def _of_layers(timeline: Timeline, mine: Bool, attention: Bool, steps: int) -> dict[str, Any]:
    """GPU time of one layer in one step, from the kernels that belong to a layer."""
    in_layer = mine & (timeline.layer >= 0)
    layers = len(np.unique(timeline.layer[in_layer]))
    if not layers:
        return {}
    duration = timeline.trace.kernels.end - timeline.trace.kernels.start
    each = steps * layers
    return {
        "layer_ns": float(duration[in_layer].sum()) / each,
        "attention_layer_ns": float(duration[in_layer & attention].sum()) / each,
    }


def _of_trace(timeline: Timeline) -> dict[str, Any]:
    """Wall and idle time of a trace without steps: from the first kernel to the last."""
    kernels = timeline.trace.kernels
    begin, end = int(kernels.start.min()), int(kernels.end.max())
    gpus = activities(timeline, begin)
    window = np.array([begin]), np.array([end])
    wall = (end - begin) * len(gpus)
    fields: dict[str, Any] = {"wall_ns": end - begin, "device_wall_ns": wall}
    if timeline.trace.info.whole_graph_launches:
        return fields
    fields["idle_ns"] = wall - sum(int(gpu.busy.within(*window)[0]) for gpu in gpus.values())
    waits = [gpu.waiting for gpu in gpus.values() if gpu.waiting is not None]
    if len(waits) == len(gpus):
        fields["waiting_ns"] = sum(int(one.within(*window)[0]) for one in waits)
    return fields


def _idle(timeline: Timeline, pid: Int32, begin: Int64, end: Int64) -> tuple[Int64, Int64, Int64]:
    """(GPUs of the step's process, idle time, time waited for launches) per step; -1 where it cannot be told.

    Kernels inside graphs that were recorded whole are not in the trace: then no GPU can be called idle.
    """
    kernels = timeline.trace.kernels
    devices, idle, waiting = (np.full(len(pid), start, np.int64) for start in (0, -1, -1))
    if not len(kernels) or not len(pid):
        return devices, idle, waiting
    gpus = activities(timeline, int(begin.min()))
    blind = timeline.trace.info.whole_graph_launches > 0
    for process in np.unique(pid).tolist():
        mine = pid == process
        used = np.unique(kernels.device[kernels.pid == process]).tolist()
        devices[mine] = len(used)
        if blind or not used:
            continue
        window = begin[mine], end[mine]
        busy = sum(gpus[device].busy.within(*window) for device in used)
        idle[mine] = len(used) * (end[mine] - begin[mine]) - busy
        waits = [one for device in used if (one := gpus[device].waiting) is not None]
        if len(waits) == len(used):
            waiting[mine] = sum(one.within(*window) for one in waits)
    return devices, idle, waiting


def _step_of_kernel(timeline: Timeline, openers: Int64) -> Int64:
    """Index of each kernel's step, by the ranges around its launch; -1 for none."""
    owner = np.full(len(timeline.parent) + 1, -1, np.int64)  # the last one is what -1 finds
    owner[openers] = np.arange(len(openers))
    for level in range(1, int(timeline.level.max(initial=0)) + 1):
        here = np.flatnonzero((timeline.level == level) & (owner[:-1] < 0))
        owner[here] = owner[timeline.parent[here]]
    of_kernel: Int64 = owner[timeline.range]
    return of_kernel


def _running_max(values: Int64, follows: npt.NDArray[np.bool_]) -> Int64:
    """The largest so far of each process, whose first element does not follow another."""
    highest: Int64 = values.copy()
    edges = np.append(np.flatnonzero(~follows), len(values))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        highest[first:last] = np.maximum.accumulate(values[first:last])
    return highest


def _sums(group: Int64, values: Int64, groups: int) -> Int64:
    summed: Int64 = np.bincount(group, weights=values, minlength=groups).astype(np.int64)
    return summed


def _step_ranges(timeline: Timeline, phase: int) -> Int64:
    """The ranges that open a step of the phase: those whose parent is of another phase or step."""
    mine, step = timeline.of_range.phase, timeline.of_range.step
    parent = timeline.parent
    inside = (parent >= 0) & (mine[parent] == phase) & (step[parent] == step)
    return np.flatnonzero((mine == phase) & ~inside)
