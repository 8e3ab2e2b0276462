"""The integers in records of an SQLite table, many records at a time.

A record is its length, its rowid, a header with the serial type of each field, and the fields. In most tables
records have one of a few headers: then a field lies at the same place of every record, and is read by stride.
Records of many headers are walked field by field. Format: https://www.sqlite.org/fileformat.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.arrays import Narrow, narrowest
from attnprof.trace.tables import Int64

Bytes = npt.NDArray[np.uint8]

PAST = 256  # bytes there must be behind the last page: records are read at once with what follows them
_ONE = 9  # the serial type that is the integer 1; 0 is NULL, 8 the integer 0, 1 to 6 integers of _SIZE bytes
_SIZE = np.array(
    [0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0, *((kind - 12) // 2 for kind in range(12, 128))], np.int64
)  # bytes of a field by serial type, of those that fit one byte
_LONGEST_ROWID, _LONGEST_HEADER = 9, 96  # bytes
_MOST_HEADERS = 24  # different ones among some records


class UnusualError(Exception):
    """The table is not as simple as this reader needs it."""


def big_endian(raw: Bytes, kind: str) -> npt.NDArray[Any]:
    """The bytes as numbers that begin at every byte."""
    return _at_every_byte(raw, np.dtype(kind))


def _at_every_byte(raw: Bytes, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.ndarray((len(raw) - kind.itemsize + 1,), kind, raw, 0, (1,))
    return found


def read_records(
    raw: Bytes, cell: Int64, page_end: Int64, most: int, wanted: Mapping[int, int | None]
) -> dict[int, Narrow]:
    """The wanted columns of the records that begin at ``cell``, each in a page that ends at ``page_end``.

    ``wanted`` maps a column to what stands for NULL; NULL is unusual where that is None. Raises UnusualError
    where a record is longer than ``most`` bytes, so that it goes on in another page, or holds no integer.
    """
    parts = [
        _by_stride(raw, cell[rows], page_end[rows], most, wanted)
        or _by_walking(raw, cell[rows], page_end[rows], most, wanted)
        for rows in _rowids_alike(raw, cell)
    ]
    if len(parts) == 1:
        return parts[0]
    return {column: np.concatenate([part[column] for part in parts]) for column in wanted}


def _rowids_alike(raw: Bytes, cell: Int64) -> list[slice]:
    """Consecutive records with rowids of one length, as rowids ascend; all together where they do not."""
    every = [slice(0, len(cell))]
    if not len(cell) or _rowid_bytes(raw, cell[:1])[0] == _rowid_bytes(raw, cell[-1:])[0]:
        return every
    edges = np.flatnonzero(np.diff(_rowid_bytes(raw, cell))) + 1
    if len(edges) > _LONGEST_ROWID:
        return every
    return [slice(*pair) for pair in pairwise([0, *edges.tolist(), len(cell)])]


def _rowid_bytes(raw: Bytes, cell: Int64) -> Int64:
    """How many bytes the rowid of each record takes, the record's length taking one."""
    size, longer = np.ones(len(cell), np.int64), np.arange(len(cell))
    for place in range(1, _LONGEST_ROWID):
        longer = longer[raw[cell[longer] + place] >= 0x80]
        size[longer] += 1
    return size


def _by_stride(
    raw: Bytes, cell: Int64, page_end: Int64, most: int, wanted: Mapping[int, int | None]
) -> dict[int, Narrow] | None:
    """The columns of short records with rowids of one length and few headers; None of others."""
    if not len(cell):
        return None
    first, columns = int(cell[0]), max(wanted) + 1
    rowid = int(_rowid_bytes(raw, cell[:1])[0])
    header = int(raw[first + 1 + rowid])  # how long it is, this byte included
    if not columns < header <= _LONGEST_HEADER:
        return None
    heads = _gathered(raw, cell, 1 + rowid + header + 8)
    length = heads[:, 0]
    short = length.max() < 0x80 and bool(np.all(heads[:, 1 + rowid] == header))
    if not short or np.any(heads[:, rowid] >= 0x80) or np.any(heads[:, 1:rowid] < 0x80):
        return None
    if length.max() > most or np.any(cell + (1 + rowid) + length > page_end):
        raise UnusualError
    groups = _headers(heads, 2 + rowid, columns)
    if groups is None:
        return None
    for rows, kinds in groups:
        if header + int(_SIZE[kinds].sum()) > (length if rows is None else length[rows]).min():
            raise UnusualError  # the fields are longer than their record: it is damaged
    body = cell + (1 + rowid + header)
    kinds = groups[0][1]
    alike = next((n for n in range(columns) if any(other[n] != kinds[n] for _, other in groups)), columns)
    found = _fields(raw, body, kinds, {column: wanted[column] for column in wanted if column < alike})
    later = {column: null for column, null in wanted.items() if column >= alike}
    for rows, kinds in groups if later else ():
        for column, values in _fields(raw, body[rows], kinds, later).items():
            known = found[column] if column in found else np.empty(len(cell), values.dtype)
            found[column] = known = known.astype(np.promote_types(known.dtype, values.dtype), copy=False)
            known[rows] = values
    return found


def _gathered(raw: Bytes, at: Int64, width: int) -> Bytes:
    """So many bytes from each place on, a row each."""
    rows: Bytes = _at_every_byte(raw, np.dtype((np.void, width)))[at].view(np.uint8)
    return rows.reshape(len(at), width)


