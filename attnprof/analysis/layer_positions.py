"""What lies between two attention calls: output projection, MLP and the next QKV, where layers repeat.

Between the attention of two layers a decoder runs, in this order: matrix products of the output projection, a
norm, the MLP with its activation, a norm, matrix products of QKV. That is told of a stretch of kernels that
occurs again and again without anything between, as the layers of a model do, and has all these parts. A
model's first QKV and last MLP are told where their kernels are the very ones of the stretch beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from attnprof.arrays import distinct_rows
from attnprof.trace.tables import Int64
from attnprof.trace.timeline import Timeline

_LEAST = 3  # layers alike, and two of them side by side
_LONGEST = 512  # kernels between two attention calls


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
    """The matrix products and activations that their place tells; ``role`` is each kernel's Role."""
    attention: list[Int64] = []
    mlp: list[Int64] = []
    for rows in _streams(timeline):
        for kernels, begin, end in _stream(rows, role[rows], timeline.trace.kernels.name[rows]):
            which = role[kernels]
            number = np.arange(len(kernels))
            inside = (number >= begin) & (number < end)
            mlp.append(kernels[inside & ((which == Role.MATRIX) | (which == Role.MLP))])
            attention.append(kernels[~inside & (which == Role.MATRIX)])
    none = np.zeros(0, np.int64)
    return Placed(np.concatenate([none, *attention]), np.concatenate([none, *mlp]))


def _streams(timeline: Timeline) -> list[Int64]:
    """The kernels of each stream, in order of start."""
    kernels = timeline.trace.kernels
    if not len(kernels):
        return []
    _, stream = distinct_rows([kernels.pid, kernels.device, kernels.stream])
    order = np.argsort(stream, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(stream[order])) + 1)


def _stream(rows: Int64, role: np.ndarray, name: np.ndarray) -> list[tuple[Int64, int, int]]:
    """(kernels, where their MLP begins, where it ends) of each stretch, or piece of one, that is told."""
    at = np.flatnonzero(role == Role.ATTENTION)
    if len(at) < _LEAST + 1:
        return []
    edges = np.stack([np.append(-1, at) + 1, np.append(at, len(role))], axis=1)
    edges = edges[(edges[:, 1] > edges[:, 0])]
    narrow = role.astype(np.uint8)
    keys = [narrow[a:b].tobytes() if b - a <= _LONGEST else b"" for a, b in edges.tolist()]
    certain = _repeating(keys)
    parts = {key: _parts(key) for key in certain}
    found = []
    for number, (key, (a, b)) in enumerate(zip(keys, edges.tolist(), strict=True)):
        whole = parts.get(key)
        if whole is not None:
            found.append((rows[a:b], whole.begin, whole.end))
            continue
        found += _pieces(rows, name, edges, number, [parts.get(one) for one in _beside(keys, number)])
    return found


def _beside(keys: Sequence[bytes], number: int) -> tuple[bytes, bytes]:
    """The stretches before and after one; b"" where there is none."""
    return (keys[number - 1] if number else b""), (keys[number + 1] if number + 1 < len(keys) else b"")


def _repeating(keys: Sequence[bytes]) -> set[bytes]:
    """The stretches that occur often enough, at least once side by side."""
    often = {key for key, count in Counter(keys).items() if count >= _LEAST}
    return {a for a, b in pairwise(keys) if a == b and a in often}


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


def _pieces(
    rows: Int64, name: np.ndarray, edges: np.ndarray, number: int, beside: Sequence[_Parts | None]
) -> list[tuple[Int64, int, int]]:
    """What begins a stretch as the one before up to its MLP's end, and ends it as the next one's QKV."""
    a, b = edges[number].tolist()
    found = []
    before, after = beside
    if before is not None:
        start, size = int(edges[number - 1][0]), before.end
        if a + size <= b and np.array_equal(name[a : a + size], name[start : start + size]):
            found.append((rows[a : a + size], before.begin, before.end))
            a += size
    if after is not None:
        stop = int(edges[number + 1][1])
        size = stop - int(edges[number + 1][0]) - after.end
        if b - size >= a and np.array_equal(name[b - size : b], name[stop - size : stop]):
            found.append((rows[b - size : b], 0, 0))
    return found
