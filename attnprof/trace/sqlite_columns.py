"""Integer columns out of SQLite into numpy: from the pages where that works, else through sqlite3."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from itertools import chain
from operator import index
from pathlib import Path

import numpy as np

from attnprof.arrays import Narrow
from attnprof.errors import TraceError
from attnprof.trace.sqlite_pages import GrowingColumn, is_tree, read_integers
from attnprof.trace.sqlite_read_only import open_read_only

_AT_ONCE = 1 << 16  # rows


class Database:
    """An SQLite file opened so that neither it nor its folder can change. Text that is no UTF-8 is mended."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._db = open_read_only(self.path)
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self._sound: set[int] = set()
        self._require_tree(1, "sqlite_master")
        tables = self.query("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'")
        # A virtual table has no page: reading it would run code that the file chooses.
        self._roots = {str(name): root for name, root in tables.fetchall() if isinstance(root, int) and root}

    def close(self) -> None:
        self._db.close()

    def query(self, sql: str) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql)
        except UnicodeDecodeError as error:  # SQLite's own message quotes the damaged schema
            raise sqlite3.DatabaseError("the schema is damaged") from error

    def rows(self, table: str, sql: str) -> sqlite3.Cursor:
        """What ``sql`` selects from ``table``; sqlite3.Error where the table's pages have no end."""
        self._require_tree(self._roots[table], table)
        return self.query(sql)

    def _require_tree(self, root: int, table: str) -> None:
        if root not in self._sound:
            if not is_tree(self.path, root):
                raise sqlite3.DatabaseError(f"the pages of {table} are damaged")
            self._sound.add(root)

    @property
    def tables(self) -> frozenset[str]:
        return frozenset(self._roots)

    def columns(self, table: str) -> dict[str, int]:
        """The table's columns with their positions in a record; empty for views and what is not there."""
        if table not in self._roots:
            return {}
        return {str(row[1]): int(row[0]) for row in self.query(f'PRAGMA table_info("{table}")')}

    def integers(self, table: str, wanted: Mapping[str, int | None]) -> dict[str, Narrow]:
        """Columns of ``table``, in rowid order and as narrow as they can be; a constant one is a broadcast.

        ``wanted`` maps a column to what stands for NULL and for the column where there is none; a column
        with None is required. A missing table has no rows. Raises TraceError when a required column is
        missing or a value is no integer, sqlite3.Error when the file is damaged.
        """
        present = self.columns(table)
        if not present:
            return {name: np.empty(0, np.int64) for name in wanted}
        missing = [name for name, default in wanted.items() if name not in present and default is None]
        if missing:
            raise TraceError(
                f"table {table} has no column {', '.join(missing)}",
                hint="this export's schema is not known: export the report with nsys 2022.4 to 2026.2",
            )
        stored = {name: default for name, default in wanted.items() if name in present}
        found = self._from_pages(table, present, stored) or self._from_rows(table, stored)
        rows = len(next(iter(found.values())))
        absent = {name: np.int64(default or 0) for name, default in wanted.items() if name not in present}
        return found | {name: np.broadcast_to(value, (rows,)) for name, value in absent.items()}

    def _from_pages(
        self, table: str, present: Mapping[str, int], wanted: Mapping[str, int | None]
    ) -> dict[str, Narrow] | None:
        described = self.query(f'PRAGMA table_xinfo("{table}")')
        hidden = any(row[5] or row[6] for row in described)  # a primary key, or hidden
        if hidden:  # generated columns and the rowid's alias are not in the record
            return None
        names = {present[name]: name for name in wanted}
        found = read_integers(self.path, self._roots[table], {at: wanted[name] for at, name in names.items()})
        return None if found is None else {names[at]: values for at, values in found.items()}

    def _from_rows(self, table: str, wanted: Mapping[str, int | None]) -> dict[str, Narrow]:
        select = ", ".join(
            f'"{c}"' if null is None else f'coalesce("{c}", {null})' for c, null in wanted.items()
        )
        # Without NOT INDEXED an index that another tool has added could decide the order.
        cursor = self.rows(table, f'SELECT {select} FROM "{table}" NOT INDEXED ORDER BY rowid')
        columns = {c: GrowingColumn() for c in wanted}
        rows = self.query(f'SELECT count(*) FROM "{table}"').fetchone()[0]
        try:
            while part := cursor.fetchmany(_AT_ONCE):
                flat = np.fromiter(map(index, chain.from_iterable(part)), np.int64)
                for i, column in enumerate(columns.values()):
                    column.add(flat[i :: len(wanted)], of=rows)
        except (ValueError, TypeError, OverflowError) as error:
            raise TraceError(
                f"table {table} holds a value that is not an integer where one must be: {error}",
                hint="the file is damaged or was edited: export the report again",
            ) from error
        return {c: column.values() for c, column in columns.items()}
