"""What a call's neighbours say of it: the other calls of its process, of its step, and of its layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attnprof.arrays import distinct
from attnprof.check import odd_calls
from attnprof.check.layer_table import LayerTable
from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.check.other_builds import find_other_builds
from attnprof.check.told_sizes import settled
from attnprof.check.traits import Traits
from attnprof.dispatch.explanation import ReadBack
from attnprof.trace.range_names import DRAFT, ENCODE

_OF_ANOTHER_MODEL = (ENCODE, DRAFT)


@dataclass(frozen=True, slots=True)
class Inconsistent:
    """Calls, as rows of the observed ones, that do not go with their neighbours; ``detail`` names both."""

    rows: Int64
    detail: str


def find_inconsistent(
    observed: ObservedCalls, told: Sequence[ReadBack | None], cut: Int64, num_sms: Mapping[int, int]
) -> Iterator[Inconsistent]:
    """The calls whose neighbours contradict them. ``told`` is per shape, ``cut`` may be less than calls.

    ``num_sms``: of each GPU that states them.
    """
    shapes = zip(observed.shapes, told, strict=True)
    traits = [Traits.of(shape, back, num_sms.get(shape.device, 0)) for shape, back in shapes]
    own = [settled(one, back) for one, back in zip(traits, told, strict=True)]
    for pid in distinct(observed.pid).tolist():
        known: set[int] = set()
        for rows, detail in _of_process(observed, pid, own, told, cut):
            known.update(rows.tolist())
            yield Inconsistent(rows, detail)
        for rows, detail in odd_calls.tell_odd_work(observed, pid, traits, known | {*cut.tolist()}):
            known.update(rows.tolist())
            yield Inconsistent(rows, detail)
        if pid in observed.repeated and observed.repeated[pid].replays:
            mine = np.flatnonzero(observed.pid == pid)
            for rows, detail in _of_repeated(observed, mine, pid, own, told, cut):
                if not known.issuperset(rows.tolist()):
                    yield Inconsistent(rows, detail)


def _of_process(
    observed: ObservedCalls,
    pid: int,
    traits: Sequence[Traits],
    told: Sequence[ReadBack | None],
    cut: Int64,
) -> Iterator[tuple[Int64, str]]:
    mine = np.flatnonzero(observed.pid == pid)
    yield from find_other_builds(observed, told, mine)
    yield from odd_calls.tell_bare_steps(observed, mine, pid)
    yield from odd_calls.tell_math_layers(observed, mine, pid)
    yield from odd_calls.tell_odd_replays(observed, pid)
    for rows, margin, others in odd_calls.find_lone_margins(observed.shape, mine, told):
        free = f"{margin} SM{'s' * (margin > 1)} left free, as the caller may ask"
        yield rows, f"{free}: {others:,} other calls of the process leave none"
    placed = mine[(observed.step[mine] >= 0) & (observed.layer[mine] >= 0)]
    if len(placed):
        placed = placed[~np.isin(placed, cut)]
        for rows in _by_model(observed, placed):
            yield from LayerTable(observed, rows, traits, told).findings()
    elif pid in observed.repeated and not observed.repeated[pid].replays:
        yield from _of_repeated(observed, mine, pid, traits, told, cut)


def _of_repeated(
    observed: ObservedCalls,
    mine: Int64,
    pid: int,
    traits: Sequence[Traits],
    told: Sequence[ReadBack | None],
    cut: Int64,
) -> Iterator[tuple[Int64, str]]:
    """Where no range names the layers, but the kernels' repetition or a graph's replays tell them."""
    repeated, placed, why = odd_calls.place_by_repetition(observed, mine, pid)
    placed = placed[~np.isin(placed, cut)]
    table, mixed = LayerTable(repeated, placed, traits, told), observed.repeated[pid].replays
    for rows, detail in table.findings(named=False, mixed=mixed):
        yield rows, f"{detail} ({why})"


def _by_model(observed: ObservedCalls, rows: Int64) -> Iterator[Int64]:
    """The calls of a model, of its encoder, and of the one that drafts: their layers are not alike."""
    phase = observed.phase[rows]
    others = [phase == one for one in _OF_ANOTHER_MODEL]
    for mine in (~np.any(others, axis=0), *others):
        if mine.any():
            yield rows[mine]
