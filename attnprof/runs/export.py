"""A run in the formats of other programs, without anything shaped like a secret."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from attnprof.check.check_run import check
from attnprof.check.recording import Recording
from attnprof.errors import AttnprofError, UsageError
from attnprof.report.redacted import redacted
from attnprof.runs.database import write_database
from attnprof.runs.dataframes import calls_frame, kernels_frame, ranges_frame
from attnprof.runs.ingest import ENDINGS
from attnprof.safety.quoting import csv_cell

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {"perfetto": ".perfetto.json", "parquet": "-parquet", "csv": "-csv", "sqlite": ".db"}
_AT_ONCE = 1 << 16  # rows
_Part = Callable[[slice], "pd.DataFrame"]


def export(
    run: Recording, format_name: str, target: Path | None, *, force: bool, steps: tuple[int, int] | None
) -> Path:
    """Writes the run; returns the file or folder made. ``target`` None names it after the run.

    Raises UsageError where something is in the way, or a format's library is not installed.
    """
    if format_name not in FORMATS:
        raise UsageError(f"--to {format_name} is none of {', '.join(FORMATS)}")
    path = target if target is not None else Path(_stem(run) + FORMATS[format_name])
    if steps is not None and format_name != "perfetto":
        raise UsageError(
            "--steps goes with --to perfetto", hint="select rows of the other formats by their step"
        )
    _make_way(path, force)
    shared = redacted(run)
    if format_name == "perfetto":
        _write_perfetto(shared, path, steps)
    elif format_name == "sqlite":
        _write_sqlite(shared, path)
    else:
        _write_folder(shared, path, _write_parquet if format_name == "parquet" else _write_csv, format_name)
    return path


def _stem(run: Recording) -> str:
    return ENDINGS.sub("", run.name) or "trace"


def _make_way(path: Path, force: bool) -> None:
    if not path.exists():
        return
    if not force:
        raise UsageError(f"{path} exists already", hint="give another name with -o, or -f to replace it")
    if path.is_dir():
        strange = [entry.name for entry in path.iterdir() if entry.stem not in _TABLES]
        if strange:
            raise UsageError(
                f"{path} holds other files ({strange[0]}): it is not replaced", hint="give another -o"
            )
        shutil.rmtree(path)
    else:
        path.unlink()


def _write_perfetto(run: Recording, path: Path, steps: tuple[int, int] | None) -> None:
    from attnprof.report.perfetto import whole, window_of_steps, write_perfetto

    window = whole(run.timeline) if steps is None else window_of_steps(run.timeline, *steps)
    if window is None:
        first, last = steps or (0, 0)
        raise UsageError(f"the run has no steps {first} to {last}", hint="attnprof report shows its steps")
    with _writing(path) as out:
        write_perfetto(run.timeline, run.observed, out, window)


@contextmanager
def _writing(path: Path) -> Iterator[TextIO]:
    """A text file under a partial name until it is whole; gzip where the name ends so; - is stdout."""
    if str(path) == "-":
        yield sys.stdout
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(partial, "wt", encoding="utf-8") as out:
            yield out
        partial.rename(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_sqlite(run: Recording, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        write_database(partial, run.config, run.timeline, check(run))
        partial.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise UsageError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        partial.unlink(missing_ok=True)


_TABLES = ("kernels", "ranges", "calls", "run")


def _parts(run: Recording) -> Iterator[tuple[str, int, _Part]]:
    """Each table's name, number of rows, and how to get some of them."""
    timeline, result = run.timeline, check(run)
    yield "kernels", len(timeline.trace.kernels), lambda rows: kernels_frame(timeline, rows)
    yield "ranges", len(timeline.trace.ranges), lambda rows: ranges_frame(timeline, rows)
    yield "calls", len(result.calls), lambda rows: calls_frame(result, rows)


def _write_folder(run: Recording, path: Path, write: Callable[[Path, int, _Part], None], ending: str) -> None:
    """A file per table and run.json, in a folder that gets its name when all is written."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, length, part in _parts(run):
            write(partial / f"{name}.{ending}", length, part)
        text = json.dumps(run.config, indent=1, ensure_ascii=False)
        (partial / "run.json").write_text(text + "\n", encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
    kinds = {"i": pa.int64(), "u": pa.int64(), "b": pa.bool_()}
    fields = [(name, kinds.get(empty[name].dtype.kind, pa.string())) for name in empty.columns]
    schema = pa.schema([(name, pa.bool_() if name == "causal" else kind) for name, kind in fields])
    with pq.ParquetWriter(path, schema) as out:
        for first in range(0, length, _AT_ONCE):
            rows = part(slice(first, first + _AT_ONCE))
            out.write_table(pa.Table.from_pandas(rows, schema=schema, preserve_index=False))
