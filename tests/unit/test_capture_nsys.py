"""What attnprof makes of an nsys that misbehaves: stand-ins that do what real ones were seen to do."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

import pytest

from attnprof.capture import nsys
from attnprof.errors import CaptureError

CHILD = [sys.executable, "-c", "pass"]

EXPORT = """
    if [ "$1" = export ]; then
        for a; do case $a in --output=*) cp EMPTY "${a#--output=}";; esac; done; exit 0
    fi
    for a; do case $a in --output=*) out=${a#--output=};; esac; done
    folder=$(dirname "$(dirname "$out")")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def stand_in(tmp_path: Path, script: str) -> Path:
    empty = tmp_path / "empty.sqlite"
    sqlite3.connect(empty).execute("CREATE TABLE StringIds (id INTEGER, value TEXT)").connection.commit()
    path = tmp_path / "target-linux-x64" / "nsys"
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n" + EXPORT.replace("EMPTY", str(empty)) + script)
    path.chmod(0o755)
    return path


def record(program: Path, folder: Path, **options):
    return nsys.record(program, folder, CHILD, dict(os.environ), **options)


def test_a_good_recorder_leaves_an_export(tmp_path, folder):
    program = stand_in(tmp_path, 'echo 1 > "$folder/child.pid"; echo report > "$out"; exit 3')
    outcome, command, notes = record(program, folder)
    assert (outcome.exit_code, notes) == (3, [])
    assert command[:2] == [str(program), "profile"]
    assert {"--cuda-graph-trace=node", "--trace=cuda,nvtx,osrt"} < set(command)
    assert f"--output={folder}/trace.nsys-rep" in command
    assert sorted(path.name for path in folder.iterdir()) == ["child.pid", "trace.sqlite"]


def test_a_report_is_kept_where_asked_for_and_is_its_owners_alone(tmp_path, folder):
    program = stand_in(tmp_path, 'echo 1 > "$folder/child.pid"; echo report > "$out"')
    _, _, (note,) = record(program, folder, keep_report=True)
    assert "holds the environments" in note
    assert (folder / "trace.nsys-rep").read_text() == "report\n"
    assert (folder / "trace.nsys-rep").stat().st_mode & 0o077 == 0


def test_an_option_it_does_not_know_is_dropped_and_said(tmp_path, folder):
    program = stand_in(
        tmp_path,
        """
        case "$*" in *--cuda-graph-trace*) echo "unrecognised option '--cuda-graph-trace=node'"; exit 1;; esac
        echo 1 > "$folder/child.pid"; echo report > "$out"
        """,
    )
    _, command, (note,) = record(program, folder)
    assert "--cuda-graph-trace=node" not in command
    assert "knows no --cuda-graph-trace" in note


def test_no_report_is_an_error_with_its_last_words(tmp_path, folder):
    program = stand_in(
        tmp_path, 'echo 1 > "$folder/child.pid"; echo "Importer error status: out of disk"; exit 0'
    )
    with pytest.raises(CaptureError, match=r"left no report: Importer error status: out of disk"):
        record(program, folder)


def test_a_program_that_was_never_started_is_an_error(tmp_path, folder):
    program = stand_in(tmp_path, 'echo "Failed to create shared memory"; exit 1')
    with pytest.raises(CaptureError, match=r"did not start the program: Failed to create shared memory"):
        record(program, folder)


def test_one_that_fails_before_it_starts_the_program_is_started_again(tmp_path, folder):
    program = stand_in(
        tmp_path,
        """
        [ -e "$folder/tried" ] || { touch "$folder/tried"; echo "Local Endpoint is not available."; exit 1; }
        echo 1 > "$folder/child.pid"; echo report > "$out"
        """,
    )
    outcome, _, notes = record(program, folder)
    assert (outcome.exit_code, notes) == (0, [])


def test_a_report_left_by_an_earlier_run_is_not_taken_for_this_one(tmp_path, folder):
    old = folder / "trace.nsys-rep"
    old.write_text("last week")
    os.utime(old, (1_000_000_000, 1_000_000_000))
    program = stand_in(tmp_path, 'echo 1 > "$folder/child.pid"; exit 0')
    with pytest.raises(CaptureError, match="left no report"):
        record(program, folder)


def test_a_stream_without_report_goes_through_the_importer(tmp_path, folder):
    program = stand_in(tmp_path, 'echo 1 > "$folder/child.pid"; echo stream > "$TMPDIR/nsys-report-1.qdstrm"')
    importer = tmp_path / "host-linux-x64" / "QdstrmImporter"
    importer.parent.mkdir()
    importer.write_text('#!/bin/sh\ncp "$2" "$4"\n')
    importer.chmod(0o755)
    _, _, notes = record(program, folder, keep_report=True)
    assert "QdstrmImporter made the report" in notes[0]
    assert (folder / "trace.nsys-rep").read_text() == "stream\n"


def test_one_that_never_ends_after_its_program_is_ended_and_said(tmp_path, folder):
    program = stand_in(
        tmp_path,
        """
        sh -c 'echo $$ > "$0/child.pid"' "$folder" & wait; echo report > "$out"; exec sleep 98763
        """,
    )
    outcome, _, (note,) = record(program, folder, grace_s=0.5)
    assert outcome.outlived
    assert "was ended" in note
