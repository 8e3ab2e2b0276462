"""Traces made to hang, to fill memory or to crash what reads them."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest

from attnprof.errors import TraceError
from attnprof.trace import json_stream
from attnprof.trace.open import open_trace
from tests.fuzz.damage_pages import page_lattice
from tests.fuzz.dice import Dice
from tests.fuzz.subjects import built_trace


@pytest.mark.parametrize("start", [b"SQLite format 3\0", b'{"traceEvents": ['], ids=["sqlite", "json"])
def test_a_file_that_unpacks_to_far_more_than_a_trace_is_refused(tmp_path: Path, start: bytes) -> None:
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", 1) as file:
        file.write(start)
        for _ in range(100):
            file.write(b" " * (1 << 20))
    with pytest.raises(TraceError, match="more than 200 times its size"):
        open_trace(bomb)


def test_a_table_whose_pages_hold_more_rows_than_the_file_has_bytes_is_refused(tmp_path: Path) -> None:
    path = built_trace(tmp_path / "t.sqlite")
    whole = path.read_bytes()
    for seed in range(6):
        path.write_bytes(page_lattice(Dice(f"{seed}"), whole))
        with pytest.raises(TraceError, match="damaged"):
            open_trace(path)


@pytest.mark.parametrize(
    "number", ["1" * 5_000, "1e999999999", "-1e999999", '"' + "9" * 5_000 + '"', "1E-999999999"]
)
@pytest.mark.parametrize("field", ["ts", "pid", "correlation"])
def test_numbers_of_any_size_are_read_or_refused(tmp_path: Path, number: str, field: str) -> None:
    fields = {"ts": "1", "pid": "1", "correlation": "1"} | {field: number}
    path = tmp_path / "t.json"
    path.write_text(
        f'{{"traceEvents": [{{"ph": "X", "cat": "kernel", "name": "k", "ts": {fields["ts"]}, "dur": 1,'
        f' "pid": {fields["pid"]}, "tid": 7, "args": {{"correlation": {fields["correlation"]}}}}}]}}'
    )
    said = ""
    try:
        open_trace(path)
    except TraceError as error:
        said = error.message
    assert len(said) < 500


def test_one_value_without_end_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_LONGEST", 1 << 22)
    path = tmp_path / "t.json"
    path.write_text('{"traceEvents": [{"name": "' + "x" * (1 << 24))
    with pytest.raises(TraceError, match="more than 4,194,304 characters"):
        open_trace(path)


def test_where_no_temporary_file_can_be_made_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "t.sqlite.gz"
    packed.write_bytes(gzip.compress(built_trace(tmp_path / "t.sqlite").read_bytes()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "vanished"))
    with pytest.raises(TraceError, match="needs a temporary file") as told:
        open_trace(packed)
    assert "TMPDIR" in told.value.hint
