"""Processes are watched, ended and reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from attnprof.capture import process
from attnprof.capture.interrupt import InterruptError, Interruption, interruptible
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


class Program:
    """A Python program to be recorded; signals come once it is ready for them."""

    def __init__(self, folder: Path) -> None:
        self.pid_file, self._script, self.ready = folder / "pid", folder / "program.py", folder / "ready"
        self.said: list[str] = []

    def python(self, text: str) -> list[str]:
        """The command that runs the text, which may call wait()."""
        self._script.write_text(
            "import os, signal, subprocess, sys, time\n"
            f"def wait(): open({str(self.ready)!r}, 'w').close(); time.sleep(60)\n"
            f"open({str(self.pid_file)!r}, 'w').write(str(os.getpid()))\n{text}\n"
        )
        return [sys.executable, str(self._script)]

    def supervise(
        self, command: list[str], *numbers: signal.Signals, when_ready: bool = True, **options: Any
    ) -> Outcome:
        """Runs it; the signals come a tenth of a second apart."""
        interruption = Interruption(gently=True)

        def send() -> None:
            while when_ready and not self.ready.exists():
                time.sleep(0.05)
            for number in numbers:
                time.sleep(0.1)
                interruption.hear(number)

        if numbers:
            threading.Thread(target=send, daemon=True).start()
        return supervise(
            command, ENVIRONMENT, pid_file=self.pid_file, interruption=interruption, say=self.said.append,
            **options,
        )  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


PYTHON = "try: wait()\nexcept KeyboardInterrupt: sys.exit(7)"
DEAF = "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\nwait()"


@pytest.mark.parametrize(
    ("text", "number", "code"),
    [
        (PYTHON, signal.SIGINT, 7),
        (PYTHON, signal.SIGTERM, 7),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(8))\nwait()", signal.SIGTERM, 8),
        ("signal.signal(signal.SIGINT, signal.SIG_DFL)\nwait()", signal.SIGHUP, 128 + signal.SIGHUP),
    ],
    ids=["SIGINT", "SIGTERM to Python", "SIGTERM that is caught", "SIGHUP to what catches nothing"],
)
def test_a_program_is_asked_to_end_as_it_is_prepared_for(program, text, number, code):
    assert program.supervise(program.python(text), number) == Outcome(code)
    assert program.said == [
        f"{number.name}: ending the program and keeping what was captured; again to give it up"
    ]


def test_a_terminals_interrupt_reaches_the_programs_children_too(program):
    command = program.python("if os.fork(): os.wait()\nelse: wait()")
    assert program.supervise(command, signal.SIGINT).exit_code == 128 + signal.SIGINT
    assert not alive(command[1])


def test_a_program_that_does_not_listen_is_killed_in_the_end(program, monkeypatch):
    monkeypatch.setitem(process._LISTEN_S, signal.SIGTERM, 0.5)
    outcome = program.supervise(program.python(DEAF), signal.SIGTERM)
    assert outcome == Outcome(128 + signal.SIGKILL, killed=True)
    assert program.said[1] == "the program did not end within 0 s and was killed"


def test_nothing_is_waited_for_before_the_program_has_begun(program):
    with pytest.raises(InterruptError, match="by SIGINT before the program had begun: nothing was kept"):
        program.supervise(["sleep", "98758"], signal.SIGINT, when_ready=False)
    assert not alive("sleep 98758")


def test_a_request_sent_twice_at_once_is_one(program):
    assert program.supervise(program.python(PYTHON), signal.SIGTERM, signal.SIGTERM) == Outcome(7)


def test_a_second_request_gives_up_and_leaves_no_process(program):
    command = program.python(DEAF)
    script = f"""
import os, signal, threading
from pathlib import Path
from attnprof.capture.interrupt import interruptible
from attnprof.capture.process import supervise
def again(sentence): threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGINT)).start()
sent = []
def tick():
    if not sent and os.path.exists({str(program.ready)!r}):
        sent.append(os.kill(os.getpid(), signal.SIGINT))
with interruptible(gently=True) as interruption:
    supervise({command}, os.environ, pid_file=Path({str(program.pid_file)!r}), interruption=interruption,
              tick=tick, say=again)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "InterruptError: interrupted again by SIGINT: nothing was kept" in done.stderr
    assert not alive(command[1])


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with interruptible(gently=True) as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.number is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_program_goes_on_where_its_recorder_dies(program, tmp_path):
    command = program.python("time.sleep(1.5)")
    until = f"while [ ! -s {program.pid_file} ]; do sleep 0.1; done"
    script = f"setsid {command[0]} {command[1]} & {until}; kill -9 $$"
    watch = Watch(program.pid_file, (tmp_path,), 5.0)
    started = time.monotonic()
    outcome = program.supervise(["bash", "-c", script], watch=watch)
    assert outcome == Outcome(128 + signal.SIGKILL, died=True)
    assert time.monotonic() - started > 1
    assert program.said[0].startswith("nsys ended before the program, which goes on")


def test_a_recorder_that_waits_for_what_was_left_behind_says_for_what(program, tmp_path):
    command = program.python("subprocess.Popen(['sleep', '2'])")
    script = f"setsid -w {command[0]} {command[1]}; sleep 2.2"
    watch = Watch(program.pid_file, (tmp_path,), 0.4)
    assert not program.supervise(["sh", "-c", script], watch=watch).outlived
    assert "waits for what it left behind" in program.said[0]
    assert "(sleep 2" in program.said[0]


def test_what_a_program_leaves_running_is_named(program, monkeypatch):
    monkeypatch.setattr(process, "_LEAVING_S", 0.2)
    marker = f"{90_000 + os.getpid() % 10_000}.25"
    outcome = program.supervise(program.python(f"subprocess.Popen(['sleep', '{marker}'])"))
    assert outcome == Outcome(0, left=(f"sleep {marker}",))
    subprocess.run(["pkill", "-f", f"sleep {marker}"], check=True)
