"""Damage to an nsys export that is still a valid database: tables, columns, values, times, ranges, schema."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzz.damage_bytes import ANY, Damage, flip_bytes
from tests.fuzz.damage_pages import PAGES
from tests.fuzz.dice import Dice
from tests.fuzz.hostile import NUMBERS, TEXTS, storable

READ = (
    "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS", "StringIds",
    "TARGET_INFO_GPU", "TARGET_INFO_CUDA_DEVICE", "META_DATA_EXPORT", "EXPORT_META_DATA", "DIAGNOSTIC_EVENT",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "CUPTI_ACTIVITY_KIND_MEMCPY", "CUDA_GRAPH_NODE_EVENTS",
)  # fmt: skip
_TIMED = READ[:3]
_MOST_STEPS = 300  # millions, of SQLite's machine: in a damaged file a change may have no end
_THREAD = 1 << 48 | 7 << 24 | 7

Change = Callable[[Dice, sqlite3.Connection], None]


def _damage(change: Change) -> Damage:
    """A change made through SQL; a file that SQLite does not open is flipped instead."""

    def damage(dice: Dice, content: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.sqlite"
            path.write_bytes(content)
            db = sqlite3.connect(path)
            try:
                steps = itertools.count()
                db.set_progress_handler(lambda: next(steps) >= _MOST_STEPS, 1_000_000)
                db.execute("PRAGMA synchronous = OFF")
                change(dice, db)
                db.commit()
            except (sqlite3.Error, OverflowError, UnicodeError, IndexError):
                with suppress(sqlite3.Error, UnicodeError):
                    db.rollback()
            finally:
                db.close()
            changed = path.read_bytes()
        return changed if changed and changed != content else flip_bytes(dice, content)

    damage.__name__ = change.__name__
    return damage


def _tables(db: sqlite3.Connection, wanted: tuple[str, ...] = READ) -> list[str]:
    here = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [table for table in wanted if table in here]


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]


def drop_table(dice: Dice, db: sqlite3.Connection) -> None:
    db.execute(f'DROP TABLE "{dice.pick(_tables(db))}"')


def empty_table(dice: Dice, db: sqlite3.Connection) -> None:
    db.execute(f'DELETE FROM "{dice.pick(_tables(db))}"')


def drop_rows(dice: Dice, db: sqlite3.Connection) -> None:
    """Some rows gone, as where events were lost."""
    db.execute(f'DELETE FROM "{dice.pick(_tables(db))}" WHERE rowid % {dice.below(5) + 2} = 0')


def double_rows(dice: Dice, db: sqlite3.Connection) -> None:
    """Every row twice: ids and correlations that should be unique are not."""
    table = dice.pick(_tables(db))
    columns = ", ".join(f'"{c}"' for c in _columns(db, table) if (table, c) != ("StringIds", "id"))
    db.execute(f'INSERT INTO "{table}" ({columns}) SELECT {columns} FROM "{table}"')


def rename_column(dice: Dice, db: sqlite3.Connection) -> None:
    table = dice.pick(_tables(db))
    db.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{dice.pick(_columns(db, table))}" TO "other"')


def drop_column(dice: Dice, db: sqlite3.Connection) -> None:
    table = dice.pick(_tables(db))
    db.execute(f'ALTER TABLE "{table}" DROP COLUMN "{dice.pick(_columns(db, table))}"')


def set_value(dice: Dice, db: sqlite3.Connection) -> None:
    """A number or text that does not belong there, in one row of a column, in some or in all."""
    table = dice.pick(_tables(db))
    column = dice.pick(_columns(db, table))
    value: Any = dice.pick(NUMBERS) if dice.chance(0.7) else storable(dice.pick(TEXTS))
    given = "?"
    if isinstance(value, int) and abs(value) >= 1 << 63:
        value = str(value)
    if dice.chance(0.15):
        value = dice.pick((b"\xff\xfe\x80name", b"", b"a\0b\xc3", b"\xed\xa0\x80"))
        given = dice.pick(("?", "CAST(? AS TEXT)"))  # a blob, or text that is no UTF-8
    where = dice.pick(("", f"WHERE rowid % {dice.below(6) + 1} = 0", "WHERE rowid = 1"))
    db.execute("PRAGMA ignore_check_constraints = ON")
    db.execute(f'UPDATE "{table}" SET "{column}" = {given} {where}', (value,))


def hostile_names(dice: Dice, db: sqlite3.Connection) -> None:
    """Every name a text that means something to a terminal, a page, a shell or a database."""
    texts = [storable(text) for text in TEXTS]
    first = dice.below(len(texts))
    for table, column in (("StringIds", "value"), ("NVTX_EVENTS", "text"), ("TARGET_INFO_GPU", "name"),
                          ("DIAGNOSTIC_EVENT", "text"), ("META_DATA_EXPORT", "value")):  # fmt: skip
        if column not in _columns(db, table):
            continue
        kept = "%flash%" if dice.chance(0.5) else "no name is like this"
        rows = db.execute(
            f'SELECT rowid FROM "{table}" WHERE "{column}" NOT LIKE ? LIMIT 3000', (kept,)
        ).fetchall()
        named = [(texts[(first + at) % len(texts)], row) for at, (row,) in enumerate(rows)]
        db.executemany(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', named)


def replace_by_view(dice: Dice, db: sqlite3.Connection) -> None:
    """A view in a table's place, which may have no end."""
    table = dice.pick(_tables(db))
    db.execute(f'ALTER TABLE "{table}" RENAME TO "real_one"')
    endless = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS id, 'x' AS value FROM c"
    )
    db.execute(f'CREATE VIEW "{table}" AS {dice.pick(("SELECT * FROM real_one", endless))}')


