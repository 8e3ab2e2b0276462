"""Making run folders: a name is taken at the start, and given when all of the run is on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.errors import CaptureError, RunError, UsageError
from attnprof.files import durable
from attnprof.runs import folder_lock, full_disk, run_folders, unfinished_folders
from attnprof.runs.run_builder import RunBuilder, new_run, unused_name

MADE = {"status": "complete", "kind": "run"}


def names() -> list[str]:
    return sorted(path.name for path in run_folders.runs_root().iterdir())


def finish(builder: RunBuilder, marker: str) -> Path:
    (builder.folder / "marker").write_text(marker)
    return builder.finish(MADE)


def test_a_name_is_taken_from_the_start():
    with new_run("one") as builder:
        with pytest.raises(RunError, match=rf"one is being made by process {os.getpid()}"), new_run("one"):
            pass
        finish(builder, "first")
    assert names() == ["one"]


def test_an_automatic_name_is_another_where_one_is_being_made():
    with new_run("one", numbered=True) as first, new_run("one", numbered=True) as second:
        assert unused_name("one") == "one-3"
        assert finish(second, "second").name == "one-2"
        assert finish(first, "first").name == "one"
    assert names() == ["one", "one-2"]


def test_of_several_that_replace_a_run_the_last_wins():
    with new_run("one") as builder:
        finish(builder, "old")
    with new_run("one", force=True) as first, new_run("one", force=True) as second:
        finish(second, "second")
        assert (run_folders.run_folder("one") / "marker").read_text() == "second"
        finish(first, "first")
    assert (run_folders.run_folder("one") / "marker").read_text() == "first"
    assert names() == ["one"]


def test_a_name_that_was_promised_to_one_is_not_replaced_by_another():
    with new_run("one") as builder:
        with pytest.raises(RunError, match="is being made"), new_run("one", force=True):
            pass
        finish(builder, "first")
    assert (run_folders.run_folder("one") / "marker").read_text() == "first"


def test_a_name_taken_by_hand_meanwhile_costs_no_recording():
    with new_run("one") as builder:
        run_folders.run_folder("one").mkdir()
        assert finish(builder, "mine").name == "one-2"
    assert names() == ["one", "one-2"]


def test_where_two_names_cannot_be_exchanged_a_run_is_replaced_all_the_same(monkeypatch):
    monkeypatch.setattr(durable, "exchange", lambda one, other: False)
    for marker in ("old", "new"):
        with new_run("one", force=True) as builder:
            finish(builder, marker)
    assert (run_folders.run_folder("one") / "marker").read_text() == "new"
    assert names() == ["one"]


def test_two_names_are_exchanged_at_one_moment_where_the_system_can(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "marker").touch()
    if durable.exchange(tmp_path / "one", tmp_path / "two"):
        assert (tmp_path / "two" / "marker").exists()
    assert not durable.exchange(tmp_path / "one", tmp_path / "no such")


def test_all_is_on_the_disk_before_the_run_has_its_name(monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        events.append(f"name {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    with new_run("one") as builder:
        partial_name = builder.folder.name
        finish(builder, "first")
    named = events.index("name one")
    for before in ("sync marker", f"sync {partial_name}"):
        assert before in events[:named]
    run_json = next(n for n, event in enumerate(events) if event.startswith("sync .run.json"))
    assert events.index("sync marker") < run_json < named
    assert f"sync {run_folders.runs_root().name}" in events[named:]


def test_a_run_is_running_until_it_ends_and_incomplete_once_it_was_killed():
    script = """
from attnprof.runs.run_builder import new_run
with new_run("one", known={"config": {"kind": "run"}}):
    print("begun", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"begun\n"
        (entry,) = run_folders.list_runs()
        assert (entry.status, entry.config["pid"]) == ("running", maker.pid)
        with pytest.raises(RunError, match="the run one is still being made"):
            run_folders.find_run("one")
        maker.kill()
    (entry,) = run_folders.list_runs()
    assert entry.status == "incomplete"
    with new_run("one") as builder:  # the name is free again
        finish(builder, "next")


def test_what_an_older_version_is_making_is_running_as_long_as_its_process_lives():
    script = "print(flush=True), input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "attnprof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as maker:
        assert maker.stdout is not None
        maker.stdout.readline()
        folder = run_folders.runs_root() / f".one.partial-{maker.pid}"
        folder.mkdir(parents=True)
        assert unfinished_folders.state(folder, finished=False) == "running"
        maker.kill()
    assert unfinished_folders.state(folder, finished=False) == "incomplete"
    (run_folders.runs_root() / ".two.partial-1").mkdir()  # a process lives, and is another program's
    assert (
        unfinished_folders.state(run_folders.runs_root() / ".two.partial-1", finished=False) == "incomplete"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_run_gets_its_name_waits_until_it_has_it(number, monkeypatch):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(run_folders.run_folder("one").exists()))
    exchanged = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda path, target: (os.kill(os.getpid(), number), exchanged(path, target))[1]
    )
    try:
        with new_run("one") as builder:
            finish(builder, "first")
    finally:
        signal.signal(number, before)
    assert heard == [True] * len(heard)
    assert heard
    assert names() == ["one"]


def test_a_folder_removed_while_it_is_written_is_one_error():
    def removed_and_written(folder: Path) -> None:
        shutil.rmtree(folder.parent)
        (folder / "marker").write_text("late")

    with pytest.raises(RunError, match="was removed while it was being written"), new_run("one") as builder:
        removed_and_written(builder.folder)
    assert not run_folders.runs_root().exists()


def test_a_recorder_that_fails_on_a_full_disk_is_told_with_the_disk(monkeypatch):
    monkeypatch.setattr(full_disk, "_free", lambda folder: 1000)
    with (
        pytest.raises(RunError, match=r"no space is left .*\(nsys ended\); 1 kB are free") as told,
        new_run("one"),
    ):
        raise CaptureError("nsys ended")
    assert "attnprof runs --remove" in told.value.hint
    with pytest.raises(UsageError, match=r"^no such model$"), new_run("one"):
        raise UsageError("no such model")


def test_a_file_past_the_size_limit_is_one_error_and_leaves_nothing():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def written(folder: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            (folder / "large").write_bytes(bytes(2000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.raises(RunError, match="size limit"), new_run("one") as builder:
        written(builder.folder)
    assert names() == []


def test_who_holds_the_folder_for_long_is_not_waited_for_for_ever(tmp_path):
    with folder_lock.held(tmp_path):
        with (
            pytest.raises(RunError, match=r"another attnprof has held .* for 0 s"),
            folder_lock.held(tmp_path, wait_s=0.1),
        ):
            pass
        with folder_lock.held(tmp_path, fcntl.LOCK_SH, wait_s=0.0):  # who only reads goes on without
            pass


def test_a_file_system_without_locks_holds_runs_all_the_same(monkeypatch):
    def none_here(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    monkeypatch.setattr(unfinished_folders, "_is_attnprof", lambda pid: pid == str(os.getpid()))
    with new_run("one") as builder:
        assert [entry.status for entry in run_folders.list_runs()] == ["running"]
        with pytest.raises(RunError, match="is being made"), new_run("one"):
            pass
        finish(builder, "first")
    assert names() == ["one"]
