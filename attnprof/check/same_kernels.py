"""Steps and replays that ran the same other kernels: the attention beside these is the same, too.

What a model runs between its attention calls says which step it is: of which model, batch and length. Steps
that agree in each of these kernels and its grid, and in how often it ran, make as many attention calls; and
the replays of one CUDA graph, which agree in them because nothing is chosen anew, make the very same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attnprof.arrays import blocks, distinct, scattered
from attnprof.trace.tables import Bool, Int32, Int64
from attnprof.trace.timeline import Timeline

_FEWEST = 2  # that agree
_MOST_STEPS = 1 << 22  # the highest step number looked at
_MOST_UNITS = 1 << 20
_NEVER = np.iinfo(np.int64).max
Float64 = npt.NDArray[np.float64]


class OddWork(NamedTuple):
    """A step or replay, whose first call is row ``row``, beside ``others`` with the same other kernels.

    ``place`` is None where it made ``ran`` attention calls and the others ``usual``, else it is the call, by
    its place from 0, whose launches are those of shape ``ran``, the others' being of shape ``usual``.
    ``replayed``: these are replays.
    """

    row: int
    place: int | None
    ran: int
    usual: int
    others: int
    replayed: bool


class _Unit(NamedTuple):
    """A step's eager calls, or a replay's, as rows; ``halves``: each may be one of two that are one call.

    ``opens`` and ``closes``: attention began before, and after, every other kernel.
    """

    rows: Int64
    opens: bool
    closes: bool
    halves: bool


def find_odd_work(
    timeline: Timeline, main: Int64, shape: Int64, replayed: Bool, attention: Bool, halves: Bool
) -> tuple[OddWork, ...]:
    """The steps and replays whose attention is not that of the others with the same other kernels.

    Per call: its main kernel, its shape, whether a graph replayed it, and whether it may be a half of one
    (``halves``). ``attention``: which names are an
    attention call's. Eager steps of mixed batches, in which each layer makes two calls, are left alone.
    """
    kernels = timeline.trace.kernels
    pid, step = kernels.pid[main], timeline.step[main]
    launch, layer = timeline.launch[main], timeline.layer[main].astype(np.int32)
    eager = ~replayed & (step >= 0) & (step < _MOST_STEPS)
    replays = replayed & (launch >= 0)
    if not (eager.any() or replays.any()):
        return ()
    weights = _Weights(timeline, attention)
    found: list[OddWork] = []
    for process in distinct(pid).tolist():
        mine = pid == process
        groups: dict[float, list[_Unit]] = {}
        of_replays: dict[float, list[_Unit]] = {}
        for rows, by_launch in (
            (np.flatnonzero(mine & eager), False),
            (np.flatnonzero(mine & replays), True),
        ):
            if not len(rows):
                continue
            sums, first, last = weights.of(process, by_launch)
            number = launch if by_launch else step
            for unit in _units(rows, number[rows]):
                key = int(number[unit[0]])
                if not sums[key]:
                    continue
                began = kernels.start[main[unit]]
                opens, closes = bool(began.min() < first[key]), bool(began.max() > last[key])
                one = _Unit(unit, opens, closes, bool(halves[unit].all()))
                groups.setdefault(float(sums[key]), []).append(one)
                if by_launch:
                    of_replays.setdefault(float(sums[key]), []).append(one)
        rows_of = np.flatnonzero(mine & (eager | replays))
        for units in of_replays.values():
            found += [*_other_numbers(units, rows_of, layer, True), *_other_launches(units, shape)]
        known = {one.row for one in found}
        for units in groups.values():
            found += [one for one in _other_numbers(units, rows_of, layer, False) if one.row not in known]
    return tuple(found)


def count_beside(timeline: Timeline, launch: Int32, replayed: Bool, attention: Bool) -> Int64:
    """Per call, the kernels that its graph's launch started beside attention; 0 where there is no graph.

    ``launch``: per call, what started it.
    """
    counts = np.zeros(len(timeline.trace.api_calls) + 1, np.int64)
    if not replayed.any():
        return np.zeros(len(launch), np.int64)
    kernels = timeline.trace.kernels
    for rows in blocks(len(kernels)):
        others = (timeline.launch[rows] >= 0) & ~attention[kernels.name[rows]]
        counts += np.bincount(timeline.launch[rows][others], minlength=len(counts))
    found: Int64 = np.where(replayed & (launch >= 0), counts[launch], 0)
    return found


class _Weights:
    """What of a step or replay is no attention, added up: equal sums are equal kernels, as good as surely."""

    def __init__(self, timeline: Timeline, attention: Bool) -> None:
        self.timeline = timeline
        kernels = timeline.trace.kernels
        weights = 1 + (scattered(len(attention) + len(kernels.shapes)) >> np.uint64(48)).astype(np.float64)
        self.of_name, self.of_shape = np.split(weights, [len(attention)])
        self.of_name[attention] = 0
        self.replayed = timeline.replayed()

    def of(self, process: int, by_launch: bool) -> tuple[Float64, Int64, Int64]:
        """By launch, or by step: the sum, and when the first and the last such kernel began."""
        timeline, kernels = self.timeline, self.timeline.trace.kernels
        key: Any = timeline.launch if by_launch else timeline.step
        size = len(timeline.trace.api_calls) if by_launch else min(int(key.max()) + 1, _MOST_STEPS)
        sums, first, last = np.zeros(size), np.full(size, _NEVER), np.zeros(size, np.int64)
        for rows in blocks(len(kernels)):
            mine = (kernels.pid[rows] == process) & (self.replayed[rows] == by_launch)
            mine &= (key[rows] >= 0) & (key[rows] < size)
            weights = self.of_name[kernels.name[rows][mine]] * self.of_shape[kernels.shape[rows][mine]]
            keys, other = key[rows][mine], weights > 0
            sums += np.bincount(keys, weights, minlength=size)
            began = kernels.start[rows][mine][other]
            np.minimum.at(first, keys[other], began)
            np.maximum.at(last, keys[other], began)
        return sums, first, last


def _units(rows: Int64, keys: npt.NDArray[np.integer]) -> list[Int64]:
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(rows[order], edges)[:_MOST_UNITS]


def _other_numbers(units: Sequence[_Unit], rows: Int64, layer: Int32, replayed: bool) -> Iterator[OddWork]:
    """The first unit of each number of calls that is not the usual one; none of which the trace cut calls.

    The usual number is the first one's where another agrees with it, else that of most.
    """
    units = sorted(units, key=lambda unit: int(unit.rows[0]))
    counts = Counter(len(unit.rows) for unit in units)
    if len(counts) == 1:
        return
    usual = len(units[0].rows)
    if counts[usual] < _FEWEST:
        usual = max(counts, key=lambda number: (counts[number], number))
    like = [unit for unit in units if len(unit.rows) == usual]
    if all(rows[0] == unit.rows[0] or rows[-1] == unit.rows[-1] for unit in like):
        return  # of which the trace may have cut other kernels
    opens, closes = any(unit.opens for unit in like), any(unit.closes for unit in like)
    layers, told = {one for unit in like for one in layer[unit.rows].tolist()}, {usual}
    for unit in units:
        ran = len(unit.rows)
        cut = opens and not unit.opens and rows[0] == unit.rows[0]
        cut = cut or (closes and not unit.closes and rows[-1] == unit.rows[-1])
        # Of a mixed batch each layer makes a call for the prompts and one for the rest; cut, one may not.
        # A replay may launch each call in two halves, which look like two calls.
        made = Counter(layer[unit.rows].tolist())
        alike = layers == set(made) or (unit.halves if ran > usual else like[0].halves)
        mixed = abs(ran - usual) >= min(ran, usual) and alike
        mixed = mixed or (cut and sum(calls == 1 for calls in made.values()) <= 1)
        if ran in told or (mixed and not replayed) or (cut and ran < usual):
            continue
        told.add(ran)
        yield OddWork(int(unit.rows[0]), None, ran, usual, counts[usual], replayed)


def _other_launches(units: Sequence[_Unit], shape: Int64) -> Iterator[OddWork]:
    """A replay of which one call alone launched something else than in all others."""
    made: dict[tuple[int, ...], list[_Unit]] = {}
    for unit in units:
        made.setdefault(tuple(shape[unit.rows].tolist()), []).append(unit)
    usual = max(made, key=lambda calls: len(made[calls]))
    if len(made[usual]) < _FEWEST or len(usual) < _FEWEST:
        return
    for calls, those in made.items():
        if len(those) > 1 or len(calls) != len(usual):
            continue
        differ = [n for n, (one, other) in enumerate(zip(calls, usual, strict=True)) if one != other]
        if len(differ) == 1:
            (n,) = differ
            row = int(those[0].rows[n])
            yield OddWork(row, n, calls[n], usual[n], len(made[usual]), True)
