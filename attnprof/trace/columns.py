"""Integer columns out of SQLite into numpy, with as few Python objects on the way as possible.

Making Python integers is most of the cost of reading a large table, so several columns travel in one 64-bit
word. How wide each is, is guessed from a sample; the query passes only rows that fit the guess, so a row that
does not shows as a short read and the table is read again, one value at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from attnprof.errors import TraceError
from attnprof.trace.model import Int64

_WORD = 63  # bits: a word stays a non-negative 64-bit integer
_SAMPLES = 32  # places looked at, and rows read at each


@dataclass(frozen=True, slots=True)
class Column:
    """A value to read: ``sql`` over the table's columns ``needs``, ``default`` where they are NULL or absent.

    A column without default is required.
    """

    field: str
    sql: str
    needs: tuple[str, ...]
    default: int | None = None


@dataclass(slots=True)
class _Slot:
    """Where a column lies: ``value - low`` in ``bits`` bits at ``shift`` of its word; constant if 0 bits.

    ``low`` is None for a column that is NULL throughout.
    """

    column: Column
    low: int | None
    bits: int
    word: int = -1
    shift: int = 0

    @property
    def delta(self) -> str:
        return f"(({self.column.sql}) - ({self.low}))"


def column(field: str, name: str | None = None, default: int | None = None) -> Column:
    """A column read as it is stored."""
    return Column(field, f'"{name or field}"', (name or field,), default)


def table_columns(db: sqlite3.Connection, table: str) -> frozenset[str]:
    """The table's column names; empty when there is no such table."""
    return frozenset(row[1] for row in db.execute(f'PRAGMA table_info("{table}")'))


def read_columns(
    db: sqlite3.Connection,
    table: str,
    wanted: Sequence[Column],
    *,
    where: str = "",
    rows: int | None = None,
) -> dict[str, Int64]:
    """The wanted columns of ``table``'s rows, in rowid order; a constant column is a read-only broadcast.

    ``where`` is an SQL condition, ``rows`` how many rows it passes, if known. A missing table has no rows.
    Raises TraceError when a required column is missing or not integer, sqlite3.Error for a damaged file.
    """
    present = table_columns(db, table)
    missing = [c for c in wanted if not present.issuperset(c.needs)]
    if not present:
        return {c.field: np.empty(0, np.int64) for c in wanted}
    for absent in missing:
        if absent.default is None:
            raise TraceError(
                f"table {table} has no column {', '.join(sorted(set(absent.needs) - present))}",
                hint="this export's schema is not known: export the report with nsys 2022.4 to 2026.2",
            )
    source = f'FROM "{table}" NOT INDEXED'
    if rows is None:
        rows = db.execute(f"SELECT count(*) {source}" + (f" WHERE {where}" if where else "")).fetchone()[0]
    found = [c for c in wanted if c not in missing]
    values = _read_packed(db, source, found, where, rows)
    if values is None:
        values = _read_wide(db, table, source, found, where, rows)
    return values | {c.field: _constant(c.default, rows) for c in missing}


def _constant(value: int | None, rows: int) -> Int64:
    return np.broadcast_to(np.int64(value or 0), (rows,))


