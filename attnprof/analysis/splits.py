"""From which step and KV length on which kernel and how many splits, for each layer of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from attnprof.analysis.call_slots import slots
from attnprof.arrays import distinct
from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.check.observed_shape import ObservedShape
from attnprof.check.verdicts import CheckedCall, ReadBackCalls
from attnprof.dispatch.intervals import Interval, Intervals, first_length, union
from attnprof.dispatch.names.kernel_names import KernelSignature, parse_kernel_name
from attnprof.model import PHASES
from attnprof.trace.range_names import DECODE


@dataclass(frozen=True, slots=True)
class Geometry:
    """What of a call does not change as its cache grows; None where neither kernel nor record tells.

    ``head_dim`` and ``local``, a sliding window, are what the kernel was built for; ``heads`` (query heads,
    KV heads, head_dim) and ``window`` what the caller gave.
    """

    head_dim: int | None = None
    local: bool | None = None
    heads: tuple[int, int, int] | None = None
    window: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SplitRow:
    """Consecutive steps of one phase and some layers in which attention was dispatched alike.

    ``seqlen_k``: KV lengths in tokens, from the call records or as far as the launches tell them; empty where
    neither does. ``steps`` and ``layers`` are empty where the trace does not say. ``gpu_ns`` is None where
    nothing was observed. ``processes`` are the launching ones: of a run with call records their
    numbers, where there are several; of a trace their process ids. ``slots`` are (layer, which of its calls
    in a step); of unknown layers (-1, place in the step), or below -1 where places do not compare.
    ``recorded``: the lengths are those that the caller gave. ``of_requests``: the fewest and most splits
    that a request is predicted to get, () where all get ``num_splits``.
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
    slots: tuple[tuple[int, int], ...] = ()
    geometry: Geometry = Geometry()
    recorded: bool = False
    of_requests: tuple[int, int] | tuple[()] = ()


