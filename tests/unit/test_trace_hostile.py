"""Traces made to hang, to fill memory or to crash what reads them."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnprof.errors import TraceError
from attnprof.runs.ingest import import_trace
from attnprof.trace import json_stream, validity
from attnprof.trace.open_trace import open_trace
from attnprof.trace.saved_trace import load_trace
from tests.fuzz.damage_pages import page_lattice
from tests.fuzz.dice import Dice
from tests.fuzz.subjects import built_trace
from tests.support.build_trace import TraceBuilder


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


def test_what_ends_before_it_begins_has_no_length_and_is_told(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.kernel("k", 100, 40, 1)
    builder.kernel("k", 200, 300, 2)
    builder.range("r", 7, 5)
    trace = open_trace(builder.write(tmp_path / "t.sqlite"))
    assert (trace.kernels.end - trace.kernels.start).tolist() == [0, 100]
    assert "1 kernel, 1 range end before they begin: taken as of no length" in trace.info.notes


@pytest.mark.parametrize("start", [-(2**63), 2**62 + 1, 4 * 10**17])
def test_times_that_no_recording_has_are_refused(tmp_path: Path, start: int) -> None:
    builder = TraceBuilder()
    builder.kernel("k", 100, 140, 1)
    builder.kernel("k", start, start + 10, 2)
    with pytest.raises(TraceError, match="which no recording does"):
        open_trace(builder.write(tmp_path / "t.sqlite"))


def _stored(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A run's trace.npz and its arrays."""
    builder = TraceBuilder()
    for number in range(4):
        builder.range("outer", 10 * number, 100 - number)
        builder.call(10 * number + 1, 10 * number + 2, number)
        builder.kernel("k", 10 * number + 3, 10 * number + 5 + number, number)
    run, _ = import_trace(builder.write(folder / "t.sqlite"), name="it")
    path = run / "trace.npz"
    with np.load(path) as arrays:
        return path, {name: arrays[name] for name in arrays.files}


def test_the_highest_number_that_a_layer_can_have_is_kept(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.domain("attnprof", 1)
    builder.range("layer", 0, 100, domainId=1, int64Value=2**31 - 1)
    run, _ = import_trace(builder.write(tmp_path / "t.sqlite"), name="it")
    _, derived = load_trace(run / "trace.npz")
    assert derived["of_range.layer"].tolist() == [2**31 - 1]


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("kernels.end", lambda a: a[:2], "kernels.end is int64 of the shape"),
        ("kernels.end", lambda a: a.astype("U9"), "kernels.end is <U9"),
        ("kernels.end", lambda a: a.reshape(2, 2), "kernels.end is int64 of the shape"),
        ("api_calls.start", lambda a: np.array([{"a": 1}] * 4, dtype=object), "OBJECT"),
        ("derived.parent", lambda a: a + 1, "a range lies inside a later one"),
        ("derived.launch", lambda a: a + 100, "derived.launch names rows that are not there"),
        ("derived.level", lambda a: a + 2**30, "derived.level names rows that are not there"),
        ("ranges.start", None, "start"),
    ],
)
def test_a_stored_trace_whose_columns_do_not_fit_is_refused(
    tmp_path: Path, column: str, change: Callable[[np.ndarray], np.ndarray] | None, says: str
) -> None:
    path, arrays = _stored(tmp_path)
    if change is None:
        del arrays[column]
    else:
        arrays[column] = change(arrays[column])
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=says):
        load_trace(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda head: head["strings"].clear(), "names rows that are not there"),
        (lambda head: head["strings"].append(7), "its texts are none"),
        (lambda head: head["info"].update(notes=None), "it states no notes"),
        (lambda head: head["info"].update(devices=[{"index": []}]), "devices"),
        (lambda head: head["repeated"].update({"kernels.stream": [10**12]}), "kernels.stream"),
        (lambda head: head.update(info=[]), "its head.info"),
    ],
)
def test_a_stored_trace_that_says_what_is_not_so_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    path, arrays = _stored(tmp_path)
    head = json.loads(arrays["head"].tobytes())
    change(head)
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=says):
        load_trace(path)


def test_a_stored_trace_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "trace.npz")
    with pytest.raises(TraceError, match="no regular file"):
        load_trace(tmp_path / "trace.npz")


def test_kernels_with_more_names_than_any_program_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validity, "_MOST_NAMES", 100)
    ranges, kernels = TraceBuilder(), TraceBuilder()
    for number in range(150):
        ranges.range(f"request {number}", 10 * number, 10 * number + 5)
        kernels.kernel(f"k{number}", 10 * number, 10 * number + 5, number)
    assert len(open_trace(ranges.write(tmp_path / "ranges.sqlite")).ranges) == 150
    with pytest.raises(TraceError, match="150 different names"):
        open_trace(kernels.write(tmp_path / "kernels.sqlite"))
