"""attnprof.db: a run as SQLite tables and views that people can query, written when it is first asked for.

It is several times what a run holds otherwise, and nothing of attnprof reads it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlite_utils

from attnprof.check.call_rows import CALL_COLUMNS, call_row
from attnprof.errors import RunError
from attnprof.files import durable
from attnprof.runs import folder_lock, full_disk, run_folders
from attnprof.runs.dataframes import LAYER_KIND, CallKinds, Column, kernel_columns, range_columns
from attnprof.runs.schema import PROCESS, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from attnprof.check.check_run import CheckedCall, CheckResult
    from attnprof.runs.folder_reading import OpenFolder
    from attnprof.trace.timeline import Timeline

_AT_ONCE = 1 << 16  # rows

_VIEWS = {
    "kernel_totals": """
        select name, count(*) as instances, sum(duration_ns) as total_ns, avg(duration_ns) as mean_ns,
               min(duration_ns) as min_ns, max(duration_ns) as max_ns
        from kernels group by name order by total_ns desc
    """,
    "phase_totals": """
        select phase, count(*) as kernels, sum(duration_ns) as gpu_ns,
               sum(case when family != '' then duration_ns else 0 end) as attention_ns
        from kernels group by phase
    """,
    "layer_kinds": """
        select layer_kind, phase, count(distinct layer) as layers, count(*) as calls,
               sum(duration_ns) as gpu_ns
        from calls where layer_kind is not null group by layer_kind, phase order by gpu_ns desc
    """,
    "split_timeline": """
        select phase, layer, layer_kind, coalesce(observed_num_splits, predicted_num_splits) as num_splits,
               coalesce(observed_kernel, predicted_kernel) as kernel,
               observed_kernel is not null as observed,
               min(step) as first_step, max(step) as last_step,
               min(seqlen_k) as min_seqlen_k, max(seqlen_k) as max_seqlen_k, count(*) as calls
        from calls group by phase, layer, layer_kind, num_splits, kernel, observed
        order by phase desc, layer, first_step
    """,
}


def write_database(path: Path, config: Mapping[str, Any], timeline: Timeline, result: CheckResult) -> None:
    """Writes ``path``: tables run, kernels, ranges, calls (each with its verdict) and processes, views."""
    db = sqlite_utils.Database(path)
    db.conn.execute("pragma synchronous = off")  # it gets its name only when all is written
    db.conn.execute("pragma journal_mode = memory")
    db["run"].insert_all(
        [{"key": key, "value": json.dumps(value)} for key, value in config.items()], pk="key"
    )
    _write(db, "kernels", len(timeline.trace.kernels), lambda rows: kernel_columns(timeline, rows))
    _write(db, "ranges", len(timeline.trace.ranges), lambda rows: range_columns(timeline, rows))
    _write_calls(db, result.calls, CallKinds(result)())
    if processes := (config.get("workload") or {}).get("processes"):
        db["processes"].create(PROCESS, pk="process")
        db["processes"].insert_all({name: one.get(name) for name in PROCESS} for one in processes)
    for name, select in _VIEWS.items():
        db.create_view(name, select)
    db.conn.execute(f"pragma user_version = {SCHEMA}")
    db.conn.close()


def schema_of(path: Path) -> int:
    """The schema that an attnprof.db states; 0 where there is none that can be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            (stated,) = db.execute("pragma user_version").fetchone()
            (tables,) = db.execute("select count(*) from sqlite_master where name = 'calls'").fetchone()
    except sqlite3.Error:
        return 0
    return int(stated) or (1 if tables else 0)  # schema 1 stated none


