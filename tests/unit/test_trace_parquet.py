"""Folders of Parquet files give the trace that the SQLite export of the same report gives."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from attnprof import load
from attnprof.errors import TraceError
from attnprof.trace.open import open_trace
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
