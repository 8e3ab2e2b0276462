"""Calls of which the trace may hold a part: it begins after their first kernel, or ends before their last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attnprof.arrays import distinct, distinct_rows
from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.check.observed_shape import ObservedShape
from attnprof.check.verdicts import FAILED, ReadBackCalls, Reading, Verdict
from attnprof.dispatch.libraries import template_fields
from attnprof.dispatch.names.families import halves_of
from attnprof.dispatch.names.family import Halves
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.spelling import plain_template


def spare_cut_calls(calls: ReadBackCalls, parts: Sequence[bool]) -> Int64:
    """What is, or may be, a part of a call, as rows; what no whole call launches is read as a part.

    ``parts``: whether each shape is a part of a call of its library.
    """
    observed = calls.observed
    found = {*_as_others_begin_or_end(observed)}
    for rows, orphan, says in ((observed.edges.first, True, "begins"), (observed.edges.last, False, "ends")):
        for row in rows:
            number = int(observed.shape[row])
            shape = observed.shapes[number]
            alone = len(shape.launches) == 1
            combine = shape.main.role == "combine"
            part = parts[number] or (alone and (combine or bool(shape.main.flag("Split"))))
            part = part and not _of_no_kernel(shape.launches[0].kernel)
            known = row in found and calls.readings[number].verdict in FAILED
            if (part and combine == orphan) or known:
                found.add(row)
                reading = Reading(Verdict.NOT_READ, f"the trace {says} inside the call")
                calls.read_otherwise(np.array([row], np.int64), reading)
    found.update(_without_plan(observed))
    found.update(_of_one_half(observed))
    found.update(_beside_edges(observed, np.array(sorted(found), np.int64)))
    return np.array(sorted(found), np.int64)


def _of_no_kernel(name: str) -> bool:
    """Whether a whole name has other template arguments than the kernel of that name."""
    return bool(plain_template(name)) and template_fields(name) is None and parse_kernel_name(name).modelled


def _as_others_begin_or_end(observed: ObservedCalls) -> Iterator[int]:
    """The calls at an edge that launched no more than the end, or the beginning, of what another call did."""
    launched = [one.ran for one in observed.shapes]
    for row in observed.edges.first:
        seen = launched[observed.shape[row]]
        if any(len(one) > len(seen) and one[-len(seen) :] == seen for one in launched):
            yield row
    for row in observed.edges.last:
        seen = launched[observed.shape[row]]
        if any(len(one) > len(seen) and one[: len(seen)] == seen for one in launched):
            yield row


def _without_plan(observed: ObservedCalls) -> Iterator[int]:
    """The first calls without the kernel that plans them, which others of batches packed alike have."""
    planned = {_packs(one) for one in observed.shapes if one.before}
    for row in observed.edges.first:
        shape = observed.shapes[observed.shape[row]]
        if not shape.before and _packs(shape) in planned:
            yield row


def _packs(shape: ObservedShape) -> tuple[str, object]:
    return shape.main.library, dict(template_fields(_kernel(shape)) or ()).get("Varlen")


def _of_one_half(observed: ObservedCalls) -> Iterator[int]:
    """The calls at an edge, alone in their layer and step, of which the trace may have cut the other half."""
    for row in {*observed.edges.first, *observed.edges.last}:
        shape = observed.shapes[observed.shape[row]]
        if len(shape.ran) > 1 or halves_of(shape.main.library, _kernel(shape)) != Halves.WHOLE:
            continue
        columns = (observed.pid, observed.step, observed.layer)
        beside = np.logical_and.reduce([column == column[row] for column in columns])
        if observed.layer[row] >= 0 and beside.sum() == 1:
            yield row


def _beside_edges(observed: ObservedCalls, parts: Int64) -> list[int]:
    """All calls of an edge's layer and step, where others make several of other kernels and it makes fewer.

    Of a step that alone has such layers, all its calls: of the layers beside these the rest may be missing.
    ``parts``: the calls, as rows, that are known to be cut, which do not count.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(map(_kernel, observed.shapes)))}
    name_of = np.array([names[_kernel(one)] for one in observed.shapes], np.int64)
    placed = np.flatnonzero((observed.step >= 0) & (observed.layer >= 0))
    at_edge = np.isin(placed, [*observed.edges.first, *observed.edges.last])
    found: list[int] = []
    for pid in distinct(observed.pid[placed[at_edge]]).tolist():
        mine = observed.pid[placed] == pid
        rows, edge = placed[mine], at_edge[mine]
        step, whole = observed.step[rows], ~np.isin(rows, parts)
        cell = distinct_rows([step, observed.layer[rows]])[1]
        kinds = distinct_rows([cell[whole], name_of[observed.shape[rows[whole]]]])[0][0]
        size = int(cell.max()) + 1
        kernels, calls = (
            np.bincount(kinds, minlength=size)[cell],
            np.bincount(cell[whole], minlength=size)[cell],
        )
        fewer = edge & (kernels < kernels.max()) & (calls < calls.max())
        if kernels.max() > 1 and fewer.any():
            several = step[kernels > 1]
            cut = np.isin(cell, cell[fewer])
            if len(distinct(several)) == 1:
                cut |= (step == several[0]) & np.isin(step, step[fewer])
            found += rows[cut].tolist()
    return found


def _kernel(shape: ObservedShape) -> str:
    return shape.launches[0].kernel
