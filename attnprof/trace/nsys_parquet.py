"""Folders of ``nsys export --type parquetdir``: a Parquet file per table, with the SQLite export's columns.

Integer columns go from Arrow to numpy; the small tables that are asked in SQL are copied into a database in
memory. Needs pyarrow. Layout: files as nsys 2025 and 2026 name them, some with a version behind the name
(NVTX_EVENTS_V2); a column of bytes that claims to be text (NVTX_EVENTS.binaryData) is never read.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.arrays import Narrow
from attnprof.errors import AttnprofError, TraceError
from attnprof.trace.nsys_tables import NVTX
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.sqlite_pages import GrowingColumn
from attnprof.trace.tables import Int64

_VERSIONED = re.compile(r"_V(\d+)$")
_ASKED = re.compile(
    r"StringIds|\w*META_DATA_?\w*|TARGET_INFO_(GPU|CUDA_DEVICE)|DIAGNOSTIC_EVENT|\w*GRAPH_TRACE"
)
_ROWS_PER_BYTE = 8
_OF_EVENTS = ("eventType", "text", "globalTid", "domainId")


def is_parquet_export(path: Path) -> bool:
    """Whether ``path`` is a folder of an nsys export's tables."""
    names = ("StringIds", NVTX, "CUPTI_ACTIVITY_KIND_")
    return path.is_dir() and any(next(path.glob(f"{name}*.parquet"), None) for name in names)


class ParquetFolder(Database):
    """The tables of such a folder, as :class:`Database` gives those of an SQLite file."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise AttnprofError(
                f"{path} holds Parquet, which needs pyarrow to be read",
                hint="pip install 'attnprof[parquet]'",
            ) from error
        self.path = path.resolve()
        self._files: dict[str, Any] = {}
        self._db = sqlite3.connect(":memory:")
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for file in sorted(path.glob("*.parquet")):  # a later version of a table replaces the one before
            with _damage(file):
                self._files[_VERSIONED.sub("", file.stem)] = _opened(pq, file)
        self._roots = dict.fromkeys(self._files, 0)
        for table in list(self._files):
            if _ASKED.fullmatch(table) and "CAPTURE" not in table:
                self._copy(table, tuple(self.columns(table)))
            elif table == NVTX:
                self._copy(table, tuple(name for name in _OF_EVENTS if name in self.columns(table)))

    def close(self) -> None:
        super().close()
        for file in self._files.values():
            file.close()

    def rows(self, table: str, sql: str) -> sqlite3.Cursor:
        """What ``sql`` selects from the copy of ``table`` in memory."""
        return self.query(sql)

    def columns(self, table: str) -> dict[str, int]:
        """The table's columns with their positions; empty for what is not there."""
        if table not in self._files:
            return {}
        return {name: at for at, name in enumerate(self._files[table].schema_arrow.names)}

    def integers(self, table: str, wanted: Mapping[str, int | None]) -> dict[str, Narrow]:
        """Columns of ``table`` as :meth:`Database.integers` gives them."""
        present = self.columns(table)
        if not present:
            return {name: np.empty(0, np.int64) for name in wanted}
        missing = [name for name, default in wanted.items() if name not in present and default is None]
        if missing:
            raise TraceError(
                f"table {table} has no column {', '.join(missing)}", hint="export the report again"
            )
        rows = self._files[table].metadata.num_rows
        columns = {name: GrowingColumn() for name in wanted if name in present}
        with _damage(table):
            for batch in self._files[table].iter_batches(columns=list(columns)):
                for name, column in columns.items():
                    column.add(_integers(batch.column(name), table, wanted[name]), of=rows)
        absent = {name: np.int64(default or 0) for name, default in wanted.items() if name not in present}
        found = {name: column.values() for name, column in columns.items()}
        if any(len(values) != rows for values in found.values()):
            raise TraceError(f"table {table} has fewer rows than it says", hint="export the report again")
        return found | {name: np.broadcast_to(value, (rows,)) for name, value in absent.items()}

    def _copy(self, table: str, columns: tuple[str, ...]) -> None:
        quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
        self._db.execute(f'CREATE TABLE "{table}" ({quoted})')
        marks = ", ".join("?" * len(columns))
        with _damage(table):
            for batch in self._files[table].iter_batches(columns=list(columns)):
                rows = zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
                self._db.executemany(f'INSERT INTO "{table}" VALUES ({marks})', rows)


def _opened(pq: Any, file: Path) -> Any:
    """A Parquet file that can hold as many rows as it says: of a table's columns, times at least differ."""
    if not file.is_file():
        raise OSError("it is no regular file")
    opened = pq.ParquetFile(file)
    if opened.metadata.num_rows > max(1 << 16, _ROWS_PER_BYTE * file.stat().st_size):
        raise ValueError(f"it claims {opened.metadata.num_rows:,} rows")
    return opened


@contextmanager
def _damage(what: Path | str) -> Iterator[None]:
    """TraceError for what Arrow, or SQLite with its values, says of a damaged file."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, OverflowError, MemoryError, pa.ArrowException, sqlite3.Error) as error:
        raise TraceError(
            f"{what} cannot be read: {error}", hint="the export was cut short: export the report again"
        ) from error


def _integers(column: Any, table: str, null: int | None) -> Int64:
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or (null is None and column.null_count):
        raise TraceError(
            f"table {table} holds a value that is not an integer where one must be",
            hint="the file is damaged or was edited: export the report again",
        )
    if column.null_count:
        column = column.fill_null(null)
    values: Int64 = column.cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False)
    return values
