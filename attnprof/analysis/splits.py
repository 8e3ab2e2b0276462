"""From which step and KV length on which kernel and how many splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from attnprof.arrays import distinct_rows
from attnprof.check.observed_calls import Int32, ObservedShape
from attnprof.check.verdicts import CheckedCall, ReadBackCalls
from attnprof.dispatch.intervals import Interval, Intervals, first_length, union
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import PHASES
from attnprof.trace.range_names import DECODE
from attnprof.trace.timeline import PHASE_NAMES


@dataclass(frozen=True, slots=True)
class SplitRow:
    """Consecutive steps of one phase and some layers in which attention was dispatched alike.

    ``seqlen_k``: KV lengths in tokens, from the call records or as far as the launches tell them; empty where
    neither does. ``steps`` and ``layers`` are empty where the trace does not say. ``gpu_ns`` is None where
    nothing was observed. ``processes`` are the launching ones: of a run with call records their
    numbers, where there are several; of a trace their process ids.
    """

    phase: str
    layers: tuple[int, ...]
    steps: tuple[int, int] | tuple[()]
    seqlen_k: Intervals
    num_splits: int | None
    kernel: str
    calls: int
    observed: bool
    gpu_ns: int | None
    processes: tuple[int, ...] = ()


_Key = tuple[str, int | None, bool]


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive calls of one phase and layer dispatched alike; fields as in SplitRow."""

    key: _Key
    steps: tuple[int, int] | tuple[()]
    seqlen_k: Intervals
    calls: int
    gpu_ns: int | None


_Where = tuple[str, int, int]  # phase, layer and process, -1 where it is not known
_Timelines = dict[_Where, list[_Run]]


def split_rows(calls: Sequence[CheckedCall]) -> list[SplitRow]:
    """The split timeline: run lengths over steps, layers and processes with the same timeline together."""
    timelines = _from_columns(calls) if isinstance(calls, ReadBackCalls) else _from_calls(calls)
    alike: dict[tuple[object, ...], list[_Where]] = defaultdict(list)
    for where, runs in timelines.items():
        alike[where[0], tuple((run.key, run.steps) for run in runs)].append(where)
    rows: list[SplitRow] = []
    for members in alike.values():
        together = zip(*(timelines[member] for member in members), strict=True)
        rows += [_row(members, runs) for runs in together]
    order = {phase: place for place, phase in enumerate(PHASES[1:])}  # "other" comes last
    at = len(order)
    return sorted(rows, key=lambda row: (order.get(row.phase, at), row.layers, row.processes, row.steps))


def _row(members: Sequence[_Where], runs: Sequence[_Run]) -> SplitRow:
    kernel, num_splits, observed = runs[0].key
    spent = [run.gpu_ns for run in runs if run.gpu_ns is not None]
    return SplitRow(
        phase=members[0][0],
        layers=tuple(sorted({layer for _, layer, _ in members if layer >= 0})),
        steps=runs[0].steps,
        seqlen_k=union({run.seqlen_k for run in runs}),
        num_splits=num_splits,
        kernel=kernel,
        calls=sum(run.calls for run in runs),
        observed=observed,
        gpu_ns=sum(spent) if spent else None,
        processes=tuple(sorted({process for *_, process in members if process >= 0})),
    )


def kernel_and_splits(call: CheckedCall) -> _Key:
    """What a call is grouped by: its kernels' names, its split count, and whether it was seen to run."""
    if call.observed is not None:
        return _of_shape(call.observed)
    if call.predicted is not None and call.predicted.launches:
        names = [parse_kernel_name(launch.kernel).kernel for launch in call.predicted.launches]
    else:
        names = ["none" if call.predicted is None or call.predicted.error is None else "refused"]
    return " + ".join(names), call.num_splits, False


def _of_shape(shape: ObservedShape) -> _Key:
    return " + ".join(signature.kernel for signature in shape.signatures), shape.num_splits, True


def _from_calls(calls: Iterable[CheckedCall]) -> _Timelines:
    by_layer: dict[_Where, list[CheckedCall]] = defaultdict(list)
    calls = list(calls)
    several = any(call.process for call in calls)
    for call in calls:
        if call.observed is not None or call.predicted is not None:
            process = call.process if several and call.process is not None else -1
            by_layer[call.phase, -1 if call.layer is None else call.layer, process].append(call)
    return {where: [_run(part) for part in _run_lengths(group)] for where, group in by_layer.items()}


def _run_lengths(calls: Iterable[CheckedCall]) -> list[list[CheckedCall]]:
    runs: list[list[CheckedCall]] = []
    for call in sorted(calls, key=lambda c: -1 if c.step is None else c.step):
        if runs and kernel_and_splits(runs[-1][-1]) == kernel_and_splits(call):
            runs[-1].append(call)
        else:
            runs.append([call])
    return runs


