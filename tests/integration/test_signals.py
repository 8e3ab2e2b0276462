"""Signals to attnprof itself: one line and the documented code, from the first import on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TESTS
from tests.fuzz.subjects import built_trace
from tests.integration.test_endings import COMMAND, shell
from tests.support.first_moments import before_signals_are_heard


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return built_trace(tmp_path / "t.sqlite")


def _moments(command: list[str], cwd: Path, count: int) -> list[float]:
    began = time.monotonic()
    subprocess.run(command, cwd=cwd, capture_output=True, check=True)
    whole = time.monotonic() - began
    return [whole * (number + 0.5) / count for number in range(count)]


SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("line", ["report t.sqlite --plot x.png", "import t.sqlite -f -o it"])
def test_a_signal_at_any_moment_from_the_first_import_on_is_one_line(
    trace: Path, tmp_path: Path, number: signal.Signals, line: str
) -> None:
    command = [*COMMAND, *line.split()]
    ended = []
    for moment in _moments(command, tmp_path, 7):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(moment)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if before_signals_are_heard(err):
            continue
        assert "Traceback" not in err, err
        assert "Exception ignored" not in err, err
        # At its very end Python takes the handlers away: then the signal itself ends it.
        # What was just being printed can come after the one line.
        assert process.returncode in (0, -number) or (
            process.returncode == 128 + number and err.splitlines().count(SAID[number]) == 1
        ), (process.returncode, err)
        ended.append(process.returncode)
    assert 128 + number in ended


def test_a_signal_in_a_callback_that_takes_no_exception_is_heard_a_moment_later(tmp_path: Path) -> None:
    program = """
import os, signal, sys, time, weakref
from attnprof.machine import stop_signals
stop_signals.hear(); stop_signals.insist()
class Thing: pass
thing = Thing()
kept = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.SIGTERM), [0 for _ in range(10**5)]))
del thing
time.sleep(20)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=False
    )
    assert (done.returncode, done.stderr) == (143, "terminated\n")


_ASKED = """
import os, sys
from attnprof.trace import sqlite_read_only
may = sqlite_read_only._may
sqlite_read_only._may = lambda *given: (os.kill(os.getpid(), {number}), may(*given))[1]
"""
_IN_A_CLASS = """
import os, sys
from attnprof.trace import sqlite_read_only
class Named:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), {number})
sqlite_read_only.open_read_only = lambda path: type("Holder", (), {{"named": Named()}})
"""


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("beginning", [_ASKED, _IN_A_CLASS])
def test_a_signal_that_a_library_makes_an_error_of_is_not_told_as_that_error(
    trace: Path, number: signal.Signals, beginning: str
) -> None:
    """SQLite says "not authorized" where its question is interrupted, Python a RuntimeError where a class."""
    program = f"""{beginning.format(number=int(number))}
sys.argv = ["attnprof", "check", {str(trace)!r}]
from attnprof.__main__ import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert set(done.stderr.splitlines()) == {SAID[number]}  # once for each time it was sent


def test_a_signal_within_the_first_imports_is_one_line(tmp_path: Path) -> None:
    """A module that waits stands for the one that was just being imported."""
    slow = tmp_path / "slow"
    slow.mkdir()
    for name in ("dataclasses", "typer"):
        (slow / f"{name}.py").write_text("print('here', flush=True)\nimport time\ntime.sleep(30)\n")
        process = subprocess.Popen(
            [*COMMAND, "gpus"],
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(slow)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (130, "interrupted\n")
        (slow / f"{name}.py").unlink()


def test_a_command_that_is_stopped_and_goes_on_gives_the_same_answer(trace: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "report", "t.sqlite", "--format", "json"]
    whole = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for moment in _moments(command, tmp_path, 3):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        time.sleep(moment)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, json.loads(out)) == (0, json.loads(whole))


def test_until_signals_are_heard_nothing_is_imported_that_takes_time() -> None:
    """What Python has not already loaded when it starts, and is not of two or three lines."""
    program = "import os, sys; before = set(sys.modules); from attnprof.machine import stop_signals; "
    program += "print(*sorted(set(sys.modules) - before - {'__future__'}))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, cwd=TESTS.parent
    )
    assert done.stdout.split() == [
        "attnprof", "attnprof.machine", "attnprof.machine.stop_signals", "attnprof.version"
    ]  # fmt: skip


def test_a_hang_up_that_is_ignored_stays_so(trace: Path, tmp_path: Path) -> None:
    line = "trap '' HUP; attnprof report t.sqlite >out & sleep 0.3; kill -HUP $!; wait $!; echo $?"
    code, out, _ = shell(line, tmp_path)
    assert (code, out) == (0, "0\n")