def _read_packed(
    db: sqlite3.Connection, source: str, columns: list[Column], where: str, rows: int
) -> dict[str, Int64] | None:
    """The columns through packed words, or None when some row does not fit the layout."""
    slots = _layout(_sample(db, source, columns, where, rows), columns)
    if slots is None:
        return None
    moving = [s for s in slots if s.bits]
    words = 1 + max((s.word for s in moving), default=0)
    terms = [[f"{s.delta} << {s.shift}" for s in moving if s.word == w] for w in range(words)]
    fits = [f"({' | '.join(f'({s.delta} >> {s.bits})' for s in moving)}) = 0"] if moving else []
    fits += [f"({s.column.sql}) IS {'NULL' if s.low is None else s.low}" for s in slots if not s.bits]
    fits += [where] if where else []
    select = ", ".join(f"({' | '.join(f'({t})' for t in word)})" if word else "0" for word in terms)
    cursor = db.execute(
        f"SELECT {select} {source} WHERE {' AND '.join(f'({f})' for f in fits)} ORDER BY rowid"
    )
    try:
        packed = np.fromiter(chain.from_iterable(cursor), np.int64, count=rows * words).reshape(rows, words)
    except (ValueError, TypeError):  # too few rows, or a value that is no integer
        return None
    values: dict[str, Int64] = {}
    for s in slots:
        low = s.column.default if s.low is None else s.low
        if s.bits:
            values[s.column.field] = (packed[:, s.word] >> s.shift & (1 << s.bits) - 1) + (low or 0)
        else:
            values[s.column.field] = _constant(low, rows)
    return values


def _read_wide(
    db: sqlite3.Connection, table: str, source: str, columns: list[Column], where: str, rows: int
) -> dict[str, Int64]:
    """The columns, one integer per value."""
    select = ", ".join(c.sql if c.default is None else f"coalesce({c.sql}, {c.default})" for c in columns)
    condition = f" WHERE {where}" if where else ""
    cursor = db.execute(f"SELECT {select} {source}{condition} ORDER BY rowid")
    try:
        flat = np.fromiter(chain.from_iterable(cursor), np.int64, count=rows * len(columns))
    except (ValueError, TypeError, OverflowError) as error:
        raise TraceError(
            f"table {table} holds a value that is not an integer where one must be: {error}",
            hint="the file is damaged or was edited: export the report again",
        ) from error
    table_values = flat.reshape(rows, len(columns))
    return {c.field: np.ascontiguousarray(table_values[:, i]) for i, c in enumerate(columns)}


def _sample(
    db: sqlite3.Connection, source: str, columns: list[Column], where: str, rows: int
) -> list[tuple[object, ...]]:
    """Rows from evenly spaced places, the first and the last ones included."""
    first, last = db.execute(f"SELECT (SELECT min(rowid) {source}), (SELECT max(rowid) {source})").fetchone()
    if not rows or first is None:
        return []
    query = f"SELECT {', '.join(c.sql for c in columns)} {source} WHERE rowid >= ?"
    query += (f" AND {where}" if where else "") + f" ORDER BY rowid LIMIT {_SAMPLES}"
    places = {first + (last - first) * i // _SAMPLES for i in range(_SAMPLES)} | {
        max(first, last - _SAMPLES + 1)
    }
    return [row for place in sorted(places) for row in db.execute(query, (place,))]


def _layout(sample: list[tuple[object, ...]], columns: list[Column]) -> list[_Slot] | None:
    """Each column's place in the words, with the room left over shared out; None when packing cannot work."""
    slots = []
    for i, c in enumerate(columns):
        seen = [row[i] for row in sample]
        values = [v for v in seen if isinstance(v, int)]
        if c.default is not None and all(v is None for v in seen):
            slots.append(_Slot(c, None, 0))
        elif (
            values and len(values) == len(seen) and (bits := (max(values) - min(values)).bit_length()) < _WORD
        ):
            slots.append(_Slot(c, min(values), bits))
        else:
            return None
    free: list[int] = []
    for s in sorted((s for s in slots if s.bits), key=lambda s: -s.bits):
        s.word = next((w for w, room in enumerate(free) if room >= s.bits), len(free))
        if s.word == len(free):
            free.append(_WORD)
        free[s.word] -= s.bits
    for w, room in enumerate(free):
        inside = [s for s in slots if s.word == w]
        shift = 0
        for s in inside:
            spread = 1 << s.bits
            s.bits = min(s.bits + room // len(inside), _WORD - 1)  # a difference that overflows must not fit
            s.low = max(min(s.low or 0, 0), (s.low or 0) - ((1 << s.bits) - spread) // 2)
            s.shift, shift = shift, shift + s.bits
    return slots
