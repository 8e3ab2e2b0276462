"""Run folders: whole under their final name, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnprof.errors import RunError
from attnprof.runs import run_folders
from attnprof.runs.run_builder import new_run


def make(name: str, *, force: bool = False, marker: str = "") -> Path:
    with new_run(name, force=force) as builder:
        (builder.folder / "marker").write_text(marker)
        return builder.finish({"status": "complete", "kind": "run"})


def test_a_run_appears_under_its_name_only_when_it_is_finished() -> None:
    with new_run("one") as builder:
        assert not run_folders.run_folder("one").exists()
        folder = builder.finish({"status": "complete", "kind": "run"})
    assert folder == run_folders.run_folder("one")
    assert run_folders.find_run("one").status == "complete"
    assert [path.name for path in run_folders.runs_root().iterdir()] == ["one"]


def test_nothing_is_left_where_the_work_fails() -> None:
    with pytest.raises(ZeroDivisionError), new_run("one"):
        raise ZeroDivisionError
    assert list(run_folders.runs_root().iterdir()) == []


def test_an_existing_run_is_replaced_only_when_asked() -> None:
    make("one", marker="old")
    with pytest.raises(RunError, match="exists already") as refused:
        make("one", marker="new")
    assert "--force-overwrite" in refused.value.hint
    assert (run_folders.run_folder("one") / "marker").read_text() == "old"
    make("one", force=True, marker="new")
    assert (run_folders.run_folder("one") / "marker").read_text() == "new"
    assert [path.name for path in run_folders.runs_root().iterdir()] == ["one"]


def test_a_folder_that_is_no_run_is_never_overwritten() -> None:
    mine = run_folders.run_folder("thesis")
    mine.mkdir(parents=True)
    (mine / "chapter1.tex").write_text("years of work")
    with pytest.raises(RunError, match="not an attnprof run"):
        make("thesis", force=True)
    assert (mine / "chapter1.tex").exists()


def test_the_newest_run_is_the_default_and_killed_ones_are_listed_as_incomplete() -> None:
    make("one")
    make("two")
    (run_folders.runs_root() / ".three.partial-1").mkdir()
    assert run_folders.find_run(None).name == "two"
    assert {entry.status for entry in run_folders.list_runs()} == {"complete", "incomplete"}


def test_a_missing_run_names_those_there_are() -> None:
    make("one")
    with pytest.raises(RunError, match="no run or trace called nosuch; runs here: one"):
        run_folders.find_run("nosuch")


def test_a_run_of_a_newer_attnprof_is_refused() -> None:
    folder = make("one")
    run_folders.write_json(
        folder / run_folders.RUN_JSON, {"schema": run_folders.SCHEMA + 1, "status": "complete"}
    )
    with pytest.raises(RunError, match="newer attnprof"):
        run_folders.find_run("one")


@pytest.mark.parametrize("name", ["..", ".hidden", ""])
def test_names_that_would_leave_the_runs_folder_are_refused(name: str) -> None:
    with pytest.raises(RunError, match="no name for a run"):
        make(name)
