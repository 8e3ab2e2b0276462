"""A run in the formats of other programs, without anything shaped like a secret."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from attnprof.check.check_run import check
from attnprof.check.recording import Recording
from attnprof.errors import AttnprofError, UsageError
from attnprof.files.output import writing_file, writing_folder, writing_named
from attnprof.report.redacted import redacted
from attnprof.runs.database import write_database
from attnprof.runs.dataframes import (
    CallKinds,
    cache_frame,
    calls_frame,
    kernels_frame,
    modules_frame,
    ranges_frame,
)
from attnprof.runs.ingest import ENDINGS
from attnprof.safety.quoting import csv_cell

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {"perfetto": ".perfetto.json", "parquet": "-parquet", "csv": "-csv", "sqlite": ".db"}
_TABLES = ("kernels", "ranges", "calls", "modules", "cache_steps")
_CONFIG = "run.json"
_AT_ONCE = 1 << 16  # rows
_Part = Callable[[slice], "pd.DataFrame"]


def export(
    run: Recording,
    format_name: str,
    target: Path | None,
    *,
    force: bool,
    steps: tuple[int, int] | None,
    inputs: Iterable[Path] = (),
) -> Path:
    """Writes the run; returns the file or folder made. ``target`` None names it after the run.

    ``inputs`` are the files the run is read from. Raises UsageError where something is in the way, or a
    format's library is not installed.
    """
    if format_name not in FORMATS:
        raise UsageError(f"--to {format_name} is none of {', '.join(FORMATS)}")
    path = target if target is not None else Path(_stem(run) + FORMATS[format_name])
    if steps is not None and format_name != "perfetto":
        raise UsageError(
            "--steps goes with --to perfetto", hint="select rows of the other formats by their step"
        )
    if format_name == "perfetto" and str(path) == "-":
        _write_perfetto(redacted(run), sys.stdout, steps)
    elif format_name == "perfetto":
        with writing_file(path, force=force, inputs=inputs) as raw:
            packed = gzip.GzipFile(filename="", fileobj=raw, mode="wb") if path.suffix == ".gz" else raw
            with io.TextIOWrapper(packed, encoding="utf-8") as out:
                _write_perfetto(redacted(run), out, steps)
    elif format_name == "sqlite":
        with writing_named(path, force=force, inputs=inputs) as unnamed:
            shared = redacted(run)
            write_database(unnamed, shared.config, shared.timeline, check(shared))
    else:
        names = [*(f"{table}.{format_name}" for table in _TABLES), _CONFIG]
        with writing_folder(path, names, force=force, inputs=inputs) as folder:
            _write_tables(redacted(run), folder, format_name)
    return path


def _stem(run: Recording) -> str:
    return ENDINGS.sub("", run.name) or "trace"


def _write_perfetto(run: Recording, out: TextIO, steps: tuple[int, int] | None) -> None:
    from attnprof.report.perfetto import whole, window_of_steps, write_perfetto

    window = whole(run.timeline) if steps is None else window_of_steps(run.timeline, *steps)
    if window is None:
        first, last = steps or (0, 0)
        raise UsageError(f"the run has no steps {first} to {last}", hint="attnprof report shows its steps")
    write_perfetto(run.timeline, run.observed, out, window)


def _parts(run: Recording) -> Iterator[tuple[str, int, _Part]]:
    """Each table's name, number of rows, and how to get some of them."""
    timeline, result = run.timeline, check(run)
    kinds = CallKinds(result)
    yield "kernels", len(timeline.trace.kernels), lambda rows: kernels_frame(timeline, rows)
    yield "ranges", len(timeline.trace.ranges), lambda rows: ranges_frame(timeline, rows)
    yield "calls", len(result.calls), lambda rows: calls_frame(result, rows, kinds)
    for name, frame in (("modules", modules_frame(timeline)), ("cache_steps", cache_frame(run))):
        yield name, len(frame), partial(_rows, frame)


def _rows(frame: pd.DataFrame, rows: slice) -> pd.DataFrame:
    found: pd.DataFrame = frame.iloc[rows].copy()
    return found


def _write_tables(run: Recording, folder: Path, ending: str) -> None:
    """A file per table, and run.json."""
    write = _write_parquet if ending == "parquet" else _write_csv
    for name, length, part in _parts(run):
        write(folder / f"{name}.{ending}", length, part)
    text = json.dumps(run.config, indent=1, ensure_ascii=False)
    (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")


def _write_csv(path: Path, length: int, part: _Part) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerow(part(slice(0, 0)).columns)
        for first in range(0, length, _AT_ONCE):
            rows = part(slice(first, first + _AT_ONCE))
            for name in rows.select_dtypes(exclude=["number", "bool"]).columns:
                rows[name] = rows[name].map(csv_cell)
            rows.to_csv(out, header=False, index=False, lineterminator="\n")


def _write_parquet(path: Path, length: int, part: _Part) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise AttnprofError(
            "--to parquet needs pyarrow, which is not installed", hint="pip install 'attnprof[parquet]'"
        ) from error
    empty = part(slice(0, 0))
    kinds = {"i": pa.int64(), "u": pa.int64(), "f": pa.float64(), "b": pa.bool_()}
    fields = [(name, kinds.get(empty[name].dtype.kind, pa.string())) for name in empty.columns]
    schema = pa.schema([(name, pa.bool_() if name == "causal" else kind) for name, kind in fields])
    with pq.ParquetWriter(path, schema) as out:
        for first in range(0, length, _AT_ONCE):
            rows = part(slice(first, first + _AT_ONCE))
            out.write_table(pa.Table.from_pandas(rows, schema=schema, preserve_index=False))
