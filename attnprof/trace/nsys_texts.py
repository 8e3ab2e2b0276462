"""The texts of an nsys export: kept once in StringIds, and where nsys wrote them in the row itself."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from attnprof.arrays import Narrow, mapped, narrowest
from attnprof.trace.nsys_tables import STRINGS
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.tables import Int32, Int64


def as_text(value: object) -> str:
    """A text column's value, which may have any type in SQLite."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


class Texts:
    """StringIds as a list, and the texts found elsewhere behind it; index 0 is the empty string."""

    def __init__(self, db: Database) -> None:
        rows = []
        if {"id", "value"} <= db.columns(STRINGS).keys():
            select = f"SELECT id, value FROM {STRINGS} WHERE typeof(id) = 'integer' ORDER BY id"
            rows = db.rows(STRINGS, select).fetchall()
        self._ids = np.fromiter((i for i, _ in rows), np.int64, count=len(rows))
        if np.any(self._ids[1:] < self._ids[:-1]):  # SQLite takes keys to be in order
            raise sqlite3.DatabaseError(f"the keys of {STRINGS} are damaged")
        self.all = ["", *(as_text(value) for _, value in rows)]
        self._dense: Int32 | None = None  # the index of every id from the first to the last, then 0
        span = int(self._ids[-1]) - int(self._ids[0]) + 1 if rows else 0
        if rows and span <= 4 * len(self._ids) + 1024:
            self._dense = np.zeros(span + 1, np.int32)
            self._dense[self._ids - self._ids[0]] = np.arange(1, len(self._ids) + 1)

    def index(self, ids: Narrow) -> Narrow:
        """Index into ``all`` per StringIds id; 0 where there is no such id."""
        return mapped(ids, self._index, narrowest(0, len(self._ids)))

    def _index(self, ids: Int64) -> Int64 | Int32:
        if not len(self._ids):
            return np.zeros(len(ids), np.int32)
        if self._dense is not None:
            low, span = int(self._ids[0]), len(self._dense) - 1
            return self._dense[np.where((ids >= low) & (ids < low + span), ids - low, span)]
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[at] == ids, at + 1, 0)

    def add(self, texts: Iterable[object]) -> Int32:
        """Indices of texts, each appended once; -1 for None."""
        added: dict[str, int] = defaultdict(lambda: len(self.all) + len(added))
        found = np.fromiter((-1 if t is None else added[as_text(t)] for t in texts), np.int32)
        self.all += added
        return found
