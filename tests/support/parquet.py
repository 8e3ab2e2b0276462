"""An SQLite export's tables as the folder of Parquet files that nsys exports."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def as_parquet(export: Path, folder: Path, *, versioned: tuple[str, ...] = ()) -> Path:
    """The tables as nsys writes them to a folder; some with a version in their name. Needs pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    db = sqlite3.connect(export)
    db.text_factory = bytes
    folder.mkdir()
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        table = name.decode()
        declared = db.execute(f'PRAGMA table_info("{table}")').fetchall()
        rows = db.execute(f'SELECT * FROM "{table}" ORDER BY rowid').fetchall()
        arrays, names = [], []
        for at, column in enumerate(declared):
            kind = {b"INTEGER": pa.int64(), b"REAL": pa.float64()}.get(column[2], pa.string())
            values = [
                row[at].decode("utf-8", "replace") if isinstance(row[at], bytes) else row[at] for row in rows
            ]
            arrays.append(pa.array(values, kind))
            names.append(column[1].decode())
        pq.write_table(
            pa.table(arrays, names), folder / f"{table}{'_V2' if table in versioned else ''}.parquet"
        )
    db.close()
    return folder
