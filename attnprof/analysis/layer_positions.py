"""What lies between two attention calls: output projection, MLP and the next QKV, where layers repeat.

Between the attention of two layers a decoder runs, in this order: matrix products of the output projection, a
norm, the MLP with its activation, a norm, matrix products of QKV. That is told of a stretch of kernels that
occurs again and again without anything between, as the layers of a model do, and has all these parts. A
model's first QKV and last MLP are told where their kernels are the very ones of the stretch beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from attnprof.arrays import coded_rows, occurring
from attnprof.trace.tables import Int64
from attnprof.trace.timeline import Timeline

_LEAST = 3  # layers alike, and two of them side by side
_LONGEST = 512  # kernels between two attention calls
_BITS, _ROLES_A_WORD = 3, 20  # a role takes so many bits


class Role(IntEnum):
    """What a kernel's name says of its part in a layer; FOREIGN is what no such layer has."""

    NONE = 0
    MATRIX = 1
    NORM = 2
    MLP = 3
    ATTENTION = 4
    FOREIGN = 5


@dataclass(frozen=True, slots=True)
class Placed:
    """Kernels, by row: those of attention's projections and those of the MLP."""

    attention: Int64
    mlp: Int64


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where in a stretch the MLP's kernels begin and end; before and after are attention's projections."""

    begin: int
    end: int


def placed(timeline: Timeline, role: np.ndarray) -> Placed:
    """The matrix products and activations that their place tells; ``role`` is each kernel's Role.

    Each kernel is told once at most, in no particular order.
    """
    attention: list[Int64] = []
    mlp: list[Int64] = []
    name = timeline.trace.kernels.name
    for rows in _streams(timeline):
        stretches = _stretches(role if rows is None else role[rows])
        if stretches is None:
            continue
        whole = _whole(stretches)
        pieces = _pieces(stretches, name if rows is None else name[rows])
        for into, found in ((attention, [whole.attention, *pieces[0]]), (mlp, [whole.mlp, *pieces[1]])):
            into += found if rows is None else [rows[at] for at in found]
    none = np.zeros(0, np.int64)
    return Placed(np.concatenate([none, *attention]), np.concatenate([none, *mlp]))


def _streams(timeline: Timeline) -> list[Int64 | None]:
    """The kernels of each stream, in order of start; None for all of them."""
    kernels = timeline.trace.kernels
    if not len(kernels):
        return []
    (streams, *_), stream = coded_rows([kernels.pid, kernels.device, kernels.stream])
    if len(streams) == 1:
        return [None]
    order = np.argsort(stream, kind="stable")
    return list(np.split(order, np.flatnonzero(np.diff(stream[order])) + 1))


@dataclass(frozen=True, slots=True)
class _Stretches:
    """What lies between attention calls that follow each other on a stream, the empty ones left out.

    ``begin`` and ``end`` are places in the stream. ``key`` numbers the sequence of roles of each, -1 where
    it is too long; ``parts`` are those of the sequences that repeat as layers do. ``role`` is the stream's.
    """

    role: np.ndarray
    begin: Int64
    end: Int64
    key: Int64
    parts: dict[int, _Parts]


def _stretches(role: np.ndarray) -> _Stretches | None:
    """The stretches of a stream with these roles; None where its attention calls are too few."""
    at = np.flatnonzero(role == Role.ATTENTION)
    if len(at) < _LEAST + 1:
        return None
    begin, end = np.append(-1, at) + 1, np.append(at, len(role))
    begin, end = begin[end > begin], end[end > begin]
    key, first = _keys(role, begin, end)
    often = np.bincount(key[key >= 0], minlength=len(first)) >= _LEAST
    beside = key[1:][(key[1:] == key[:-1]) & (key[1:] >= 0)]
    certain = [one for one in occurring(beside, len(first)).tolist() if often[one]]
    narrow = role.astype(np.uint8)
    parts = {one: _parts(narrow[begin[first[one]] : end[first[one]]].tobytes()) for one in certain}
    return _Stretches(role, begin, end, key, {one: known for one, known in parts.items() if known})


def _keys(role: np.ndarray, begin: Int64, end: Int64) -> tuple[Int64, Int64]:
    """The number of each stretch's sequence of roles, -1 where it is too long; a stretch of each number."""
    size = end - begin
    key, first = np.full(len(size), -1, np.int64), [np.zeros(0, np.int64)]
    known = 0
    for length in np.unique(size[size <= _LONGEST]).tolist():
        mine = np.flatnonzero(size == length)
        words = [
            _word(role, begin[mine] + start, min(_ROLES_A_WORD, length - start))
            for start in range(0, length, _ROLES_A_WORD)
        ]
        code = coded_rows(words)[1].astype(np.int64)
        key[mine] = known + code
        first.append(mine[np.unique(code, return_index=True)[1]])
        known += len(first[-1])
    return key, np.concatenate(first)


