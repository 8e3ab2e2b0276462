"""Folders of Parquet files give the trace that the SQLite export of the same report gives."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnprof import load
from attnprof.errors import TraceError
from attnprof.trace.open_trace import open_trace
from tests.conftest import TESTS
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof
from tests.support.graph_trace import replayed
from tests.support.parquet import as_parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

REAL = sorted((TESTS / "data" / "traces").glob("nsys*.gz"))


def text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def same(one: object, other: object) -> None:
    for table in ("kernels", "api_calls", "ranges", "copies", "details"):
        a, b = getattr(one, table), getattr(other, table)
        assert (a is None) == (b is None)
        for field in fields(a) if a is not None else ():
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), (table, field.name)


@pytest.mark.parametrize("packed", REAL, ids=lambda path: path.name)
def test_both_exports_of_a_report_give_the_same_trace(packed: Path, tmp_path: Path) -> None:
    export = tmp_path / "t.sqlite"
    with gzip.open(packed) as file, export.open("wb") as out:
        shutil.copyfileobj(file, out)
    versioned = ("NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_RUNTIME")
    folder = as_parquet(export, tmp_path / "t_pqtdir", versioned=versioned)
    ours, theirs = open_trace(folder, details=True), open_trace(export, details=True)
    same(ours, theirs)
    assert ours.strings == theirs.strings
    for field in ("exporter", "schema", "devices", "whole_graph_launches", "nvtx_domains", "notes"):
        assert getattr(ours.info, field) == getattr(theirs.info, field)


def test_graph_nodes_and_checks_come_along(tmp_path: Path) -> None:
    export = replayed(tmp_path / "t.sqlite", prompt=1000, captured_for=1, steps=3)
    folder = as_parquet(export, tmp_path / "t")
    assert load(folder).check().counts == load(export).check().counts
    assert attnprof("check", str(folder)).code == 1
    assert attnprof("import", str(folder), "-o", "it").code == 0
    assert attnprof("check", "it").code == 1


def test_a_folder_of_such_folders_is_a_job(tmp_path: Path) -> None:
    export = replayed(tmp_path / "t.sqlite", prompt=1000, captured_for=1001, steps=3)
    job = tmp_path / "job"
    job.mkdir()
    for rank in range(2):
        as_parquet(export, job / f"rank{rank}")
    assert "2 ranks" in attnprof("report", str(job), "--workers", "1").out


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.range("r", 1, 2)
    folder = as_parquet(builder.write(tmp_path / "t.sqlite"), tmp_path / "t")
    cut = folder / "NVTX_EVENTS.parquet"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(TraceError, match=r"NVTX_EVENTS\.parquet cannot be read"):
        open_trace(folder)


def test_text_where_numbers_must_be_is_refused(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.range("r", 1, 2)
    folder = as_parquet(builder.write(tmp_path / "t.sqlite"), tmp_path / "t")
    pq.write_table(pa.table({"start": ["x"], "end": [2], "eventType": [59]}), folder / "NVTX_EVENTS.parquet")
    with pytest.raises(TraceError, match="not an integer"):
        open_trace(folder)


def _of_one_range(folder: Path) -> Path:
    builder = TraceBuilder()
    builder.range("r", 1, 2)
    return as_parquet(builder.write(folder / "t.sqlite"), folder / "t")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**64 - 1], pa.uint64()),
        pa.array([[1]]),
        pa.array([b"\xff\xfe"]),
        pa.array(["a\0\x1b[2J"]),
        pa.array([1.5]),
        pa.nulls(1),
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("name", ["value", "id"])
def test_columns_of_any_type_are_read_or_refused(tmp_path: Path, column: Any, name: str) -> None:
    folder = _of_one_range(tmp_path)
    table = pa.table({"id": [10], "value": ["r"]}).set_column(0 if name == "id" else 1, name, column)
    pq.write_table(table, folder / "StringIds.parquet")
    done = attnprof("report", str(folder))
    assert done.code in (0, 2)
    assert "\x1b" not in done.out + done.err


def test_a_column_named_like_sql_is_a_column(tmp_path: Path) -> None:
    folder = _of_one_range(tmp_path)
    pq.write_table(pa.table({"id": [10], "value": ["r"], '"); --': [1]}), folder / "StringIds.parquet")
    trace = open_trace(folder)
    assert trace.strings[trace.ranges.name[0]] == "r"


def test_a_file_that_claims_more_rows_than_it_has_room_for_is_refused(tmp_path: Path) -> None:
    folder = _of_one_range(tmp_path)
    rows = 3_000_000
    kinds = {"start": 1, "end": 2, "eventType": 59}
    table = pa.table({name: pa.array([value]).take(pa.array([0] * rows)) for name, value in kinds.items()})
    pq.write_table(table, folder / "NVTX_EVENTS.parquet")
    with pytest.raises(TraceError, match="claims 3,000,000 rows"):
        open_trace(folder)


def test_a_pipe_among_the_tables_is_refused_at_once(tmp_path: Path) -> None:
    folder = _of_one_range(tmp_path)
    os.mkfifo(folder / "TARGET_INFO_GPU.parquet")
    with pytest.raises(TraceError, match="no regular file"):
        open_trace(folder)
