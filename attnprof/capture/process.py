"""Runs a recorder and what it records, watches both, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from attnprof.capture.interrupt import InterruptError, Interruption, interruptible
from attnprof.capture.watched_program import RecordedProgram
from attnprof.machine.processes import carrying, command_line
from attnprof.workloads.spec import CHILD_MODULE

MARK = "ATTNPROF_CAPTURE"  # in the environment of every process of a capture, to find them by
_POLL_S = 0.1
_GRAIN = 1 << 18
_TERM_S = 3.0
_QUICK_S = 20.0  # silence that is enough after a program that ended at once: its trace is small
_TIDY_S = 15.0  # the same once everything was asked to end
_LEAVING_S = 1.0  # helpers of a program end a moment after it
_LEFT_S = 10.0  # a recorder may wait for what a program left behind; after this it is said
_LISTEN_S = {signal.SIGINT: 30.0, signal.SIGTERM: 10.0, signal.SIGHUP: 10.0}  # to end when asked to


@dataclass(frozen=True)
class Outcome:
    """``exit_code`` as a shell gives it (128 + signal).

    ``outlived``: the recorder went on after its program and was ended. ``reminded``: it ended when it was
    asked to stop. ``died``: it ended before its program. ``killed``: the program was asked to end and did not
    listen. ``left``: commands of processes that a program without a recorder left running.
    """

    exit_code: int
    outlived: bool = False
    reminded: bool = False
    died: bool = False
    killed: bool = False
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watch:
    """How a recorder is known to be stuck: for ``grace_s`` seconds after its program (``pid_file``) has ended
    no file of ``growing`` has grown and no process but its own, whose names hold ``name``, is left; or the
    program has not begun after twice that time. An idle nsys adds a kilobyte a second to its stream: what is
    no log grows by ``_GRAIN`` bytes or not at all."""

    pid_file: Path
    growing: tuple[Path, ...]
    grace_s: float
    name: str = "nsys"


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    output: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    watch: Watch | None = None,
    pid_file: Path | None = None,
    tick: Callable[[], None] = lambda: None,
    interruption: Interruption | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Outcome:
    """Runs ``command`` in a session of its own until it ends; its output goes to ``output``, else to ours.

    ``tick`` is called several times a second. SIGINT, SIGTERM and SIGHUP to this process end everything that
    the command has started and raise InterruptError; with a gentle ``interruption`` the first one asks the
    program to end, whose id is in ``pid_file``, and the recorder to finish. ``say`` takes sentences for the
    user who waits.
    """
    mark = f"{os.getpid()}-{uuid.uuid4().hex}"
    with interruptible() if interruption is None else nullcontext(interruption) as heard:
        process = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            stdout=output,
            stderr=output,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        program_file = watch.pid_file if watch else pid_file
        program = None if program_file is None else RecordedProgram(program_file, recorder=process.pid)
        supervisor = _Supervisor(process, mark, watch, program, heard, say)
        try:
            outcome = supervisor.wait(tick)
        except BaseException:
            _end(process, mark)
            raise
        if outcome.outlived:
            _end(process, mark)
        elif watch is not None:
            _end_daemons(mark, watch.name)
        return outcome


class _Supervisor:
    """Waits for a process, and for the program it records where there is one."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        mark: str,
        watch: Watch | None,
        program: RecordedProgram | None,
        interruption: Interruption,
        say: Callable[[str], None],
    ) -> None:
        self._process, self._mark, self._watch, self._program = process, mark, watch, program
        self._interruption, self._say = interruption, say
        self._started = self._changed = time.monotonic()
        self._size = -1
        self._asked_until: float | None = None
        self._killed = self._reminded = self._died = self._told = False

    def wait(self, tick: Callable[[], None]) -> Outcome:
        while True:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_POLL_S)
                if not self._program_goes_on():
                    break
                time.sleep(_POLL_S)
            tick()
            self._end_gently()
            if not self._died and self._is_stuck() and (self._reminded or not self._remind()):
                return Outcome(0, outlived=True, killed=self._killed)
        code = self._process.returncode
        return Outcome(
            128 - code if code < 0 else code,
            reminded=self._reminded,
            died=self._died,
            killed=self._killed,
            left=self._left() if self._watch is None and self._program is not None else (),
        )

    def _left(self) -> tuple[str, ...]:
        """What still runs when the program has ended, and goes on running."""
        deadline = time.monotonic() + _LEAVING_S
        while (left := self._others()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return tuple(_command(pid) for pid in left)

    def _program_goes_on(self) -> bool:
        """After the recorder has ended: whether the program has not."""
        if self._watch is None or self._program is None or not self._program.lives(self._mark):
            return False
        if not self._died:
            self._died = True
            self._say(
                f"{self._watch.name} ended before the program, which goes on: its attention calls are"
                " recorded, its kernels are not; Ctrl-C ends it"
            )
        return True

    def _end_gently(self) -> None:
        number = self._interruption.number
        if number is None or self._program is None:
            return
        now = time.monotonic()
        if self._asked_until is None:
            if not self._program.begun:
                raise InterruptError(number, f"by {number.name} before the program had begun")
            self._asked_until = now + _LISTEN_S[number]
            self._changed = now
            self._program.ask(number)
            self._say(f"{number.name}: ending the program and keeping what was captured; again to give it up")
        elif now > self._asked_until and not self._killed and self._program.kill():
            self._killed = True
            self._say(f"the program did not end within {_LISTEN_S[number]:.0f} s and was killed")

    def _is_stuck(self) -> bool:
        watch, program, now = self._watch, self._program, time.monotonic()
        if watch is None or program is None:
            return False
        if not program.begun:
            return now - self._started > 2 * watch.grace_s
        size = sum(_total_size(path) for path in watch.growing)
        if not program.ended or size != self._size:
            self._size, self._changed = size, now
            return False
        limits = [watch.grace_s, _QUICK_S + program.lived_s]
        if self._asked_until is not None:
            limits.append(_TIDY_S)
        elif now - self._changed > min(*limits, _LEFT_S) and (left := self._others()):
            self._tell_of(left, watch.name)
            self._changed = now
        return now - self._changed > min(limits)

    def _tell_of(self, left: list[int], name: str) -> None:
        if not self._told:
            self._told = True
            shown = ", ".join(f"{pid} ({_command(pid)})" for pid in left[:3])
            self._say(
                f"the program has ended; {name} waits for what it left behind: {shown};"
                " Ctrl-C ends the waiting and keeps what was captured"
            )

    def _others(self) -> list[int]:
        """Processes of the capture that are not the recorder's."""
        name = self._watch.name if self._watch else None
        found = [pid for pid in _marked(self._mark) if pid != self._process.pid]
        return [pid for pid in found if name is None or name not in _executable(pid)]

    def _remind(self) -> bool:
        """Asks a recorder that missed the end of its program to stop: it may write its report yet."""
        if self._program is None or not self._program.begun:
            return False
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        self._reminded, self._changed = True, time.monotonic()
        return True


def _executable(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name
    return ""


def _command(pid: int) -> str:
    """What a process is called, for people."""
    line = command_line(pid)
    return f"a fork of the program, {pid}" if CHILD_MODULE in line else line[:60]


def _total_size(path: Path) -> int:
    """A number that changes as a recorder goes on writing."""
    with suppress(OSError):
        if path.is_dir():
            return sum(_total_size(child) for child in path.iterdir())
        return path.stat().st_size // (1 if path.suffix == ".log" else _GRAIN)
    return 0


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Ends the process, its session and every other process that carries the mark."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        for pid in _marked(mark):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        deadline = time.monotonic() + _TERM_S
        while time.monotonic() < deadline:
            if process.poll() is not None and not any(_marked(mark)):
                return
            time.sleep(0.05)


def _end_daemons(mark: str, name: str) -> None:
    """Ends what a recorder leaves behind when it fails early; else its daemons end by themselves."""
    deadline = time.monotonic() + _TERM_S
    while left := [pid for pid in _marked(mark) if name in _executable(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def _marked(mark: str) -> Iterator[int]:
    """The processes of a capture: recorders start daemons outside the session."""
    return carrying(f"{MARK}={mark}")