_Key = tuple[str, int | None, bool]
_RunKey = tuple[_Key, int | None, bool | None]  # what runs, and the head_dim and window it is built for


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive calls of one slot dispatched alike; fields as in SplitRow."""

    key: _Key
    steps: tuple[int, int] | tuple[()]
    seqlen_k: Intervals
    calls: int
    gpu_ns: int | None
    geometry: Geometry
    recorded: bool
    of_requests: tuple[int, ...]

    @property
    def alike(self) -> tuple[object, ...]:
        """What slots of one row have in common: of recorded calls the lengths too."""
        return self.key, self.steps, self.geometry, self.seqlen_k if self.recorded else ()


_Where = tuple[str, int, int, int]  # phase, layer, place and process, -1 where it is not known
_Timelines = dict[_Where, list[_Run]]


class _Told(NamedTuple):
    """Of a run of calls: KV lengths, geometry, whether the caller gave them, splits of its requests."""

    seqlen_k: Intervals
    geometry: Geometry = Geometry()
    recorded: bool = False
    of_requests: tuple[int, ...] = ()


_Lengths = Callable[[Int64], _Told]


def split_rows(calls: Sequence[CheckedCall]) -> list[SplitRow]:
    """The split timeline: run lengths over steps, layers and processes with the same timeline together."""
    timelines = _from_columns(calls) if isinstance(calls, ReadBackCalls) else _from_calls(calls)
    alike: dict[tuple[object, ...], list[_Where]] = defaultdict(list)
    for where, runs in timelines.items():
        alike[where[0], tuple(run.alike for run in runs)].append(where)
    rows: list[SplitRow] = []
    for members in alike.values():
        together = zip(*(timelines[member] for member in members), strict=True)
        rows += [_row(members, runs) for runs in together]
    order = {phase: place for place, phase in enumerate(PHASES[1:])}  # "other" comes last
    at = len(order)
    return sorted(
        rows, key=lambda row: (order.get(row.phase, at), row.layers, row.processes, row.slots, row.steps)
    )


def _row(members: Sequence[_Where], runs: Sequence[_Run]) -> SplitRow:
    kernel, num_splits, observed = runs[0].key
    spent = [run.gpu_ns for run in runs if run.gpu_ns is not None]
    return SplitRow(
        phase=members[0][0],
        layers=tuple(sorted({layer for _, layer, *_ in members if layer >= 0})),
        steps=runs[0].steps,
        seqlen_k=union({run.seqlen_k for run in runs}),
        num_splits=num_splits,
        kernel=kernel,
        calls=sum(run.calls for run in runs),
        observed=observed,
        gpu_ns=sum(spent) if spent else None,
        processes=tuple(sorted({process for *_, process in members if process >= 0})),
        slots=tuple(sorted({(layer, place) for _, layer, place, _ in members})),
        geometry=runs[0].geometry,
        recorded=runs[0].recorded,
        of_requests=_span([count for run in runs for count in run.of_requests]),
    )


def _span(counts: Sequence[int]) -> tuple[int, int] | tuple[()]:
    return (min(counts), max(counts)) if counts else ()


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


def _run_key(key: _Key, main: KernelSignature | None) -> _RunKey:
    if main is None:
        return key, None, None
    stated = dict(main.stated).get("head_dim")
    return key, main.head_dim or (stated if isinstance(stated, int) else None), main.local


def _key_of(call: CheckedCall) -> _RunKey:
    if call.observed is not None:
        return _run_key(_of_shape(call.observed), call.observed.main)
    launches = call.predicted.launches if call.predicted else ()
    return _run_key(kernel_and_splits(call), parse_kernel_name(launches[0].kernel) if launches else None)


class _Columns(NamedTuple):
    """Calls as columns, -1 where a number is unknown; ``key`` indexes ``keys``."""

    keys: list[_RunKey]
    phase: Int64
    layer: Int64
    process: Int64
    step: Int64
    key: Int64
    spent: Int64


def _is_known(call: CheckedCall) -> bool:
    return call.observed is not None or call.predicted is not None


def _columns_of(known: Sequence[CheckedCall]) -> _Columns:
    """The columns of calls whose kernels were observed or predicted."""
    several = any(call.process for call in known)
    numbers: dict[_RunKey, int] = {}
    rows = [
        (
            PHASES.index(call.phase),
            -1 if call.layer is None else call.layer,
            call.process if several and call.process is not None else -1,
            -1 if call.step is None else call.step,
            numbers.setdefault(_key_of(call), len(numbers)),
            -1 if call.duration_ns is None else call.duration_ns,
        )
        for call in known
    ]
    return _Columns([*numbers], *np.array(rows, np.int64).reshape(-1, 6).T)


def _from_calls(calls: Iterable[CheckedCall]) -> _Timelines:
    known = [call for call in calls if _is_known(call)]

    def lengths(members: Int64) -> _Told:
        """KV lengths of a run: those recorded, else those the launches allow."""
        mine = [known[row] for row in members.tolist()]
        given = [one.call for one in mine if one.call is not None]
        if not given:
            return _Told(union({one.inferred.seqlen_k for one in mine if one.inferred}))
        counts = [_span(one.predicted.splits_of_requests) for one in mine if one.predicted]
        recorded = [call.seqlen_k for call in given]
        first = given[0]
        heads = (first.num_heads, first.num_heads_k, first.head_dim)
        geometry = Geometry(heads=heads, window=first.window)
        of_requests = _span([count for each in counts for count in each])
        return _Told((Interval(min(recorded), max(recorded)),), geometry, True, of_requests)

    return _timelines(_columns_of(known), lengths)


def _observed_columns(o: ObservedCalls) -> _Columns:
    """The same of observed calls, without an object per call."""
    numbers: dict[_RunKey, int] = {}
    keys = [_run_key(_of_shape(shape), shape.main) for shape in o.shapes]
    codes = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    columns = (o.phase, o.layer, o.pid, o.step, codes[o.shape] if len(o) else o.shape, o.duration)
    return _Columns([*numbers], *(column.astype(np.int64) for column in columns))


def _from_columns(calls: ReadBackCalls) -> _Timelines:
    o, of_shape = calls.observed, calls.inferred

    def lengths(members: Int64) -> _Told:
        inferred = [of_shape[shape] for shape in distinct(o.shape[members]).tolist()]
        return _Told(union({one.seqlen_k for one in inferred if one is not None}))

    return _timelines(_observed_columns(o), lengths)


def slots_of_observed(observed: ObservedCalls) -> tuple[Int64, Int64, Int64]:
    """(phase, layer, which of its calls in a step) of observed calls, as :class:`SplitRow` numbers them."""
    return _slots_of(_observed_columns(observed))


def slots_of_calls(calls: Sequence[CheckedCall]) -> tuple[Int64, Int64, Int64]:
    """The same of checked calls; phase -1 of those that were neither observed nor predicted."""
    if isinstance(calls, ReadBackCalls):
        return slots_of_observed(calls.observed)
    known = [number for number, call in enumerate(calls) if _is_known(call)]
    wide = np.full((3, len(calls)), -1, np.int64)
    wide[:, known] = _slots_of(_columns_of([calls[number] for number in known]))
    return wide[0], wide[1], wide[2]


def _slots_of(calls: _Columns) -> tuple[Int64, Int64, Int64]:
    if not len(calls.step):
        return calls.phase, calls.layer, calls.step
    where = (calls.process, calls.phase, calls.layer)
    return calls.phase, calls.layer, slots(where, calls.step, calls.key)[0]


def _timelines(calls: _Columns, lengths: _Lengths) -> _Timelines:
    """The runs of each slot: of calls in order of their steps, those that follow each other alike."""
    found: _Timelines = defaultdict(list)
    if not len(calls.step):
        return found
    where = (calls.process, calls.phase, calls.layer)
    place, breaks = slots(where, calls.step, calls.key)
    order = np.lexsort((calls.step, place, *where))
    changes = np.ones(len(order), np.bool_)
    columns = (*where, place, calls.key, breaks)
    changes[1:] = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    first = np.flatnonzero(changes)
    after = np.append(first[1:], len(order))
    for a, b in zip(first.tolist(), after.tolist(), strict=True):
        members = order[a:b]
        at = members[0]
        key, head_dim, local = calls.keys[calls.key[at]]
        told = lengths(members)
        given = told.geometry
        spent = calls.spent[members]
        slot = (PHASES[calls.phase[at]], int(calls.layer[at]), int(place[at]), int(calls.process[at]))
        found[slot].append(
            _Run(
                key=key,
                steps=_known_steps(calls.step[members]),
                seqlen_k=told.seqlen_k,
                calls=b - a,
                gpu_ns=int(spent[spent >= 0].sum()) if np.any(spent >= 0) else None,
                geometry=Geometry(head_dim, local, given.heads, given.window),
                recorded=told.recorded,
                of_requests=told.of_requests,
            )
        )
    return found


def _known_steps(ascending: Int64) -> tuple[int, int] | tuple[()]:
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
