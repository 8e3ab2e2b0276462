"""Calls of which the trace may hold a part: it begins after their first kernel, or ends before their last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.check.verdicts import FAILED, ReadBackCalls, Reading, Verdict
from attnprof.dispatch.libraries import template_fields
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
