"""What killed commands leave is said by attnprof runs, made into a run, or removed."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from attnprof import load
from attnprof.errors import RunError, TraceError
from attnprof.runs import run_folders, unfinished_folders
from attnprof.runs.ingest import finish_recorded
from attnprof.runs.run_builder import new_run
from attnprof.runs.unfinished_runs import leftover, remove, resume
from tests.conftest import TESTS
from tests.support.command import attnprof
from tests.support.generated_run import calls_only_run

TRACE = TESTS / "data" / "traces" / "nsys2022.4_nvtx_only_python.sqlite.gz"
BEGUN = {"config": {"kind": "run", "command": ["attnprof", "run"], "predict": {}}}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The files of a recording of two attention calls."""
    whole = calls_only_run("whole", range(100, 101))
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(whole / "calls.jsonl", files)
    (files / "workload.json").write_text(json.dumps({"status": "complete", "num_calls": 2, "versions": {}}))
    shutil.rmtree(whole)
    return files


def killed(name: str, files: Path | None, *left: str, **known: Any) -> Path:
    """A folder as a killed command leaves it, with these of the files."""
    with new_run(name, known=BEGUN | known) as builder:
        for file in left:
            assert files is not None
            shutil.copy(files / file, builder.folder)
        builder.kept = True
    return builder.folder