def bring_up_to_date(opened: OpenFolder, write: Callable[[Path], None]) -> Path:
    """A run folder's attnprof.db, written by ``write`` where it is missing, damaged or of an older schema.

    It has its name when it is whole; what a killed process left of it is removed. Raises RunError where it
    is of a newer schema, or the folder cannot be written.
    """
    path = opened.folder / run_folders.DATABASE
    found = schema_of(path)
    if found > SCHEMA:
        raise RunError(
            f"{path} was written by a newer attnprof (schema {found}, this one reads up to {SCHEMA})",
            hint="upgrade attnprof, or write another: attnprof export --to sqlite",
        )
    if found < SCHEMA:
        try:
            with full_disk.writing(opened.folder), _unnamed(path) as unnamed:
                write(unnamed)
                durable.sync(unnamed)
                opened.rename(unnamed.name, path.name)
        except OSError as error:
            raise RunError(
                f"{path} cannot be written: {error.strerror}",
                hint="attnprof export --to sqlite writes another",
            ) from error
    return path


@contextmanager
def _unnamed(path: Path) -> Iterator[Path]:
    """An empty file beside ``path``, locked while this process lives; those of dead ones are removed."""
    for left in path.parent.glob(f".{path.name}.*.part"):
        with suppress(OSError), left.open("rb") as file:
            if folder_lock.lock(file.fileno(), fcntl.LOCK_EX):
                left.unlink(missing_ok=True)
    ours = False
    while not ours:
        unnamed = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        try:
            with unnamed.open("xb") as file:
                folder_lock.lock(file.fileno(), fcntl.LOCK_EX, wait_s=1.0)
                # Before it was locked, another may have taken it for a dead process's and removed it.
                with suppress(FileNotFoundError):
                    ours = os.path.samestat(os.fstat(file.fileno()), unnamed.stat())
                if ours:
                    yield unnamed
        finally:
            unnamed.unlink(missing_ok=True)


def _write(
    db: sqlite_utils.Database, table: str, length: int, columns: Callable[[slice], dict[str, Column]]
) -> None:
    """The rows of a table, so many at a time: with every value a Python object, all would not fit."""
    empty = columns(slice(0, 0))
    _create(db, table, {name: str if column.texts is not None else int for name, column in empty.items()})
    for first in range(0, length, _AT_ONCE):
        rows = range(first, min(first + _AT_ONCE, length))
        part = columns(slice(rows.start, rows.stop))
        # Binding values is most of the time: what is one value in all these rows is part of the statement.
        repeated = {name: literal for name, column in part.items() if (literal := _literal(column))}
        bound = [column.plain() for name, column in part.items() if name not in repeated]
        values = ", ".join(("?", *(repeated.get(name, "?") for name in part)))
        with db.conn:
            db.conn.executemany(f"insert into [{table}] values ({values})", zip(rows, *bound, strict=True))


def _literal(column: Column) -> str | None:
    """The one number that a column holds, or null where none of it is known; None where it varies."""
    if column.texts is not None:
        return None
    if column.known is not None and not column.known.all():
        return None if column.known.any() else "null"
    low = int(column.values.min())
    return str(low) if low == int(column.values.max()) else None


def _write_calls(
    db: sqlite_utils.Database, calls: Sequence[CheckedCall], kinds: Sequence[str | None]
) -> None:
    _create(db, "calls", CALL_COLUMNS | {"causal": str, LAYER_KIND: str})
    marks = ", ".join("?" * (len(CALL_COLUMNS) + 2))
    with db.conn:
        db.conn.executemany(
            f"insert into calls values ({marks})",
            (
                (number, *call_row(call), kind)
                for number, (call, kind) in enumerate(zip(calls, kinds, strict=True))
            ),
        )


def _create(db: sqlite_utils.Database, table: str, types: Mapping[str, type]) -> None:
    db[table].create({"id": int, **types}, pk="id")


def migrate(folder: Path, config: Mapping[str, Any], schema: int, renew: Callable[[], object]) -> bool:
    """Rewrites a run folder of an older ``schema`` in the present one; ``renew`` does so with its database.

    One without a database stays without. False where nothing was to be done.

    Raises RunError where it cannot be written.
    """
    path = folder / run_folders.DATABASE
    before = schema_of(path) if path.exists() else SCHEMA
    if path.exists():
        renew()
    if schema < SCHEMA:
        run_folders.write_config(folder, dict(config))
    return schema < SCHEMA or before < SCHEMA
