"""Array operations that several stages share. numpy only; no type of attnprof's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Narrow = npt.NDArray[np.signedinteger[Any]]  # as narrow as its values allow: widen it before arithmetic

_BLOCK = 1 << 18  # rows: small enough for the cache, large enough for numpy
_MANY = 1 << 18  # distinct rows
_FEW_BITS = 18  # of keys that are looked up in a table
_FEW = 1 << 14  # values that are sorted as fast as a table of them is made


def blocks(length: int) -> Iterator[slice]:
    """Consecutive slices of ``length`` rows, for which temporary arrays are small."""
    for first in range(0, length, _BLOCK):
        yield slice(first, min(first + _BLOCK, length))


def scattered(count: int) -> npt.NDArray[np.uint64]:
    """So many numbers of 64 bits that look random and are always the same: numpy.random is slow to import.

    Source: splitmix64, G. Steele, D. Lea and C. Flood, Fast Splittable Pseudorandom Number Generators, 2014.
    """
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    last: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return last


def narrowest(low: int, high: int) -> type[np.signedinteger[Any]]:
    """The narrowest signed type that holds both numbers."""
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return np.int64


def taken(values: npt.NDArray[Any], rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Some rows of a column; of a broadcast one a broadcast."""
    if len(values) and values.strides[0] == 0:
        return np.broadcast_to(values[0], (len(rows), *values.shape[1:]))
    return values[rows]


def mapped(
    values: npt.NDArray[np.integer],
    rule: Callable[[Ints], npt.NDArray[Any]],
    kind: type[np.signedinteger[Any]],
) -> npt.NDArray[Any]:
    """What the rule makes of a long column, block by block; of a broadcast one a broadcast."""
    if len(values) and values.strides[0] == 0:
        return np.broadcast_to(rule(values[:1].astype(np.int64)).astype(kind)[0], values.shape)
    found = np.empty(len(values), kind)
    for rows in blocks(len(values)):
        found[rows] = rule(values[rows].astype(np.int64))
    return found


