"""Which attention call of its step a call is: its layer and place, so that calls of several steps compare.

A trace names the layer of a call, or not; a layer may attend twice (itself, then an encoder's keys), and a
model may alternate two kinds of layers. Read in order of time, such calls look like a change at every call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnprof.arrays import distinct_rows
from attnprof.check.observed_calls import Int64

ALIKE = -2  # from here down, a place is no number in a step but what runs
_MOST_PLACES = 1024  # calls of one step that are told apart by their place


def slots(where: Sequence[Int64], step: Int64, key: Int64) -> tuple[Int64, Int64]:
    """(place, break) of each call, in order of time.

    ``where``: columns that tell timelines apart (process, phase, layer). ``place`` is the call's number among
    those of its step and ``where``. Steps with different numbers of calls do not compare place by place:
    there, and of calls without a step, what runs alike (``key``) has one place, ALIKE or below. ``break``
    changes where such a place is missing from a step between.
    """
    _, stream = distinct_rows(where)
    _, group = distinct_rows([stream, step])
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    counts = np.diff(np.append(begins, len(order)))
    nth = np.empty(len(order), np.int64)
    nth[order] = np.arange(len(order)) - np.repeat(begins, counts)
    breaks = np.zeros(len(order), np.int64)
    unnumbered = bool(np.any(step < 0))
    if not nth.any() and not unnumbered:
        return nth, breaks
    for members in _parts(stream):
        numbers, of_call = np.unique(step[members], return_inverse=True)
        calls = np.bincount(of_call)
        whole = calls[:-1] if len(calls) > 1 else calls  # the last step may be cut
        regular = bool(np.all(whole == whole[0])) and calls[-1] <= whole[0] <= _MOST_PLACES
        if regular and numbers[0] >= 0:
            continue
        codes, first, place = np.unique(key[members], return_index=True, return_inverse=True)
        told_apart = _mixed(of_call, key[members])
        nth[members] = ALIKE - np.argsort(np.argsort(first))[place] if told_apart else 0
        if told_apart and len(codes) > 1 and numbers[0] >= 0:
            breaks[members] = _gaps(of_call, nth[members])
    return nth, breaks


def _parts(codes: Int64) -> list[Int64]:
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _mixed(step: Int64, key: Int64) -> bool:
    """Whether the calls of some step are not all alike."""
    (steps, _), _ = distinct_rows([step, key])
    return bool(np.any(np.diff(steps) == 0))


def _gaps(step: Int64, place: Int64) -> Int64:
    """Per call, how many steps its place has been missing from so far: constant while it is in every step."""
    found = np.zeros(len(step), np.int64)
    for members in _parts(place):
        present, of_call = np.unique(step[members], return_inverse=True)
        found[members] = (present - np.arange(len(present)))[of_call]
    return found