def _run(calls: Sequence[CheckedCall]) -> _Run:
    steps = [call.step for call in calls if call.step is not None]
    spent = [call.duration_ns for call in calls if call.duration_ns is not None]
    return _Run(
        key=kernel_and_splits(calls[0]),
        steps=(min(steps), max(steps)) if steps else (),
        seqlen_k=_lengths(calls),
        calls=len(calls),
        gpu_ns=sum(spent) if spent else None,
    )


def _lengths(run: Sequence[CheckedCall]) -> Intervals:
    """KV lengths of a run: those recorded, else those the launches allow."""
    recorded = [call.call.seqlen_k for call in run if call.call is not None]
    if recorded:
        return (Interval(min(recorded), max(recorded)),)
    return union({call.inferred.seqlen_k for call in run if call.inferred is not None})


def _from_columns(calls: ReadBackCalls) -> _Timelines:
    """The same for calls that are columns, without an object per call."""
    o = calls.observed
    if not len(o):
        return {}
    keys = [_of_shape(shape) for shape in o.shapes]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    order = np.lexsort((o.step, o.layer, o.phase, o.pid))
    group = np.array([numbers[key] for key in keys])[o.shape[order]]
    phase, layer, step, pid = o.phase[order], o.layer[order], o.step[order], o.pid[order]
    changes = np.ones(len(order), np.bool_)
    columns = (phase, layer, pid, group)
    changes[1:] = np.any([np.diff(column) != 0 for column in columns], axis=0)
    first = np.flatnonzero(changes)
    last = np.append(first[1:], len(order)) - 1
    spent = np.add.reduceat(o.duration[order], first)
    of_run = np.cumsum(changes) - 1
    (runs, shapes), _ = distinct_rows([of_run, o.shape[order]])
    shapes_of_run = np.split(shapes, np.flatnonzero(np.diff(runs)) + 1)
    of_shape = calls.inferred
    timelines: _Timelines = defaultdict(list)
    for number, (a, b, ns) in enumerate(zip(first.tolist(), last.tolist(), spent.tolist(), strict=True)):
        inferred = [of_shape[shape] for shape in shapes_of_run[number].tolist()]
        timelines[PHASE_NAMES[int(phase[a])], int(layer[a]), int(pid[a])].append(
            _Run(
                key=keys[int(o.shape[order[a]])],
                steps=_known_steps(step[a : b + 1]),
                seqlen_k=union({one.seqlen_k for one in inferred if one is not None}),
                calls=b + 1 - a,
                gpu_ns=ns,
            )
        )
    return timelines


def _known_steps(ascending: Int32) -> tuple[int, int] | tuple[()]:
    """First and last of the steps of a run; unknown ones, -1, come first."""
    known = ascending[ascending >= 0] if ascending[0] < 0 else ascending
    return (int(known[0]), int(known[-1])) if len(known) else ()


def inferred_first_length(calls: Sequence[CheckedCall]) -> Intervals:
    """The KV length of the first decode step of a trace without records, from one layer's calls per step."""
    allowed = _allowed_by_columns(calls) if isinstance(calls, ReadBackCalls) else _allowed(calls)
    steps = sorted(allowed)
    if not steps or steps != list(range(steps[0], steps[0] + len(steps))):
        return ()
    return first_length([allowed[step] for step in steps])


def _allowed(calls: Sequence[CheckedCall]) -> dict[int, Intervals]:
    """The KV lengths that each decode step's kernels allow, in the layer of the first call."""
    decode = [(call, call.step, call.inferred) for call in calls if call.phase == "decode"]
    known = [(call, step, inferred) for call, step, inferred in decode if step is not None and inferred]
    return {step: inferred.seqlen_k for call, step, inferred in known if call.layer == known[0][0].layer}


def _allowed_by_columns(calls: ReadBackCalls) -> dict[int, Intervals]:
    o = calls.observed
    readable = np.array([inferred is not None for inferred in calls.inferred], np.bool_)
    if not readable.any():
        return {}
    decode = np.flatnonzero((o.phase == DECODE) & (o.step >= 0) & readable[o.shape])
    if len(decode):
        decode = decode[(o.layer[decode] == o.layer[decode[0]]) & (o.pid[decode] == o.pid[decode[0]])]
    lengths = [inferred.seqlen_k if inferred else () for inferred in calls.inferred]
    pairs = zip(o.step[decode].tolist(), o.shape[decode].tolist(), strict=True)
    return {step: lengths[shape] for step, shape in pairs}