def look_up(table: npt.NDArray[Any], codes: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """``table[codes]`` for many codes: numpy would first make eight bytes of each."""
    if len(codes) and codes.strides[0] == 0:
        return np.broadcast_to(table[codes[0]], codes.shape)
    found = np.empty(len(codes), table.dtype)
    for rows in blocks(len(codes)):
        found[rows] = table[codes[rows]]
    return found


def occurring(codes: npt.NDArray[np.integer], size: int) -> Ints:
    """The codes from 0 to ``size`` - 1 that occur, in order."""
    seen = np.zeros(size, np.bool_)
    if len(codes) and codes.strides[0] == 0:
        codes = codes[:1]
    for rows in blocks(len(codes)):
        seen[codes[rows]] = True
    return np.flatnonzero(seen)


def distinct(values: npt.NDArray[np.integer]) -> Ints:
    """The different values of a long column, ascending."""
    if len(values) and values.strides[0] == 0:
        values = values[:1]
    parts = [_once_each(values[rows]) for rows in blocks(len(values))]
    return _once_each(np.concatenate(parts)).astype(np.int64) if parts else np.zeros(0, np.int64)


def _once_each(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """np.unique, which first imports numpy.ma: a tenth of what a small command takes."""
    if len(values) > _FEW:
        return np.unique(values)
    ordered = np.sort(values)
    found: npt.NDArray[Any] = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return found


def distinct_rows(columns: Sequence[npt.NDArray[np.integer]]) -> tuple[list[Ints], Ints]:
    """The distinct rows of equally long integer columns, sorted, and where each row went.

    Rows whose columns fit 62 bits together are compared as one word, others column by column.
    """
    wide = [np.ascontiguousarray(column, dtype=np.int64) for column in columns]
    if not len(wide[0]):
        return [column[:0] for column in wide], np.zeros(0, dtype=np.int64)
    lows, widths = _spans(wide)
    if sum(widths) > 62:
        unique, inverse = np.unique(np.stack(wide, axis=1), axis=0, return_inverse=True)
        return list(unique.T), inverse.ravel()
    key = np.zeros(len(wide[0]), dtype=np.int64)
    for column, low, width in zip(wide, lows, widths, strict=True):
        key = (key << width) | (column - low)
    key, inverse = np.unique(key, return_inverse=True)
    return _unpacked(key, lows, widths), inverse


def coded_rows(columns: Sequence[npt.NDArray[np.integer]]) -> tuple[list[Ints], Narrow]:
    """As :func:`distinct_rows`, with narrow codes and little memory beside them where few rows differ."""
    distinct: list[Ints] = []
    codes: Narrow | None = None
    rest = list(columns)
    while rest:
        together: list[npt.NDArray[np.integer]] = [] if codes is None else [codes]
        while rest and sum(_spans([*together, rest[0]])[1]) <= 63:
            together.append(rest.pop(0))
        if len(together) == (codes is not None):  # the next column does not fit beside the codes
            distinct, wide = distinct_rows(columns)
            return distinct, wide.astype(narrowest(0, len(distinct[0])))
        rows, packed = _coded(together)
        distinct = [*(column[rows[0]] for column in distinct), *(rows[1:] if distinct else rows)]
        codes = packed
    assert codes is not None
    return distinct, codes


def _spans(columns: Sequence[npt.NDArray[np.integer]]) -> tuple[list[int], list[int]]:
    """The least value of each column, and the bits that its values take above it."""
    lows = [int(column.min()) if len(column) else 0 for column in columns]
    return lows, [
        (int(column.max(initial=low)) - low).bit_length() for column, low in zip(columns, lows, strict=True)
    ]


def _unpacked(key: Ints, lows: Sequence[int], widths: Sequence[int]) -> list[Ints]:
    """The columns of keys that were packed with the first column highest."""
    columns = []
    for low, width in zip(reversed(lows), reversed(widths), strict=True):
        columns.append((key & ((1 << width) - 1)) + low)
        key = key >> width
    return columns[::-1]


def _coded(columns: Sequence[npt.NDArray[np.integer]]) -> tuple[list[Ints], Narrow]:
    """:func:`coded_rows` of columns that fit one word."""
    lows, widths = _spans(columns)
    varying = [part for part in zip(columns, lows, widths, strict=True) if part[2]]
    if not varying and len(columns[0]):
        return [column[:1].astype(np.int64) for column in columns], np.broadcast_to(
            np.int8(0), (len(columns[0]),)
        )

    def key_of(rows: slice) -> Ints:
        key = np.zeros(rows.stop - rows.start, np.int64)
        for column, low, width in varying:
            key <<= width
            key |= column[rows].astype(np.int64) - low
        return key

    if sum(widths) <= _FEW_BITS:
        seen = np.zeros(1 << sum(widths), np.bool_)
        for rows in blocks(len(columns[0])):
            seen[key_of(rows)] = True
        known = np.flatnonzero(seen)
        code: Narrow = np.zeros(len(seen), narrowest(0, len(known)))
        code[known] = np.arange(len(known))
        found: Narrow = np.empty(len(columns[0]), code.dtype)
        for rows in blocks(len(found)):
            found[rows] = code[key_of(rows)]
        return _unpacked(known, lows, widths), found
    known, number = np.zeros(0, np.int64), np.zeros(0, np.int32)  # ascending; in order of appearance
    codes = np.empty(len(columns[0]), np.int32)
    for rows in blocks(len(codes)):
        key = key_of(rows)
        at = np.searchsorted(known, key)
        missing = key[np.append(known, -1)[at] != key]
        if len(missing):
            if len(known) > _MANY:  # merging them in block by block would cost more than sorting them all
                different, inverse = distinct_rows(columns)
                return different, inverse.astype(np.int32)
            known = np.append(known, _once_each(missing))
            number = np.append(number, np.arange(len(number), len(known), dtype=np.int32))
            order = np.argsort(known)
            known, number = known[order], number[order]
            at = np.searchsorted(known, key)
        codes[rows] = number[at]
    rank = np.empty(len(known), narrowest(0, len(known)))
    rank[number] = np.arange(len(known))
    narrow: Narrow = rank[codes] if len(codes) else codes
    return _unpacked(known, lows, widths), narrow
