"""attnprof.db: a run as SQLite tables and views that people can query."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlite_utils

from attnprof.frames import calls_frame, kernels_frame, ranges_frame

if TYPE_CHECKING:
    import pandas as pd

    from attnprof.session import Run

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
    "split_timeline": """
        select phase, layer, coalesce(observed_num_splits, predicted_num_splits) as num_splits,
               coalesce(observed_kernel, predicted_kernel) as kernel,
               observed_kernel is not null as observed,
               min(step) as first_step, max(step) as last_step,
               min(seqlen_k) as min_seqlen_k, max(seqlen_k) as max_seqlen_k, count(*) as calls
        from calls group by phase, layer, num_splits, kernel, observed order by phase desc, layer, first_step
    """,
}


def write_database(run: Run, path: Path) -> None:
    """Writes ``path`` anew: tables run, kernels, ranges and calls (each with its verdict), and the views."""
    db = sqlite_utils.Database(path)
    db["run"].insert_all(
        [{"key": key, "value": json.dumps(value)} for key, value in run.config.items()], pk="key"
    )
    frames = {
        "kernels": kernels_frame(run.timeline),
        "ranges": ranges_frame(run.timeline),
        "calls": calls_frame(run.check()),
    }
    for table, frame in frames.items():
        _write(db, table, frame)
    for name, select in _VIEWS.items():
        db.create_view(name, select)
    db.conn.close()


def _write(db: sqlite_utils.Database, table: str, frame: pd.DataFrame) -> None:
    types: dict[str, Any] = {
        name: int if kind.kind in "iub" else str
        for name, kind in ((n, frame[n].dtype) for n in frame.columns)
    }
    db[table].create({"id": int, **types}, pk="id")
    columns = [frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame.columns]
    marks = ", ".join("?" * (len(columns) + 1))
    with db.conn:
        db.conn.executemany(
            f"insert into [{table}] values ({marks})", zip(range(len(frame)), *columns, strict=True)
        )