def _word(role: np.ndarray, at: Int64, length: int) -> Int64:
    """So many roles from each place on as one number."""
    word = np.zeros(len(at), np.int64)
    for place in range(length):
        word = word << _BITS | role[at + place]
    return word


def _whole(of: _Stretches) -> Placed:
    """The kernels of stretches that repeat as layers do, by their place in the stream."""
    attention, mlp = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for key, parts in of.parts.items():
        begin = of.begin[of.key == key]
        place = np.arange(of.end[of.key == key][0] - begin[0])
        told = _told(of.role[begin[0] + place], parts.begin, parts.end)
        for into, mine in ((attention, told.attention), (mlp, told.mlp)):
            into.append((begin[:, None] + mine).ravel())
    return Placed(np.concatenate(attention), np.concatenate(mlp))


def _told(which: np.ndarray, begin: int, end: int) -> Placed:
    """Of kernels with these roles, those told when the MLP's begin and end there."""
    place = np.arange(len(which))
    inside = (place >= begin) & (place < end)
    return Placed(
        np.flatnonzero(~inside & (which == Role.MATRIX)),
        np.flatnonzero(inside & ((which == Role.MATRIX) | (which == Role.MLP))),
    )


def _parts(key: bytes) -> _Parts | None:
    """The parts of a stretch of roles; None where it has not all of them in this order."""
    if Role.FOREIGN in key or Role.MLP not in key:
        return None
    first, last = key.index(Role.MLP), key.rindex(Role.MLP)
    before = key.find(Role.NORM, 0, first)
    after = key.find(Role.NORM, last)
    if before < 0 or after < 0 or Role.MATRIX not in key[:before] or Role.MATRIX not in key[after:]:
        return None
    product = key.index(Role.MATRIX, after)
    if Role.MATRIX in key[key.find(Role.NORM, product) :] and Role.NORM in key[product:]:
        return None  # a model of one layer: its LM head lies here
    return _Parts(before, after)


def _pieces(of: _Stretches, name: np.ndarray) -> tuple[list[Int64], list[Int64]]:
    """(attention's, the MLP's) of what else is told: a stretch beside one of those that repeat.

    It begins as the one before up to its MLP's end, and ends as the next one's QKV.
    """
    known = np.isin(of.key, list(of.parts))
    beside = np.append(False, known[:-1]) | np.append(known[1:], False)
    attention: list[Int64] = []
    mlp: list[Int64] = []
    for number in np.flatnonzero(beside & ~known).tolist():
        a, b = int(of.begin[number]), int(of.end[number])
        if number and known[number - 1]:
            before, start = of.parts[int(of.key[number - 1])], int(of.begin[number - 1])
            size = before.end
            if a + size <= b and np.array_equal(name[a : a + size], name[start : start + size]):
                told = _told(of.role[a : a + size], before.begin, before.end)
                attention.append(a + told.attention)
                mlp.append(a + told.mlp)
                a += size
        if number + 1 < len(known) and known[number + 1]:
            after, stop = of.parts[int(of.key[number + 1])], int(of.end[number + 1])
            size = stop - int(of.begin[number + 1]) - after.end
            if b - size >= a and np.array_equal(name[b - size : b], name[stop - size : stop]):
                attention.append(b - size + _told(of.role[b - size : b], 0, 0).attention)
    return attention, mlp
