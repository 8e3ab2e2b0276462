"""Traces and calls made up from their grammar: what no damage to a real one reaches, and what still holds.

Hypothesis makes them, and shrinks what fails to a few rows.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnprof.errors import AttnprofError, TraceError
from attnprof.report.summary import summarise
from attnprof.runs.run import load
from attnprof.trace.open_trace import open_trace
from attnprof.trace.saved_trace import load_trace, save_trace
from attnprof.trace.timeline import Timeline, build_timeline, restore_timeline, timeline_columns
from tests.fuzz import grammar
from tests.fuzz.uses import command
from tests.support.build_trace import global_tid

MANY = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SOME = settings(MANY, max_examples=30)


def ending(path: Path) -> str:
    """What the check of a trace counts, or the kind of error."""
    try:
        run = load(path)
        report = summarise(run.recording, run.check())
    except AttnprofError as error:
        return type(error).__name__
    assert sum(report.check.counts.values()) == len(report.check.calls)
    require_joined(run.timeline)
    return str(sorted((verdict.value, count) for verdict, count in report.check.counts.items()))


def require_joined(timeline: Timeline) -> None:
    """What the joins say is so: ranges lie inside their parents, launches inside their ranges."""
    trace = timeline.trace
    r, c = trace.ranges, trace.api_calls
    inner = np.flatnonzero(timeline.parent >= 0)
    outer = timeline.parent[inner]
    assert np.all(outer < inner)
    assert np.all((r.start[outer] <= r.start[inner]) & (r.end[outer] >= r.end[inner]))
    assert np.all(timeline.level[inner] == timeline.level[outer] + 1)
    assert np.all(timeline.level[timeline.parent < 0] == 0)
    launched = np.flatnonzero(timeline.range >= 0)
    call, around = timeline.launch[launched], timeline.range[launched]
    assert np.all((r.start[around] <= c.start[call]) & (r.end[around] >= c.end[call]))
    assert np.all(r.thread[around] == c.thread[call])
    for name in ("step", "layer", "call"):
        assert np.all(getattr(timeline, name) >= -1)
        assert np.all(getattr(timeline.of_range, name) >= -1)


@MANY
@given(grammar.tables, grammar.sm_counts)
def test_any_tables_end_in_a_report(tmp_path: Path, tables: dict[str, Any], sms: object) -> None:
    assert ending(grammar.export(tmp_path / "t.sqlite", tables, sms)).startswith("[")


@SOME
@given(grammar.far_tables())
def test_a_time_far_from_the_others_ends_in_a_report_or_one_error(
    tmp_path: Path, tables: dict[str, Any]
) -> None:
    assert ending(grammar.export(tmp_path / "t.sqlite", tables))


@SOME
@given(grammar.tables)
def test_any_trace_is_stored_and_read_back_as_it_is(tmp_path: Path, tables: dict[str, Any]) -> None:
    trace = open_trace(grammar.export(tmp_path / "t.sqlite", tables), details=True)
    timeline = build_timeline(trace)
    save_trace(trace, tmp_path / "trace.npz", timeline_columns(timeline))
    stored, derived = load_trace(tmp_path / "trace.npz")
    again = restore_timeline(stored, dict(derived))
    assert (stored.strings, stored.info) == (trace.strings, trace.info)
    for name in ("launch", "range", "phase", "step", "layer", "call", "parent", "level"):
        assert np.array_equal(getattr(again, name), getattr(timeline, name)), name


@SOME
@given(grammar.tables)
def test_both_exports_of_any_tables_give_the_same_trace(tmp_path: Path, tables: dict[str, Any]) -> None:
    pytest.importorskip("pyarrow")
    from tests.support.parquet import as_parquet

    path = grammar.export(tmp_path / "t.sqlite", tables)
    shutil.rmtree(tmp_path / "t", ignore_errors=True)
    one, other = (load(each) for each in (path, as_parquet(path, tmp_path / "t")))
    assert one.trace.strings == other.trace.strings
    assert one.check().counts == other.check().counts
    for name in ("launch", "range", "step", "parent"):
        assert np.array_equal(getattr(one.timeline, name), getattr(other.timeline, name)), name


@SOME
@given(st.lists(grammar.names, min_size=1, max_size=4), st.sampled_from(["report", "check", "doctor"]))
def test_no_name_reaches_the_terminal_as_it_is(tmp_path: Path, names: list[str], what: str) -> None:
    thread = {"eventType": 59, "globalTid": global_tid(7, 7)}
    rows = [{**thread, "start": 10 * n, "end": 10 * n + 5, "text": name} for n, name in enumerate(names)]
    flash = {"start": 1, "end": 2, "demangledName": 10, "gridX": 1, "gridY": 2, "gridZ": 3}
    path = grammar.export(tmp_path / "t.sqlite", {"NVTX_EVENTS": rows, "CUPTI_ACTIVITY_KIND_KERNEL": [flash]})
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE TARGET_INFO_GPU SET name = ?", (names[0],))
        db.execute("UPDATE StringIds SET value = value || ?", (names[-1],))
        db.execute("UPDATE META_DATA_EXPORT SET value = ?", (names[0],))
    command(what, path, codes=(0, 1, 3))


@MANY
@given(grammar.spoiled(grammar.documents) | grammar.anything)
def test_any_document_ends_in_a_report_or_one_error_packed_or_not(tmp_path: Path, document: Any) -> None:
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    (tmp_path / "t.json").write_bytes(text)
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(text))
    assert ending(tmp_path / "t.json") == ending(tmp_path / "t.json.gz")


@MANY
@given(st.lists(grammar.spoiled(grammar.attention_calls, 1), min_size=1, max_size=3))
def test_any_call_is_predicted_or_named_by_its_line(tmp_path: Path, calls: list[Any]) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b"\n".join(json.dumps(call).encode("utf-8", "surrogatepass") for call in calls))
    done = command("predict", "--calls", path, "--gpu", "h100", codes=(0, 2))
    lines = done.out.splitlines()
    assert all(json.loads(line).keys() == {"error", "num_splits", "launches"} for line in lines)
    if done.code == 0:
        assert len(lines) == len(calls)
    else:
        assert f"{path}:{len(lines) + 1}: " in done.err


def test_what_is_generated_is_mostly_read(tmp_path: Path) -> None:
    """Else the tests above would examine errors alone."""
    read = {"documents": 0, "calls": 0}

    @settings(MANY, max_examples=40)
    @given(grammar.spoiled(grammar.documents), grammar.spoiled(grammar.attention_calls, 1))
    def count(document: Any, call: Any) -> None:
        (tmp_path / "t.json").write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))
        read["documents"] += ending(tmp_path / "t.json").startswith("[")
        (tmp_path / "c.jsonl").write_bytes(json.dumps(call).encode("utf-8", "surrogatepass"))
        read["calls"] += command("predict", "--calls", tmp_path / "c.jsonl", "--gpu", "h100").code == 0

    count()
    assert min(read.values()) > 10


def test_a_broken_join_is_noticed(tmp_path: Path) -> None:
    rows = [{"start": n, "end": 9, "eventType": 59, "globalTid": global_tid(7, 7)} for n in range(3)]
    timeline = build_timeline(open_trace(grammar.export(tmp_path / "t.sqlite", {"NVTX_EVENTS": rows})))
    require_joined(timeline)
    timeline.parent[1] = -1
    with pytest.raises(AssertionError):
        require_joined(timeline)


def test_a_trace_that_is_none_is_an_error_of_the_reader(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"traceEvents": 3}')
    assert ending(tmp_path / "t.json") == TraceError.__name__
