"""Run folders of other versions: older ones are read and migrated, newer ones refused."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from attnprof import load
from attnprof.errors import RunError
from attnprof.runs import folder_lock, run_folders
from attnprof.runs.schema import SCHEMA
from tests.conftest import TESTS
from tests.support.command import attnprof
from tests.support.generated_run import calls_only_run


@pytest.fixture
def old_runs() -> Path:
    """Two runs that attnprof 0.1.0 wrote while the schema was 1."""
    with tarfile.open(TESTS / "data" / "runs" / "schema1.tar.gz") as packed:
        packed.extractall(run_folders.runs_root())  # our own file; filters came with Python 3.11.4
    return run_folders.runs_root()


def asked(database: Path, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as db:
        return db.execute(question).fetchall()


def test_a_run_of_schema_1_is_read_as_it_is_and_left_as_it_is(old_runs):
    before = {path: path.read_bytes() for path in old_runs.rglob("*") if path.is_file()}
    assert load("kernels").check().counts == {"match": 5}
    assert len(load("calls").calls) == 4
    assert "name" not in load("calls").config
    assert load("calls").config["schema"] == SCHEMA
    done = attnprof("check", "kernels")
    assert done.code == 0, done.err
    assert before == {path: path.read_bytes() for path in old_runs.rglob("*") if path.is_file()}


def test_the_database_of_schema_1_is_made_anew_where_it_is_asked_for(old_runs):
    assert asked(old_runs / "kernels" / "attnprof.db", "pragma user_version") == [(0,)]
    rows = "select * from calls order by id"
    before = asked(old_runs / "kernels" / "attnprof.db", rows)
    database = load("kernels").database
    assert asked(database, "pragma user_version") == [(SCHEMA,)]
    # Since schema 3: which process made it, and how much it proves where it is explained; since 4: each
    # request's lengths, whether they are known, and its splits; since 5: the kind of layer, where there are
    # several.
    since = (0, None, None, None, None, "each request's", None, None)
    assert asked(database, rows) == [(*row, *since) for row in before]
    assert asked(database, "select value from run where key = 'schema'") == [(str(SCHEMA),)]
    unchanged = database.read_bytes()
    assert load("kernels").database.read_bytes() == unchanged
    assert not [path for path in database.parent.iterdir() if path.name.endswith(".part")]


def test_runs_says_which_are_older_and_migrates_them(old_runs):
    assert attnprof("runs").out.count("attnprof runs --migrate") == 2
    done = attnprof("runs", "--migrate")
    assert done.code == 0, done.err
    assert done.out.count("migrated from schema 1") == 2
    for name in ("calls", "kernels"):
        config = json.loads((old_runs / name / "run.json").read_text())
        assert config["schema"] == SCHEMA
        assert "name" not in config
        assert config["created"].startswith("2026-")
    assert "--migrate" not in attnprof("runs").out
    assert attnprof("runs", "--migrate", "calls").out == f"{old_runs / 'calls'}: is up to date\n"
    assert load("kernels").check().counts == {"match": 5}


def test_a_damaged_or_missing_database_is_made_anew(old_runs):
    for spoil in (lambda path: path.write_bytes(b"cut"), Path.unlink):
        spoil(old_runs / "kernels" / "attnprof.db")
        assert asked(load("kernels").database, "select count(*) from calls") == [(5,)]


def test_a_run_has_a_database_from_when_it_is_asked_for():
    folder = calls_only_run("new", range(100, 101))
    before = {path.name for path in folder.iterdir()}
    assert "attnprof.db" not in before
    assert attnprof("runs", "--migrate", "new").out == f"{folder}: is up to date\n"
    assert {path.name for path in folder.iterdir()} == before
    assert asked(load("new").database, "select count(*) from calls") == [(len(load("new").calls),)]
    assert {path.name for path in folder.iterdir()} == before | {"attnprof.db"}


def test_what_a_killed_process_left_of_a_database_is_removed_and_a_living_one_s_is_not():
    folder = calls_only_run("new", range(100, 101))
    dead, living = folder / ".attnprof.db.1234.part", folder / ".attnprof.db.abcd.part"
    for path in (dead, living):
        path.write_bytes(b"half of it")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _ = load("new").database
    assert [path.name for path in folder.glob(".*")] == [living.name]


def test_a_database_that_cannot_be_written_leaves_nothing(monkeypatch):
    folder = calls_only_run("new", range(100, 101))
    before = {path.name for path in folder.iterdir()}

    def fails(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("attnprof.runs.database.write_database", fails)
        with pytest.raises(RunError):
            _ = load("new").database
    assert {path.name for path in folder.iterdir()} == before
    assert load("new").check().calls


def test_the_database_of_a_run_that_was_replaced_is_not_written_into_the_new_one():
    calls_only_run("one", range(100, 101))
    run = load("one")
    _ = run.timeline, run.records
    shutil.rmtree(run_folders.run_folder("one"))
    folder = calls_only_run("one", range(100, 109))
    with pytest.raises(RunError, match="replaced or removed"):
        _ = run.database
    assert not list(folder.glob("*attnprof.db*"))
    assert asked(load("one").database, "select count(*) from calls") == [(18,)]


def test_a_database_that_another_takes_for_left_before_it_is_locked_is_begun_again(monkeypatch):
    folder = calls_only_run("new", range(100, 101))
    run, lock, taken = load("new"), folder_lock.lock, []

    def late(descriptor, operation, **options):
        part = next(folder.glob(".attnprof.db.*.part"))
        if len(taken) < 2:  # the other's file in its place is not locked either
            taken.append(part)
            part.unlink()
            if len(taken) == 2:
                part.touch()
        return lock(descriptor, operation, **options)

    monkeypatch.setattr("attnprof.runs.database.folder_lock.lock", late)
    assert asked(run.database, "select count(*) from calls") == [(2,)]
    assert len(taken) == 2
    assert not list(folder.glob(".attnprof.db.*"))


def test_a_newer_schema_is_refused_in_one_sentence_by_every_reader():
    folder = calls_only_run("new", range(100, 101))
    config = json.loads((folder / "run.json").read_text())
    run_folders.write_json(folder / "run.json", config | {"schema": SCHEMA + 1, "attnprof": "9.0.0"})
    sentence = f"was written by a newer attnprof, 9.0.0 (schema {SCHEMA + 1}, this one reads up to {SCHEMA})"
    for command in (("report", "new"), ("check", "new"), ("export", "new"), ("diff", "new", "new")):
        done = attnprof(*command)
        assert done.code == 2
        assert done.err.startswith(f"error: {folder} {sentence}\n")
        assert "try: upgrade attnprof" in done.err
    assert "newer attnprof" in attnprof("runs").out
    assert (folder / "run.json").exists()
    assert attnprof("runs", "--remove", "new").code == 0


def test_a_newer_database_is_neither_read_nor_rewritten():
    folder = calls_only_run("new", range(100, 101))
    with closing(sqlite3.connect(folder / "attnprof.db")) as db:
        db.execute(f"pragma user_version = {SCHEMA + 1}")
    before = (folder / "attnprof.db").read_bytes()
    with pytest.raises(RunError, match="newer attnprof") as told:
        _ = load("new").database
    assert "attnprof export --to sqlite" in told.value.hint
    assert attnprof("runs", "--migrate", "new").code == 2
    assert (folder / "attnprof.db").read_bytes() == before


def test_a_database_belongs_to_a_run(tmp_path):
    trace = tmp_path / "trace.sqlite.gz"
    shutil.copy(TESTS / "data" / "traces" / "nsys2022.4_nvtx_only_python.sqlite.gz", trace)
    with pytest.raises(RunError, match="is no run"):
        _ = load(trace).database


@pytest.mark.parametrize("schema", [0, -1, "two", None])
def test_a_run_whose_schema_is_none_is_unreadable(schema):
    folder = calls_only_run("odd", range(100, 101))
    config = json.loads((folder / "run.json").read_text())
    run_folders.write_json(folder / "run.json", config | {"schema": schema})
    with pytest.raises(RunError, match="cannot be read"):
        load("odd")
