"""Writes the nsys export of a server: generations of :mod:`benchmarks.synthetic`, one after another."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.synthetic import SCHEMA, write_sqlite

GENERATION = 200_000  # kernels: about 550 steps of 28 layers
_KERNEL, _CALL, _COPY, _RANGE = (
    *(f"CUPTI_ACTIVITY_KIND_{kind}" for kind in ("KERNEL", "RUNTIME", "MEMCPY")),
    "NVTX_EVENTS",
)
_PAUSE_NS = 5_000_000  # between two generations


def write_many(path: Path, kernels: int, generation: int = GENERATION) -> None:
    """The export, at ``path``, of generations of about so many kernels with at least ``kernels`` together.

    SQLite copies the first one, which is a hundred times faster than making each. As between the launches of
    a real program there are calls that launch nothing: one after every fifth. Rows are in order of time.
    """
    write_sqlite(path, min(kernels, generation))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        _add_calls(db)
        for table in (_CALL, _RANGE):
            _sort(db, table)
        made = int(db.execute(f"SELECT count(*) FROM {_KERNEL}").fetchone()[0])
        copies = -(-kernels // made)
        first, last, ids = db.execute(
            f"SELECT min(r.start), max(r.end), max(c.correlationId) + 2 FROM {_RANGE} r, "
            f"(SELECT max(correlationId) AS correlationId FROM {_CALL}) c"
        ).fetchone()
        for table in (_KERNEL, _CALL, _COPY, _RANGE):
            _repeat(db, table, copies, last - first + _PAUSE_NS, ids)
        db.execute("COMMIT")


def _add_calls(db: sqlite3.Connection) -> None:
    """An event recorded after every fifth call; ids go on counting up without a gap."""
    for table in (_KERNEL, _CALL, _COPY):
        db.execute(f"UPDATE {table} SET correlationId = correlationId + correlationId / 5")
    (name,) = db.execute("SELECT max(id) + 1 FROM StringIds").fetchone()
    db.execute("INSERT INTO StringIds VALUES (?, 'cudaEventRecord_v3020')", (name,))
    moved = {
        "start": "end + 40",
        "end": "end + 640",
        "correlationId": "correlationId + 1",
        "nameId": str(name),
    }
    _insert(db, _CALL, moved, "WHERE correlationId % 6 = 4")


def _sort(db: sqlite3.Connection, table: str) -> None:
    db.execute(f"ALTER TABLE {table} RENAME TO unsorted")
    db.execute(f"CREATE TABLE {table} ({SCHEMA[table]})")
    db.execute(f"INSERT INTO {table} SELECT * FROM unsorted ORDER BY start, end DESC")
    db.execute("DROP TABLE unsorted")


def _repeat(db: sqlite3.Connection, table: str, copies: int, duration: int, ids: int) -> None:
    """The rows so many times, each ``duration`` ns and ``ids`` correlation ids after the last."""
    rows = db.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]
    for number in range(1, copies):
        moved = {time: f"{time} + {number * duration}" for time in ("start", "end")}
        if table != _RANGE:
            moved["correlationId"] = f"correlationId + {number * ids}"
        _insert(db, table, moved, f"WHERE rowid <= {rows}")


def _insert(db: sqlite3.Connection, table: str, moved: dict[str, str], where: str) -> None:
    """Rows of the table once more, with some columns changed."""
    columns = [f'"{row[1]}"' for row in db.execute(f"PRAGMA table_info({table})")]
    chosen = ", ".join(moved.get(column.strip('"'), column) for column in columns)
    db.execute(f"INSERT INTO {table} SELECT {chosen} FROM {table} {where}")
