"""Integer columns straight from the pages of an SQLite file, without a Python object per value.

Fetching through sqlite3 costs an object per value and is nine tenths of reading a trace. A table is a b-tree
whose leaves hold records of self-describing fields; numpy walks one field of thousands of records at a time.
Whatever is unusual (records spilling over pages, values that are no integers, damaged pages) is left to
sqlite3: the answer is then None. Format: https://www.sqlite.org/fileformat.html
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.arrays import Narrow, narrowest
from attnprof.trace.sqlite_records import PAST, Bytes, UnusualError, big_endian, read_records
from attnprof.trace.tables import Int64

_LEAF, _INTERIOR = 0x0D, 0x05
_INDEX_INTERIOR = 0x02
_LEAVES = {_LEAF, 0x0A}  # of tables and, in tables without rowid, of indexes
_BLOCK = 4 << 20  # bytes of leaf pages looked at together: small enough for the cache, large enough for numpy


def read_integers(path: Path, root: int, wanted: Mapping[int, int | None]) -> dict[int, Narrow] | None:
    """Columns of the table rooted at page ``root``, in rowid order; None where sqlite3 must read it.

    ``wanted`` maps a column's position in the record to what stands for NULL; NULL is unusual where that is
    None. The columns are those of :class:`GrowingColumn`. The file must not change meanwhile.
    """
    try:
        columns = {column: GrowingColumn() for column in wanted}
        with path.open("rb", buffering=0) as opened:
            file = _File(opened)
            leaves = file.leaves(root)
            step = max(1, _BLOCK // file.page_size)
            if len(leaves) > step:
                # The C library keeps what is freed up to the largest size freed before: with one room, never
                # touched, each block has the memory of the one before, without the system clearing it again.
                np.empty(4 * _BLOCK, np.uint8)
            for first in range(0, len(leaves), step):
                some = leaves[first : first + step]
                for column, values in _fields(file, some, wanted).items():
                    columns[column].add(values, of=len(values) * len(leaves) // len(some))
        return {column: columns.pop(column).values() for column in wanted}
    except (UnusualError, IndexError):
        return None


def is_tree(path: Path, root: int) -> bool:
    """Whether the b-tree rooted at page ``root`` reaches every page once.

    In a crafted or badly damaged file it may not: a few pages then hold more rows than anybody can read.
    """
    try:
        with path.open("rb", buffering=0) as opened:
            file = _File(opened)
            level, visited = np.array([root]), 0
            while visited < file.num_pages and len(np.unique(level)) == len(level):
                visited += len(level)
                kinds, children = file.below(level)
                if kinds <= _LEAVES:
                    return True
                if kinds not in ({_INTERIOR}, {_INDEX_INTERIOR}):
                    return False
                level = children
    except (UnusualError, IndexError):
        pass
    return False


class GrowingColumn:
    """A column that arrives in parts: one value while it is constant, else the narrowest type that holds it.

    It takes its room at once, by an estimate, so that parts and whole are never in memory together: pages of
    the room that are not written to take no memory.
    """

    def __init__(self) -> None:
        self._length, self._constant = 0, 0
        self._room: Narrow | None = None  # None while the column is constant

    def add(self, part: Int64, *, of: int) -> None:
        """Append the next part of a column expected to have about ``of`` rows."""
        if not len(part):
            return
        low, high = int(part.min()), int(part.max())
        end = self._length + len(part)
        if self._room is None and low == high and (not self._length or low == self._constant):
            self._constant, self._length = low, end
            return
        if self._room is None:
            held = (self._constant, self._constant) if self._length else (low, low)
        else:
            held = np.iinfo(self._room.dtype).min, np.iinfo(self._room.dtype).max
        kind = narrowest(min(low, held[0]), max(high, held[1]))
        if self._room is None or end > len(self._room) or kind != self._room.dtype:
            self._move(kind, max(end, end + end // 8 if self._length else 0, of + of // 64))
        assert self._room is not None
        self._room[self._length : end] = part
        self._length = end

    def _move(self, kind: type[np.signedinteger[Any]], rows: int) -> None:
        room = np.empty(rows, kind)
        room[: self._length] = self._constant if self._room is None else self._room[: self._length]
        self._room = room

    def values(self) -> Narrow:
        """The column; a read-only broadcast of int64 where it is constant."""
        if self._room is None:
            return np.broadcast_to(np.int64(self._constant), (self._length,))
        return self._room[: self._length]


class _File:
    """The pages of a database file, numbered from 1 as SQLite does."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        head = file.read(100)
        size = int.from_bytes(head[16:18], "big")
        self.page_size = 65536 if size == 1 else size
        if self.page_size < 512 or len(head) < 100:
            raise UnusualError
        self.usable = self.page_size - head[20]
        self.num_pages = os.fstat(file.fileno()).st_size // self.page_size
        self._buffer = np.zeros(0, np.uint8)

    def read(self, pages: Int64) -> Bytes:
        """The pages one behind the other and room to read past the end; valid until the next read."""
        if len(pages) and (pages.min() < 1 or pages.max() > self.num_pages):
            raise UnusualError
        room = len(pages) * self.page_size + PAST
        if len(self._buffer) < room:
            self._buffer = np.zeros(room, np.uint8)
        runs = [0, *(np.flatnonzero(np.diff(pages) != 1) + 1).tolist(), len(pages)]
        into = self._buffer.data
        for first, last in pairwise(runs):
            place = into[first * self.page_size : last * self.page_size]
            self._file.seek((int(pages[first]) - 1) * self.page_size)
            if self._file.readinto(place) != len(place):
                raise UnusualError
        return self._buffer[:room]

    def below(self, pages: Int64) -> tuple[set[int], Int64]:
        """The types of some pages, and the pages that the inner ones point to."""
        kinds: set[int] = set()
        children = [np.empty(0, np.int64)]
        for first in range(0, len(pages), 1024):
            part = pages[first : first + 1024]
            raw = self.read(part)
            start = np.arange(len(part)) * self.page_size + 100 * (part == 1)  # page 1 has the file's header
            kinds |= set(raw[start].tolist())
            inner = start[(raw[start] == _INTERIOR) | (raw[start] == _INDEX_INTERIOR)]
            header, pointer = _cells(raw, inner, 12)
            where = np.append(header - header % self.page_size + pointer, inner + 8)
            children.append(big_endian(raw, ">u4")[where].astype(np.int64))
        return kinds, np.concatenate(children)

    def leaves(self, root: int) -> Int64:
        """The table's leaf pages in key order."""
        level = np.array([root])
        while self.read(level[:1])[0] != _LEAF:  # all leaves are equally deep
            if len(level) > self.num_pages:
                raise UnusualError
            raw = self.read(level)
            start = np.arange(len(level)) * self.page_size
            if np.any(raw[start] != _INTERIOR):
                raise UnusualError
            page, pointer = _cells(raw, start, 12)
            children = big_endian(raw, ">u4")[np.append(page + pointer, start + 8)].astype(np.int64)
            # The rightmost child stands in the page's header and comes after those of its cells.
            order = np.argsort(np.append(page, start), kind="stable")
            level = children[order]
        return level


def _cells(raw: Bytes, start: Int64, header: int) -> tuple[Int64, Int64]:
    """Of each cell, where its page begins in ``raw`` and where the cell begins in the page."""
    short = big_endian(raw, ">u2")
    count = short[start + 3].astype(np.int64)
    page = np.repeat(start, count)
    number = np.arange(len(page)) - np.repeat(np.cumsum(count) - count, count)
    return page, short[page + header + 2 * number].astype(np.int64)


def _fields(file: _File, pages: Int64, wanted: Mapping[int, int | None]) -> dict[int, Narrow]:
    """The wanted columns of the records on some leaf pages."""
    raw = file.read(pages)
    start = np.arange(len(pages)) * file.page_size
    if np.any(raw[start] != _LEAF):
        raise UnusualError
    page, pointer = _cells(raw, start, 8)
    return read_records(raw, page + pointer, page + file.usable, file.usable - 35, wanted)
