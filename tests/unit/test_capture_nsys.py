"""What attnprof makes of an nsys that misbehaves: stand-ins that do what real ones were seen to do."""

from __future__ import annotations

import mmap
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from attnprof.capture import nsys, nsys_shared_memory
from attnprof.capture.nsys import Recording, Session
from attnprof.errors import CaptureError
from attnprof.machine.find_nsys import is_whole_export
from tests.support.fake_nsys import fake_importer, fake_nsys, whole_export

CHILD = [sys.executable, "-c", "pass"]
GOOD = 'program; echo report > "$out"'
STREAM = 'program; echo stream > "$scratch/nsys-report-1.qdstrm"'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def record(program: Path, folder: Path, *, keep_report: bool = False, **session: Any) -> Recording:
    return nsys.record(program, folder, CHILD, Session(os.environ, **session), keep_report=keep_report)


def failure(recorded: Recording) -> str:
    assert recorded.failure is not None
    return f"{recorded.failure.message}; {recorded.failure.hint}"


def test_a_good_recorder_leaves_an_export(tmp_path, folder):
    recorded = record(fake_nsys(tmp_path, GOOD + "; exit 3"), folder)
    assert (recorded.exit_code, recorded.notes, recorded.failure) == (3, [], None)
    assert recorded.command[1] == "profile"
    assert {"--cuda-graph-trace=node", "--trace=cuda,nvtx,osrt"} < set(recorded.command)
    assert f"--output={folder}/trace.nsys-rep" in recorded.command
    assert sorted(path.name for path in folder.iterdir()) == ["child.pid", "trace.sqlite"]


def test_a_report_is_kept_where_asked_for_and_is_its_owners_alone(tmp_path, folder):
    (note,) = record(fake_nsys(tmp_path, GOOD), folder, keep_report=True).notes
    assert "holds the environments" in note
    assert (folder / "trace.nsys-rep").read_text() == "report\n"
    assert (folder / "trace.nsys-rep").stat().st_mode & 0o077 == 0


def test_an_option_it_does_not_know_is_dropped_and_said(tmp_path, folder):
    refusing = """
        case "$*" in *--cuda-graph-trace*) echo "unrecognised option '--cuda-graph-trace=node'"; exit 1;; esac
    """
    recorded = record(fake_nsys(tmp_path, refusing + GOOD), folder)
    assert "--cuda-graph-trace=node" not in recorded.command
    assert "knows no --cuda-graph-trace" in recorded.notes[0]


def test_one_that_fails_before_it_starts_the_program_is_started_again(tmp_path, folder):
    once = '[ -e "$folder/x" ] || { touch "$folder/x"; echo "Local Endpoint is not available."; exit 1; }\n'
    recorded = record(fake_nsys(tmp_path, once + GOOD), folder)
    assert (recorded.exit_code, recorded.notes) == (0, [])


@pytest.fixture(autouse=True)
def no_shared_memory_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsys_shared_memory, "SHARED", tmp_path)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The file of nsys's shared memory, left there, without whose removal no agent starts."""
    path = tmp_path / "NSys-2022.4.2.1"
    path.write_bytes(bytes(4096))
    return path


LOCKED = '[ -e "${out%/*/*/*}/NSys-2022.4.2.1" ] && { echo "Agent launcher failed."; exit 1; }\n'


def test_shared_memory_that_a_killed_nsys_left_locked_is_removed_and_said(tmp_path, folder, shared):
    recorded = record(fake_nsys(tmp_path, LOCKED + GOOD), folder)
    assert recorded.failure is None
    assert recorded.notes == [
        f"{shared}, left locked by an nsys that was killed, was in the way and was removed"
    ]
    assert not shared.exists()


def test_shared_memory_that_a_process_uses_stays_and_the_process_is_named(tmp_path, folder, shared):
    said = f"another nsys holds {shared} and does not"
    with (
        shared.open("r+b") as file,
        mmap.mmap(file.fileno(), 0),
        pytest.raises(CaptureError, match=said) as e,
    ):
        record(fake_nsys(tmp_path, LOCKED + GOOD), folder)
    assert str(os.getpid()) in e.value.hint
    assert shared.exists()


def test_shared_memory_that_may_not_be_removed_is_said_with_its_owner(tmp_path, folder, shared, monkeypatch):
    monkeypatch.setattr(nsys, "remove_abandoned", lambda program: None)  # as without the right to
    with pytest.raises(CaptureError, match=f"{shared} was left locked by another user's nsys") as error:
        record(fake_nsys(tmp_path, LOCKED + GOOD), folder)
    assert f"user {os.getuid()}" in error.value.hint


@pytest.mark.parametrize(
    ("said", "cause", "fix"),
    [
        ("Network is unreachable", "the loopback interface, and there is none", "ip link set lo up"),
        (
            "Dynamic exception type: boost::interprocess::interprocess_exception\n"
            "std::exception::what: Read-only file system",
            "/dev/shm cannot be written",
            "make /dev/shm writable",
        ),
        ("Agent launcher failed.", "nsys's agent did not start", "/dev/shm|doctor"),
        ("Something else", "Something else", "attnprof doctor"),
    ],
)
def test_why_the_program_was_never_started_is_said_with_what_to_do(tmp_path, folder, said, cause, fix):
    with pytest.raises(CaptureError, match=f"nsys did not start the program: .*{cause}") as error:
        record(fake_nsys(tmp_path, f"cat <<X\n{said}\nX\nexit 1"), folder)
    assert any(part in error.value.hint for part in fix.split("|"))


