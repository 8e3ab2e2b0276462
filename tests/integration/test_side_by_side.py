"""Many at once on one folder of runs: makers of one name, and readers of a run that is being replaced."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from subprocess import PIPE

import pytest

from attnprof import load
from attnprof.errors import RunError
from attnprof.files.durable import exchange
from attnprof.runs import run_folders
from attnprof.runs.ingest import import_trace
from attnprof.runs.run_builder import new_run
from attnprof.runs.unfinished_runs import remove
from tests.conftest import TESTS
from tests.support.at_once import at_once
from tests.support.generated_run import calls_only_run

MANY = 16
TRACES = [TESTS / "data" / "traces" / f"nsys{v}_nvtx_only_python.sqlite.gz" for v in ("2022.4", "2024.2")]


def sources(folder: Path) -> list[Path]:
    """Traces that tell by their name how many ranges they hold."""
    copies = []
    for trace in TRACES:
        copies.append(folder / f"{len(load(trace).trace.ranges)}-ranges-{trace.name}")
        shutil.copy(trace, copies[-1])
    return copies


def names() -> list[str]:
    return sorted(path.name for path in run_folders.runs_root().iterdir())


def program(marks: Path, mark: int, seconds: float = 0.0) -> list[str]:
    """A recorded program that leaves a mark."""
    script = f"import time; open({str(marks / str(mark))!r}, 'w').close(); time.sleep({seconds})"
    return ["--", "python", "-c", script]


def test_of_16_runs_of_one_name_one_records_and_15_are_told_so_at_once(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    commands = [
        ["run", "--capture", "none", "-o", "same", *program(marks, mark, 3.0)] for mark in range(MANY)
    ]
    done = at_once(commands, tmp_path / "said")
    assert Counter(one.code for one in done) == {0: 1, 2: MANY - 1}, done
    assert len(list(marks.iterdir())) == 1, "the others recorded in vain"
    for one in done:
        assert one.code == 0 or "same is being made by process" in one.err
        assert "Traceback" not in one.err
    assert names() == ["same"]
    assert load("same").status == "complete"


def test_16_runs_without_a_name_get_16_names(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    commands = [["run", "--capture", "none", *program(marks, mark)] for mark in range(MANY)]
    done = at_once(commands, tmp_path / "said")
    assert [one.code for one in done] == [0] * MANY, done
    assert len(list(marks.iterdir())) == MANY
    assert names() == sorted(["command", *(f"command-{number}" for number in range(2, MANY + 1))])
    assert {entry.status for entry in run_folders.list_runs()} == {"complete"}


def test_16_that_replace_one_run_leave_one_of_them_whole(tmp_path):
    commands = [["import", "-f", "-o", "same", str(source)] for source in sources(tmp_path)] * (MANY // 2)
    done = at_once(commands, tmp_path / "said")
    assert [one.code for one in done] == [0] * MANY, done
    assert names() == ["same"]
    run = load("same")
    assert run.config["source"]["path"].startswith(str(tmp_path / f"{len(run.trace.ranges)}-ranges"))


READER = """
import os, sys, time
import numpy, pandas
import attnprof, attnprof.runs.database, attnprof.check.check_run
from attnprof.errors import RunError
from attnprof.runs.ingest import import_trace

ends = {"read": 0, "refused": 0}
for child in range(15):
    if os.fork() == 0:
        break
while ends["read"] < 3:
    try:
        run = attnprof.load("same")
        time.sleep(0.02)
        said = os.path.basename(run.config["source"]["path"])
        ranges = len(run.ranges)
        run.check()
        database = run.database
    except RunError as error:
        assert "replaced or removed" in error.message, error.message
        ends["refused"] += 1
        continue
    assert said.startswith(f"{ranges}-ranges"), (said, ranges)
    ends["read"] += 1
print(ends["read"], ends["refused"], flush=True)
"""


def replace(name: str, by: Path) -> None:
    """Puts a copy of a run in the place of the one called ``name``."""
    with new_run(name, force=True) as builder:
        for file in by.iterdir():
            if file.name != run_folders.RUN_JSON:
                shutil.copy(file, builder.folder)
        builder.finish(run_folders.read_run(by).config)


def test_16_readers_of_a_run_that_is_replaced_get_one_whole_run_or_one_error(tmp_path):
    made = [import_trace(source)[0] for source in sources(tmp_path)]
    replace("same", made[0])
    readers = subprocess.Popen([sys.executable, "-c", READER], stdout=PIPE, stderr=PIPE, text=True)
    pause, turns = 0.005, itertools.cycle(made)
    while readers.poll() is None:
        replace("same", next(turns))
        time.sleep(pause)
        pause *= 1.05  # in the end every reader finds the time to read a whole run
    out, err = readers.communicate(timeout=60)
    assert err == ""
    assert len(out.splitlines()) == MANY, out
    assert len(names()) == 3


def test_what_was_opened_before_a_run_was_replaced_is_never_mixed_with_the_new_one():
    calls_only_run("same", range(100, 101))
    begun, before = load("same"), load("same")
    assert len(before.records) == len(before.calls) == 2
    with new_run("same", force=True) as builder:
        shutil.copytree(run_folders.run_folder("same"), builder.folder, dirs_exist_ok=True)
        builder.finish({"status": "complete", "kind": "run"})
    for read in (lambda: begun.trace, lambda: begun.records, lambda: begun.database):
        with pytest.raises(RunError, match="same was replaced or removed while it was being read"):
            read()
    assert len(before.records) == 2
    remove("same")
    with pytest.raises(RunError, match="no run or trace called same"):
        load("same")


def test_a_name_is_never_without_a_run_while_that_is_replaced():
    calls_only_run("same", range(100, 101))
    script = "import os, sys\nwhile True: os.stat(sys.argv[1])"
    looker = subprocess.Popen(
        [sys.executable, "-c", script, str(run_folders.run_folder("same"))], stderr=PIPE
    )
    for _ in range(100):
        with new_run("same", force=True) as builder:
            builder.finish({"status": "complete", "kind": "run"})
    missed = looker.poll() is not None
    looker.kill()
    looker.communicate()
    (run_folders.runs_root() / "one").mkdir()
    (run_folders.runs_root() / "two").mkdir()
    if not exchange(run_folders.runs_root() / "one", run_folders.runs_root() / "two"):
        pytest.skip("this file system cannot exchange two names")
    assert not missed


def test_readers_of_a_run_that_is_being_made_are_told_so(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    arguments = ["run", "--capture", "none", "-o", "slow", *program(marks, 0, 60.0)]
    maker = subprocess.Popen(
        [sys.executable, "-m", "attnprof", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        while not any(marks.iterdir()):
            assert maker.poll() is None
            time.sleep(0.05)
        readers = at_once([["report", "slow"], ["check", "slow"], ["runs"]] * 2, tmp_path / "said")
    finally:
        maker.send_signal(signal.SIGTERM)
        maker.communicate(timeout=60)
    for number, one in enumerate(readers):
        assert "Traceback" not in one.err
        if number % 3 < 2:
            assert one.code == 2
            assert "the run slow is still being made" in one.err
        else:
            assert f"process {maker.pid}" in one.out
            assert "incomplete" not in one.out
