"""Processes are watched, ended and reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from attnprof.capture.process import Outcome, Watch, supervise
from attnprof.errors import CaptureError

ENVIRONMENT = dict(os.environ)


def alive(marker: str) -> list[str]:
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "stat,args"], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in listed.splitlines() if marker in line and not line.startswith("Z")]


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -SEGV $$", 139)])
def test_the_exit_code_is_the_one_a_shell_would_give(script, code):
    assert supervise(["sh", "-c", script], ENVIRONMENT) == Outcome(code)


def test_a_recorder_that_outlives_its_silent_program_is_ended(tmp_path):
    pid_file = tmp_path / "pid"
    script = f"sh -c 'echo $$ > {pid_file}' & wait; trap '' INT; exec sleep 98765"
    started = time.monotonic()
    outcome = supervise(["sh", "-c", script], ENVIRONMENT, watch=Watch(pid_file, (tmp_path,), 0.5))
    assert outcome.outlived
    assert time.monotonic() - started < 10
    assert not alive("sleep 98765")


def test_a_recorder_that_missed_the_end_of_its_program_is_asked_to_stop_first(tmp_path):
    pid_file = tmp_path / "pid"
    script = f"trap 'exit 7' INT; sh -c 'echo $$ > {pid_file}'; sleep 98760 & wait"
    outcome = supervise(["sh", "-c", script], ENVIRONMENT, watch=Watch(pid_file, (tmp_path,), 0.5, name="s"))
    assert outcome == Outcome(7, reminded=True)
    assert not alive("sleep 98760")


def test_a_recorder_that_never_starts_its_program_is_ended(tmp_path):
    watch = Watch(tmp_path / "pid", (tmp_path,), 0.2)
    assert supervise(["sleep", "98761"], ENVIRONMENT, watch=watch).outlived
    assert not alive("sleep 98761")


def test_a_recorder_that_waits_for_what_the_program_left_behind_is_left_alone(tmp_path):
    pid_file = tmp_path / "pid"
    script = f"sh -c 'echo $$ > {pid_file}; sleep 1.5 &'; sleep 1.6; exit 5"
    outcome = supervise(["sh", "-c", script], ENVIRONMENT, watch=Watch(pid_file, (tmp_path,), 0.3))
    assert outcome == Outcome(5)


def test_a_recorder_still_writing_after_its_program_is_left_alone(tmp_path):
    pid_file, report = tmp_path / "pid", tmp_path / "report"
    script = f"""
        sh -c 'echo $$ > {pid_file}' & wait
        for i in 1 2 3 4 5 6 7 8 9 10; do head -c 300000 /dev/zero >> {report}; sleep 0.1; done; exit 4
    """
    outcome = supervise(["sh", "-c", script], ENVIRONMENT, watch=Watch(pid_file, (report,), 0.5))
    assert outcome == Outcome(4)


def test_daemons_that_left_the_session_are_ended_on_a_signal(tmp_path):
    script = "setsid sleep 98764 & sleep 98764"
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(CaptureError, match="interrupted by SIGINT") as error:
        supervise(["sh", "-c", script], ENVIRONMENT)
    assert error.value.exit_code == 130
    assert not alive("sleep 98764")


def test_a_daemon_that_a_recorder_leaves_behind_is_ended_and_the_programs_own_is_not(tmp_path):
    watch = Watch(tmp_path / "pid", (tmp_path,), 5.0, name="sleep")
    marker = f"daemon-of-the-program-{os.getpid()}"
    keeper = f"{sys.executable} -c 'import time; time.sleep(60)' {marker}"
    daemon = f"sleep {90_000 + os.getpid() % 10_000}.5"  # of this test run alone
    # The second gives setsid the time to become the daemon: a recorder's runs long before the program fails.
    script = f"setsid {daemon} >/dev/null & setsid {keeper} >/dev/null & sleep 1; exit 1"
    assert supervise(["sh", "-c", script], ENVIRONMENT, watch=watch) == Outcome(1)
    assert not alive(daemon)
    assert alive(marker)
    subprocess.run(["pkill", "-f", marker], check=True)


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    supervise(["true"], ENVIRONMENT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_output_goes_to_the_file_and_ticks_keep_coming(tmp_path):
    ticks: list[int] = []
    with (tmp_path / "log").open("wb") as log:
        supervise(
            [sys.executable, "-c", "import time; print('said', flush=True); time.sleep(0.5)"],
            ENVIRONMENT,
            output=log,
            tick=lambda: ticks.append(1),
        )
    assert Path(tmp_path / "log").read_text() == "said\n"
    assert len(ticks) >= 2