def test_a_report_that_nsys_put_elsewhere_because_the_name_was_taken_is_found(tmp_path, folder):
    profile = """
        echo "Failed to create '$out': File exists."
        program; echo new > "$scratch/nsys-report-70db.nsys-rep"
    """
    recorded = record(fake_nsys(tmp_path, profile), folder, keep_report=True)
    assert recorded.failure is None
    assert (folder / "trace.nsys-rep").read_text() == "new\n"


def test_a_report_left_by_an_earlier_run_is_not_taken_for_this_one(tmp_path, folder):
    (folder / "trace.nsys-rep").write_text("last week")
    assert "nsys left no report" in failure(record(fake_nsys(tmp_path, "program; exit 0"), folder))


def test_no_report_is_a_failure_with_its_last_words_and_the_programs_exit_code(tmp_path, folder):
    recorded = record(
        fake_nsys(tmp_path, 'program; echo "Importer error status: out of luck"; exit 4'), folder
    )
    assert "left no report: Importer error status: out of luck" in failure(recorded)
    assert recorded.exit_code == 4


def test_a_full_disk_is_said_with_the_file_it_was_for(tmp_path, folder):
    said = "Failed to create '/runs/trace.qdstrm': No space left on device."
    recorded = record(fake_nsys(tmp_path, f'program; echo "{said}"'), folder)
    assert "no space was left on the disk for /runs/trace.qdstrm; make room" in failure(recorded)


def test_a_stream_without_report_goes_through_the_importer(tmp_path, folder):
    fake_importer(tmp_path, 'cp "$2" "$4"')
    recorded = record(fake_nsys(tmp_path, STREAM), folder, keep_report=True)
    assert "QdstrmImporter made the report" in recorded.notes[0]
    assert (folder / "trace.nsys-rep").read_text() == "stream\n"


def test_a_stream_is_kept_where_the_importer_is_missing_with_the_next_command(tmp_path, folder):
    said = failure(record(fake_nsys(tmp_path, STREAM), folder))
    assert "QdstrmImporter, which makes it, is not beside" in said
    assert f"attnprof import {folder}/trace.qdstrm" in said
    assert (folder / "trace.qdstrm").read_text() == "stream\n"
    assert (folder / "trace.qdstrm").stat().st_mode & 0o077 == 0


def test_a_stream_is_kept_where_the_importer_cannot_read_it(tmp_path, folder):
    fake_importer(tmp_path, 'echo "Version number is invalid: 2025@6@1"; exit 1')
    said = failure(record(fake_nsys(tmp_path, STREAM), folder))
    assert "makes none of its events: Version number is invalid: 2025@6@1; they are kept" in said
    assert (folder / "trace.qdstrm").exists()


def test_a_stream_that_was_cut_is_not_kept_for_nothing_reads_it(tmp_path, folder):
    fake_importer(
        tmp_path, 'echo "Qdstrm file is incomplete or invalid. Please ensure that the CLI ran"; exit 1'
    )
    said = failure(record(fake_nsys(tmp_path, STREAM), folder))
    assert "nsys ended before its stream of events was whole" in said
    assert sorted(path.name for path in folder.iterdir()) == ["child.pid"]


# nsys writes its export in one transaction with the journal off: killed, it leaves a blank header, and the
# table of its own version comes last.
KILLED = 'head -c 4096 /dev/zero > "$out"; tail -c +4097 WHOLE >> "$out"'


@pytest.mark.parametrize(
    "cut", [f"{KILLED}; exit 137", f"{KILLED}; exit 0", 'head -c 5000 WHOLE > "$out"; exit 0', "exit 0"]
)
def test_an_export_that_was_killed_is_made_again(tmp_path, folder, cut):
    export = f'[ -e "$out.tried" ] || {{ touch "$out.tried"; {cut}; }}\ncp WHOLE "$out"; exit 0'
    assert record(fake_nsys(tmp_path, GOOD, export=export), folder).failure is None
    assert is_whole_export(folder / "trace.sqlite")


def test_a_report_is_kept_where_it_cannot_be_exported(tmp_path, folder):
    export = "echo 'Exportation error: database or disk is full'; exit 1"
    said = failure(record(fake_nsys(tmp_path, GOOD, export=export), folder))
    assert "cannot export it: no space was left on the disk; its report is kept" in said
    assert f"attnprof import {folder}/trace.nsys-rep; make room" in said
    assert (folder / "trace.nsys-rep").stat().st_mode & 0o077 == 0


def test_an_export_without_its_last_table_is_not_whole(tmp_path):
    path = whole_export(tmp_path / "x.sqlite")
    assert is_whole_export(path)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE META_DATA_EXPORT")
    assert not is_whole_export(path)


def test_one_that_never_ends_after_its_program_is_ended_and_said(tmp_path, folder):
    # the real one does now and then after a program of less than a second, its agent spinning
    told = 'program 5; printf "0\\n5\\n" > "$scratch/nsys_termination_status_$(cat "$folder/child.pid")"\n'
    recorded = record(fake_nsys(tmp_path, told + "trap '' INT; linger"), folder, grace_s=0.5)
    assert recorded.outcome.outlived
    assert "was ended" in recorded.notes[0]
    assert recorded.exit_code == 5
    assert "left no report" in failure(recorded)


def test_one_that_missed_the_end_of_its_program_writes_its_report_when_asked_to_stop(tmp_path, folder):
    # the real one does when its launcher was killed
    profile = "program 5; trap 'echo report > \"$out\"; exit 0' INT; linger"
    recorded = record(fake_nsys(tmp_path, profile), folder, grace_s=0.5)
    assert (recorded.failure, recorded.outcome.reminded) == (None, True)
    assert "wrote its report when asked to stop" in recorded.notes[0]


def test_no_folder_for_temporary_files_is_said(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(CaptureError, match="needs a folder for temporary files") as error:
        record(fake_nsys(tmp_path, GOOD), folder)
    assert "TMPDIR" in error.value.hint