def test_a_ctrl_c_while_the_folder_is_made_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until the folder is whole, and is heard before anybody has it."""
    note = unfinished_folders.note

    def interrupted(descriptor: int, **facts: Any) -> None:
        note(descriptor, **facts)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(unfinished_folders, "note", interrupted)
    with pytest.raises(KeyboardInterrupt), new_run("one", known=BEGUN):
        pytest.fail("the run was begun")
    assert list(unfinished_folders.folders(run_folders.run_folder("one").parent)) == []


def test_a_recording_that_ended_is_resumed_as_complete(files):
    folder = killed("one", files, "calls.jsonl", "workload.json", recorder="none")
    assert leftover(folder).text == "2 attention calls"
    ((made, status),) = resume("one")
    assert (made, status) == (run_folders.run_folder("one"), "complete")
    assert len(load("one").calls) == 2
    assert not folder.exists()


def test_a_program_cut_off_is_resumed_as_interrupted_with_what_is_missing(files):
    calls = files / "calls.jsonl"
    calls.write_bytes(calls.read_bytes()[:-40])  # the last line has no end
    killed("one", files, "calls.jsonl", recorder="nsys")
    ((_, status),) = resume("one")
    run = load("one")
    assert (status, run.status, len(run.records)) == ("interrupted", "interrupted", 1)
    assert run.config["capture"]["notes"] == [
        "attnprof run was killed; this is what it left",
        "the program had not ended: its last attention calls are missing",
        "the recorder had written no trace",
    ]
    assert "the program had not ended" in attnprof("report", "one").out


def test_a_recorders_file_that_cannot_be_read_is_said(files):
    (files / "trace.json.gz").write_bytes(b"cut")
    killed("one", files, "calls.jsonl", "workload.json", "trace.json.gz", recorder="torch")
    assert resume("one")[0][1] == "interrupted"
    assert any("trace.json.gz cannot be read" in note for note in load("one").config["capture"]["notes"])


def test_where_nothing_usable_is_left_it_says_so_and_stays():
    folder = killed("one", None)
    with pytest.raises(RunError, match="cannot be resumed: nothing was recorded") as told:
        resume("one")
    assert told.value.hint == f"attnprof runs --remove {folder.name}"
    assert folder.exists()


def test_an_import_is_resumed_from_its_source_while_that_is_there(tmp_path):
    source = tmp_path / "trace.sqlite.gz"
    shutil.copy(TRACE, source)
    known = {"config": {"kind": "import", "predict": {}}, "source": str(source), "nsys": None}
    killed("one", None, **known)
    assert resume("one")[0][1] == "complete"
    assert len(load("one").trace.ranges) > 0
    folder = killed("two", None, **known)
    source.unlink()
    assert "which is gone" in leftover(folder).text
    with pytest.raises(RunError, match="cannot be resumed"):
        resume("two")


def test_what_stopped_after_the_recording_keeps_it(files, monkeypatch):
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    def recorded() -> None:
        with new_run("one", known=BEGUN) as builder:
            shutil.copy(files / "calls.jsonl", builder.folder)
            with monkeypatch.context() as patch:
                patch.setattr("attnprof.runs.run_builder.RunBuilder.finish", fails)
                finish_recorded(builder, None, {"kind": "run", "capture": {"recorder": "none"}}, "failed")

    with pytest.raises(KeyboardInterrupt):
        recorded()
    (folder,) = run_folders.runs_root().iterdir()
    assert leftover(folder).text == "all that was recorded"
    assert not (folder / run_folders.TRACE_NPZ).exists()
    assert resume("one") == [(run_folders.run_folder("one"), "failed")]
    assert load("one").config["capture"] == {"recorder": "none"}


def test_a_recording_whose_trace_is_no_trace_is_not_kept(files):
    (files / "trace.sqlite").write_text("nothing of the kind")

    def recorded() -> None:
        with new_run("one", known=BEGUN) as builder:
            trace = Path(shutil.copy(files / "trace.sqlite", builder.folder))
            finish_recorded(builder, trace, {"kind": "run"}, "complete")

    with pytest.raises(TraceError):
        recorded()
    assert list(run_folders.runs_root().iterdir()) == []


def test_a_whole_folder_needs_nothing_but_its_name():
    made = calls_only_run("one", range(100, 101))
    unnamed = made.rename(made.with_name(".one.partial-1-a"))
    (unnamed / unfinished_folders.BUILDING).touch()
    assert leftover(unnamed).text == "whole, without its name"
    calls_only_run("one", range(100, 103))
    assert resume(unnamed.name) == [(run_folders.run_folder("one-2"), "complete")]
    assert len(load("one-2").calls) == 2
    assert not (run_folders.run_folder("one-2") / unfinished_folders.BUILDING).exists()


def test_a_run_that_was_replaced_is_no_loss_and_can_be_had_back():
    made = calls_only_run("one", range(100, 101))
    discarded = made.rename(made.with_name(".one.partial-1-a"))
    assert [entry.status for entry in run_folders.list_runs()] == ["discarded"]
    assert resume(discarded.name) == [(run_folders.run_folder("one"), "complete")]


def test_removing_takes_runs_and_leftovers_and_nothing_else(files):
    calls_only_run("one", range(100, 101))
    killed("two", files, "calls.jsonl")
    thesis = run_folders.run_folder("thesis")
    thesis.mkdir()
    (thesis / "run.json").write_text('{"steps": 1}')
    (run_folders.runs_root() / "link").symlink_to(run_folders.run_folder("one"))
    for name in ("thesis", "link"):
        with pytest.raises(RunError, match="is no attnprof run: it is not removed"):
            remove(name)
    with pytest.raises(RunError, match="there is no run called three"):
        remove("three")
    done = attnprof("runs", "--remove", "one", "two")
    assert done.code == 0
    assert done.out.count("removed") == 2
    assert sorted(path.name for path in run_folders.runs_root().iterdir()) == ["link", "thesis"]


def test_resuming_says_what_is_missing(files):
    folder = killed("one", files, "calls.jsonl", recorder="nsys")
    done = attnprof("runs", "--resume", folder.name)
    assert done.out.startswith(f"{run_folders.run_folder('one')}: interrupted\n")
    assert "note: the recorder had written no trace" in done.err


def test_what_is_being_made_is_neither_removed_nor_resumed():
    with new_run("one") as builder:
        for act in (remove, resume):
            with pytest.raises(RunError, match="still being written"):
                act("one")
        builder.finish({"status": "complete", "kind": "run"})
    with pytest.raises(RunError, match="is finished"):
        resume("one")


def test_runs_lists_what_is_incomplete_and_how_to_go_on(files):
    calls_only_run("one", range(100, 101))
    usable = killed("two", files, "calls.jsonl", "workload.json")
    empty = killed("three", None)
    listed = attnprof("runs")
    assert f"{usable}: 2 attention calls" in listed.err
    assert f"attnprof runs --resume {usable.name}" in listed.err
    assert f"{empty}: nothing was recorded" in listed.err
    assert f"--resume {empty.name}" not in listed.err
    assert listed.err.count("attnprof runs --remove") == 2
    rows = json.loads(attnprof("runs", "--format", "json").out)
    assert {(row["status"], row["kind"]) for row in rows} == {("complete", "run"), ("incomplete", "run")}
    assert [row["name"] for row in json.loads(attnprof("runs", "two", "--format", "json").out)] == [
        usable.name
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--remove",), "--remove needs the names of runs"),
        (("--remove", "--resume", "one"), "exclude each other"),
        (("--resume", "one"), "there is no run called one"),
    ],
)
def test_a_wrong_command_line_is_one_message(arguments, message):
    done = attnprof("runs", *arguments)
    assert done.code == 2
    assert message in done.err