def generated_column(dice: Dice, db: sqlite3.Connection) -> None:
    """Columns that are computed when they are read, to more bytes than the file has."""
    table = dice.pick(_tables(db))
    chosen = dice.pick(_columns(db, table))
    db.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{chosen}" TO "stored"')
    rule = dice.pick(("stored", "hex(zeroblob(100000000))", "abs(-9223372036854775808)", "stored || stored"))
    db.execute(f'ALTER TABLE "{table}" ADD COLUMN "{chosen}" GENERATED ALWAYS AS ({rule})')


def edit_schema(dice: Dice, db: sqlite3.Connection) -> None:
    """sqlite_master says what is not so."""
    tables = _tables(db)
    table, other = dice.pick(tables), dice.pick(tables)
    db.execute("PRAGMA writable_schema = ON")
    root = f"(SELECT rootpage FROM sqlite_master WHERE name = '{other}')"
    edits = (
        f"rootpage = {root}", "rootpage = 1", "rootpage = 0", "rootpage = -5", "rootpage = 2147483647",
        "sql = 'x'", "sql = NULL", "type = 'index'", "name = CAST(x'ff22' AS TEXT)", "name = 5",
        "sql = replace(sql, 'start', 'stop')", "sql = sql || ' WITHOUT ROWID'", "rootpage = 'x'",
        "sql = 'CREATE VIRTUAL TABLE ' || name || ' USING fts5(id, value)'", "tbl_name = 'sqlite_master'",
        "sql = 'CREATE TABLE ' || name || ' (start TEXT, end TEXT, id TEXT, value INT)'",
    )  # fmt: skip
    db.execute(f"UPDATE sqlite_master SET {dice.pick(edits)} WHERE name = ?", (table,))


def repack(dice: Dice, db: sqlite3.Connection) -> None:
    """The same content in other pages, another encoding, or with other bookkeeping."""
    db.execute(f"PRAGMA page_size = {dice.pick((512, 1024, 8192, 65536))}")
    db.execute(f"PRAGMA auto_vacuum = {dice.pick((0, 1, 2))}")
    db.execute("VACUUM")
    if dice.chance(0.3):
        db.execute("PRAGMA journal_mode = WAL")


def change_times(dice: Dice, db: sqlite3.Connection) -> None:
    """Times that run backwards, lie before the clock's zero, overflow, or are all one moment."""
    table = dice.pick([table for table in _tables(db, _TIMED) if "start" in _columns(db, table)])
    last = dice.pick(("end", "start"))
    db.execute(
        f'UPDATE "{table}" SET '
        + dice.pick((
            "start = end, end = start", "start = -start, end = -end", "start = end", "end = NULL",
            f"{last} = 9223372036854775807", "start = start + 4611686018427387904, end = end + (1 << 62)",
            "start = -9223372036854775808, end = 9223372036854775807", "start = 0, end = 0",
            "start = rowid * 7919 % 100003, end = rowid * 104729 % 100003", f"{last} = {last} * 1000000",
        ))
    )  # fmt: skip


