"""Layers of a kind: those that run the same kernels with the same geometry, window and split counts.

Models alternate layers: most see a window of the last keys, some see all; others attend to an encoder too.
Each kind has a split timeline of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from attnprof.analysis.call_slots import ALIKE
from attnprof.analysis.splits import Geometry, SplitRow, slots_of_calls, slots_of_observed
from attnprof.arrays import distinct_rows
from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.check.verdicts import CheckedCall
from attnprof.dispatch.intervals import Intervals
from attnprof.model import PHASES

Slot = tuple[int, int]
_MOST_KINDS = 16  # of more, none is an exception to the others
_Ran = tuple[str, "int | None", Geometry]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Layers that are dispatched alike in every step.

    ``slots`` are (layer, which of its calls in a step), ``of`` how many slots all kinds have. ``rows`` are
    those of the split timeline, of every phase. ``seqlen_k`` and ``geometry`` are of the last decode row;
    ``steady``: recorded lengths that stay the same over several steps.
    """

    slots: tuple[Slot, ...]
    of: int
    rows: tuple[SplitRow, ...]
    geometry: Geometry
    seqlen_k: Intervals
    steady: bool

    @property
    def layers(self) -> tuple[int, ...]:
        """Its layers, ascending; empty where the trace does not name them."""
        return tuple(sorted({layer for layer, _ in self.slots if layer >= 0}))

    @property
    def gpu_ns(self) -> int | None:
        """GPU time of its attention calls, those of the row's other layers shared out by their number."""
        spent = [
            row.gpu_ns * len(self.slots) // len(row.slots) for row in self.rows if row.gpu_ns is not None
        ]
        return sum(spent) if spent else None

    def calls(self, phase: str) -> int:
        """Its calls in a phase."""
        return sum(row.calls * len(self.slots) // len(row.slots) for row in self.rows if row.phase == phase)


@dataclass(frozen=True, slots=True)
class KindChange:
    """Layers that run as ``before`` until ``step``, and as ``after`` from there on."""

    slots: tuple[Slot, ...]
    step: int
    before: LayerKind
    after: LayerKind


def layer_kinds(rows: Sequence[SplitRow]) -> list[LayerKind]:
    """The kinds of layers of a split timeline, by their first layer; none where calls cannot be compared."""
    by_phase = {phase: [row for row in rows if row.phase == phase] for phase in ("decode", "prefill")}
    told_by = [group for group in by_phase.values() if group]
    if not told_by or any(place <= ALIKE for group in told_by[:1] for row in group for _, place in row.slots):
        return []
    known = [{slot for row in group for slot in row.slots} for group in told_by]
    if known[-1] != known[0]:
        told_by = told_by[:1]
    where: dict[Slot, list[int]] = defaultdict(list)
    for number, row in enumerate(row for group in told_by for row in group):
        for slot in row.slots:
            where[slot].append(number)
    kinds: dict[tuple[int, ...], list[Slot]] = defaultdict(list)
    for slot in sorted(where):
        kinds[tuple(where[slot])].append(slot)
    return [_kind(slots, len(where), rows, told_by[0][0].phase) for slots in kinds.values()]


def _kind(slots: list[Slot], of: int, rows: Sequence[SplitRow], phase: str) -> LayerKind:
    mine = tuple(row for row in rows if set(slots) <= set(row.slots))
    told = [row for row in mine if row.phase == phase]
    lengths = {row.seqlen_k for row in told}
    several = len({step for row in told for step in row.steps}) > 1
    steady = several and all(row.recorded for row in told) and len(lengths) == 1
    one_length = steady and told[0].seqlen_k[0].low == told[0].seqlen_k[0].high
    return LayerKind(tuple(slots), of, mine, told[-1].geometry, told[-1].seqlen_k, one_length)


def kinds_of_calls(calls: Sequence[CheckedCall], kinds: Sequence[LayerKind]) -> Int64:
    """The number of each call's kind; -1 where it is not known, or all layers are of one."""
    return _numbers(slots_of_calls(calls) if len(kinds) > 1 else (), kinds, len(calls))


def kinds_of_observed(observed: ObservedCalls, kinds: Sequence[LayerKind]) -> Int64:
    """The same of observed calls."""
    return _numbers(slots_of_observed(observed) if len(kinds) > 1 else (), kinds, len(observed))


def _numbers(columns: Sequence[Int64], kinds: Sequence[LayerKind], length: int) -> Int64:
    if not columns or not length:
        return np.full(length, -1, np.int64)
    number = {
        (PHASES.index(phase), *slot): which
        for which, kind in enumerate(kinds)
        for phase in {row.phase for row in kind.rows}
        for slot in kind.slots
    }
    rows, of_call = distinct_rows(columns)
    places = zip(*(column.tolist() for column in rows), strict=True)
    return np.array([number.get(place, -1) for place in places], np.int64)[of_call]


def kind_changes(kinds: Sequence[LayerKind]) -> list[KindChange]:
    """Layers that run as one kind in the first decode steps and as another in the rest."""
    if len(kinds) > _MOST_KINDS:
        return []
    starts = sorted({row.steps[0] for kind in kinds for row in _decode(kind) if row.steps})
    ran = [[_at(kind, step) for step in starts] for kind in kinds]
    found = []
    for mine, kind in zip(ran, kinds, strict=True):
        others = [(theirs, other) for theirs, other in zip(ran, kinds, strict=True) if other is not kind]
        for cut in range(1, len(starts)):
            before = [
                one for theirs, one in others if theirs[:cut] == mine[:cut] and theirs[cut] != mine[cut]
            ]
            after = [
                one for theirs, one in others if theirs[cut:] == mine[cut:] and theirs[:cut] != mine[:cut]
            ]
            if before and after and mine[cut - 1] != mine[cut]:
                found.append(KindChange(kind.slots, starts[cut], before[0], after[0]))
                break
    return found


def _decode(kind: LayerKind) -> Iterable[SplitRow]:
    return (row for row in kind.rows if row.phase == "decode")


def _at(kind: LayerKind, step: int) -> _Ran | None:
    """What the kind runs in a decode step."""
    rows = [row for row in _decode(kind) if row.steps and row.steps[0] <= step <= row.steps[1]]
    return (rows[0].kernel, rows[0].num_splits, rows[0].geometry) if rows else None
