"""Exports that were killed or are stale, with the report they were made from beside them."""

from __future__ import annotations

import gzip
import os
import sqlite3
from pathlib import Path

import pytest

from attnprof.doctor.finding import Level
from attnprof.doctor.trace import examine_trace
from attnprof.errors import TraceError
from attnprof.trace.open_trace import open_trace
from tests.conftest import TESTS
from tests.support.fake_nsys import fake_importer, fake_nsys

REAL = TESTS / "data" / "traces" / "nsys2022.4_nvtx_only_python.sqlite.gz"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "x.sqlite"
    path.write_bytes(gzip.decompress(REAL.read_bytes()))
    return path


@pytest.fixture
def report(export: Path) -> Path:
    path = export.with_suffix(".nsys-rep")
    path.write_text("report")
    os.utime(path, (export.stat().st_mtime - 60,) * 2)
    return path


@pytest.fixture
def nsys(tmp_path: Path, export: Path) -> str:
    """One whose export of any report is the whole trace."""
    whole = tmp_path / "recorded"
    whole.write_bytes(export.read_bytes())
    return str(fake_nsys(tmp_path, "exit 1", export=f'cp {whole} "$out"; exit 0'))


def _blank(export: Path) -> None:
    """As nsys 2022.4.2 leaves it when it is killed: all tables are one transaction without a journal."""
    content = export.read_bytes()
    export.write_bytes(b"\0" * 4096 + content[4096:40_000])


def _empty(export: Path) -> None:
    export.write_bytes(b"")


def _cut(export: Path) -> None:
    export.write_bytes(export.read_bytes()[:50_000])


def _without_last_table(export: Path) -> None:
    with sqlite3.connect(export) as db:
        db.execute("DROP TABLE EXPORT_META_DATA")


DAMAGES = {_blank: "blank header", _empty: "is empty", _cut: "cut short", _without_last_table: "lacks tables"}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_the_report_is_read_instead_of_an_export_that_was_killed(damage, export, report, nsys):
    whole = open_trace(export)
    damage(export)
    before = export.read_bytes()
    trace = open_trace(export, nsys=nsys)
    assert len(trace.ranges) == len(whole.ranges) > 0
    assert DAMAGES[damage] in trace.info.notes[-1]
    assert trace.info.notes[-1].endswith("x.nsys-rep was read instead")
    assert export.read_bytes() == before


@pytest.mark.parametrize("damage", [_blank, _empty, _cut])
def test_without_the_report_it_is_an_error_that_says_what_happened(damage, export, nsys):
    damage(export)
    with pytest.raises(TraceError, match=DAMAGES[damage]) as error:
        open_trace(export, nsys=nsys)
    assert "nsys export" in error.value.hint


def test_without_nsys_the_report_is_named(export, report, monkeypatch):
    _blank(export)
    monkeypatch.setenv("ATTNPROF_NSYS", "/no/such/nsys")
    with pytest.raises(TraceError, match="blank header") as error:
        open_trace(export)
    assert f"attnprof import {report}" in error.value.hint


def test_an_export_that_lost_its_last_table_by_other_means_is_read_as_it_is(export):
    _without_last_table(export)
    assert len(open_trace(export).ranges) > 0


def test_an_export_older_than_its_report_is_said_to_be_of_an_earlier_recording(export, report):
    assert not any("older" in note for note in open_trace(export).info.notes)
    os.utime(report, (export.stat().st_mtime + 3 * 3600,) * 2)
    note = "x.sqlite is 3 hours older than x.nsys-rep: it is of an earlier recording"
    assert open_trace(export).info.notes[-1] == note


def test_a_report_is_exported_anew_whatever_stands_beside_it(export, report, nsys):
    whole = open_trace(export)
    _blank(export)
    os.utime(report, (export.stat().st_mtime - 3600,) * 2)
    assert len(open_trace(report, nsys=nsys).ranges) == len(whole.ranges)


def test_a_stream_that_nsys_did_not_finish_is_said_to_be_of_no_use(tmp_path):
    stream = tmp_path / "x.qdstrm"
    stream.write_text("begun")
    program = fake_nsys(tmp_path, "exit 1")
    fake_importer(tmp_path, 'echo "Qdstrm file is incomplete or invalid. Please ensure"; exit 1')
    with pytest.raises(TraceError, match="is no whole stream") as error:
        open_trace(stream, nsys=str(program))
    assert "record again" in error.value.hint


def test_doctor_fails_an_export_that_was_killed_with_the_command_that_makes_it_again(export, report):
    _blank(export)
    first = next(iter(examine_trace(str(export))))
    assert (first.level, first.what) == (Level.FAIL, "export")
    assert first.fix == "nsys export --type sqlite --force-overwrite true -o x.sqlite x.nsys-rep"