def correlate(dice: Dice, db: sqlite3.Connection) -> None:
    """Kernels and calls that belong together no more, or all to each other."""
    table = dice.pick(_tables(db, READ[:2]))
    rule = dice.pick(
        ("1", "-1", "NULL", "rowid * 1000003", "9223372036854775807 - rowid", "correlationId / 7")
    )
    db.execute(f'UPDATE "{table}" SET correlationId = {rule}')


def _add_ranges(db: sqlite3.Connection, rows: list[tuple[int, int | None, str]], kind: int = 59) -> None:
    insert = "INSERT INTO NVTX_EVENTS (start, end, text, eventType, globalTid)"
    db.executemany(f"{insert} VALUES (?, ?, ?, {kind}, {_THREAD})", rows)


def deep_ranges(dice: Dice, db: sqlite3.Connection) -> None:
    """Ten thousand ranges inside each other, or never closed."""
    close = dice.chance(0.5)
    _add_ranges(db, [(i, 10**9 - i if close else None, f"range {i}") for i in range(10_000)])


def crossing_ranges(dice: Dice, db: sqlite3.Connection) -> None:
    """Thousands of ranges each of which begins in one and ends in another, in a ring."""
    count, step = dice.pick((50, 3_000)), dice.pick((1, 10))
    rows = [(i * step, i * step + count * step // 2, f"step {i}") for i in range(count)]
    _add_ranges(db, [(start, end, name) for start, end, name in rows], dice.pick((59, 60)))


def range_names(dice: Dice, db: sqlite3.Connection) -> None:
    """attnprof's own names, with numbers that no step, layer or call has."""
    value = dice.pick((0, -1, 7, 2**31 - 1, 2**31, 2**40, -(2**63)))
    name = dice.pick(("decode", "prefill", "layer", "attn", "ProfilerStep#3", "step 999999999 decode"))
    db.execute(
        f"UPDATE NVTX_EVENTS SET text = ?, int64Value = ? WHERE rowid % {dice.below(4) + 1} = 0",
        (name, value),
    )


def graph_cycle(dice: Dice, db: sqlite3.Connection) -> None:
    """Graph nodes that are each other's originals, and ranges that are each other's beginning."""
    if "CUDA_GRAPH_NODE_EVENTS" in _tables(db):
        ids = "originalGraphNodeId = graphNodeId + 1, graphNodeId = graphNodeId % 3"
        db.execute(f"UPDATE CUDA_GRAPH_NODE_EVENTS SET {ids}")
    db.execute("UPDATE NVTX_EVENTS SET rangeId = rowid + 1, endGlobalTid = globalTid + 1")


def many_names(dice: Dice, db: sqlite3.Connection) -> None:
    """A million names, of ranges, of kernels, or of nothing."""
    kind = dice.pick(("none", "ranges", "ranges in line", "kernels"))
    dice.note(kind)
    count = 100_000 if kind == "kernels" and dice.chance(0.5) else 1_000_000
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    if kind != "ranges in line":
        db.execute(
            f"INSERT INTO StringIds (id, value) {numbers} SELECT 10000000 + i, 'name of step ' || i FROM n"
        )
    if kind in ("ranges", "ranges in line"):
        column, value = ("textId", "10000000 + i") if kind == "ranges" else ("text", "'decode step ' || i")
        db.execute(
            f"INSERT INTO NVTX_EVENTS (start, end, eventType, globalTid, {column})"
            f" {numbers} SELECT 10 * i, 10 * i + 5, 59, {_THREAD}, {value} FROM n"
        )
    if kind == "kernels":
        row = db.execute("SELECT * FROM CUPTI_ACTIVITY_KIND_KERNEL LIMIT 1")
        names = [one[0] for one in row.description]
        values = dict(zip(names, row.fetchone(), strict=True))
        values |= {"start": "10 * i", "end": "10 * i + 5", "demangledName": "10000000 + i"}
        given = ", ".join(str(values[name]) if values[name] is not None else "NULL" for name in names)
        db.execute(f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL {numbers} SELECT {given} FROM n")


SQL: tuple[Damage, ...] = tuple(
    map(
        _damage,
        (
            drop_table, empty_table, drop_rows, double_rows, rename_column, drop_column, set_value, set_value,
            set_value, set_value, hostile_names, hostile_names, replace_by_view, generated_column,
            edit_schema, edit_schema, repack, change_times, change_times, correlate, deep_ranges,
            crossing_ranges, range_names, range_names, graph_cycle,
        ),
    )
)  # fmt: skip
SQLITE: tuple[Damage, ...] = (*ANY, *PAGES, *SQL, *SQL)
MANY_NAMES = _damage(many_names)