def _headers(heads: Bytes, first: int, columns: int) -> list[tuple[Int64 | None, Sequence[int]]] | None:
    """The rows that share serial types, None for all rows, and these types; None where they are many.

    heads: the begins of records, with eight bytes more than their headers. first: where the types begin.
    """
    size = -(-columns // 8)
    words: npt.NDArray[Any] = np.ndarray((len(heads), size), "<u8", heads, first, (heads.shape[1], 8))
    whole = np.full(size, -1, np.int64).view(np.uint64)
    whole[-1] >>= np.uint64(8 * (8 * size - columns))
    differs = np.flatnonzero(np.bitwise_or.reduce(words ^ words[0], axis=0) & whole)
    if not len(differs):
        found: list[tuple[Int64 | None, Sequence[int]]] = [(None, heads[0, first : first + columns].tolist())]
    else:
        found, rest = [], np.arange(len(heads))
        keys = [words[:, at] & whole[at] for at in differs]
        while len(rest):
            if len(found) == _MOST_HEADERS:
                return None
            same = keys[0] == keys[0][0]
            for key in keys[1:]:
                same &= key == key[0]
            found.append((rest[same], heads[rest[0], first : first + columns].tolist()))
            rest, keys = rest[~same], [key[~same] for key in keys]
    return None if any(max(kinds) >= 0x80 for _, kinds in found) else found


def _fields(
    raw: Bytes, body: Int64, kinds: Sequence[int], wanted: Mapping[int, int | None]
) -> dict[int, Narrow]:
    """The wanted columns of records with these serial types, whose fields begin at ``body``."""
    if not wanted:
        return {}
    ends = np.cumsum(_SIZE[kinds])
    begins = [int(ends[column] - _SIZE[kinds[column]]) for column in wanted]
    least, most = min(begins), max(int(ends[column]) for column in wanted)
    bodies = _gathered(raw, body + least, most - least + 8)
    found: dict[int, Narrow] = {}
    for column, begin in zip(wanted, begins, strict=True):
        kind, null = kinds[column], wanted[column]
        size = int(_SIZE[kind])
        if kind in (7, 10, 11) or kind >= 12 or (kind == 0 and null is None):
            raise UnusualError
        if not size:
            value = (null or 0) if kind == 0 else int(kind == _ONE)
            found[column] = np.broadcast_to(narrowest(value, value)(value), (len(body),))
            continue
        stored = 1 << (size - 1).bit_length()
        at: npt.NDArray[Any] = np.ndarray(
            (len(body),), f">i{stored}", bodies, begin - least, (bodies.shape[1],)
        )
        values = at.astype(f"i{stored}")
        if stored != size:
            values >>= 8 * (stored - size)
        found[column] = values
    return found


def _by_walking(
    raw: Bytes, cell: Int64, page_end: Int64, most: int, wanted: Mapping[int, int | None]
) -> dict[int, Narrow]:
    """The columns of any records, from one field to the next."""
    length, at = _varint(raw, cell)
    _, at = _varint(raw, at)
    header, kind_at = _varint(raw, at)
    body, past = at + header, at + length
    if np.any(length > most) or np.any(past > page_end):
        raise UnusualError  # the record goes on in another page
    header_end, words = body.copy(), big_endian(raw, ">i8")
    found = {}
    for column in range(max(wanted) + 1):
        kind = raw[kind_at]
        same = len(kind) > 0 and kind[0] < 0x80 and bool(np.all(kind == kind[0]))
        size: np.int64 | Int64
        if same:
            size, kind_at = _SIZE[kind[0]], kind_at + 1
        elif np.all(kind < 0x80):
            size, kind_at = _SIZE[kind], kind_at + 1
        else:
            number, kind_at = _varint(raw, kind_at)
            size = np.where(number < 12, _SIZE[np.minimum(number, 11)], (number - 12) // 2)
        if column in wanted:
            found[column] = _integers(words, body, kind, same, wanted[column])
        body = body + size
    if np.any(kind_at > header_end) or np.any(body > past):
        raise UnusualError  # columns were added after the record was written, or it is damaged
    return found


def _integers(words: npt.NDArray[Any], at: Int64, kind: Bytes, same: bool, null: int | None) -> Int64:
    """One field of each record, of serial types ``kind`` (``same``: they all are the first)."""
    if np.any((kind > 6) & (kind != 8) & (kind != _ONE)) or (null is None and np.any(kind == 0)):
        raise UnusualError
    if same and _SIZE[kind[0]] == 0:
        value = (null or 0) if kind[0] == 0 else int(kind[0] == _ONE)
        return np.broadcast_to(np.int64(value), (len(kind),))
    size = _SIZE[kind[0]] if same else np.maximum(_SIZE[kind], 1)
    values = (words[at] >> 8 * (8 - size)).astype(np.int64)
    if not same:
        for special, value in ((0, null or 0), (8, 0), (_ONE, 1)):
            values[kind == special] = value
    constant = len(values) > 0 and values[0] == values[-1] and bool(np.all(values == values[0]))
    return np.broadcast_to(values[0], values.shape) if constant else values


def _varint(raw: Bytes, at: Int64) -> tuple[Int64, Int64]:
    """The variable-length integers at ``at``, of up to eight bytes, and where they end."""
    byte = raw[at]
    value, end = (byte & 0x7F).astype(np.int64), at + 1
    longer = np.flatnonzero(byte & 0x80)
    for _ in range(7):
        if not len(longer):
            break
        byte = raw[end[longer]]
        value[longer] = value[longer] << 7 | byte & 0x7F
        end[longer] += 1
        longer = longer[byte >= 0x80]
    if len(longer):
        raise UnusualError
    return value, end
