"""Runs a recorder and what it records, watches both, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from attnprof.errors import CaptureError

MARK = "ATTNPROF_CAPTURE"  # in the environment of every process of a capture, to find them by
_POLL_S = 0.1
_TERM_S = 3.0


@dataclass(frozen=True)
class Outcome:
    """``exit_code`` as a shell gives it (128 + signal); ``outlived``: the recorder had to be ended."""

    exit_code: int
    outlived: bool = False


@dataclass(frozen=True)
class Watch:
    """How a recorder is known to be stuck: for ``grace_s`` seconds after its program (``pid_file``) has ended
    no file of ``growing`` has grown and no process but its own, whose names hold ``name``, is left; or the
    program has not begun after twice that time."""

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
    tick: Callable[[], None] = lambda: None,
) -> Outcome:
    """Runs ``command`` in a session of its own until it ends; its output goes to ``output``, else to ours.

    ``tick`` is called several times a second. SIGINT, SIGTERM and SIGHUP to this process end everything that
    the command has started and raise CaptureError with exit code 128 + signal.
    """
    mark = f"{os.getpid()}-{uuid.uuid4().hex}"
    with _interruptible():
        process = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            stdout=output,
            stderr=output,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        try:
            outlived = _wait(process, watch, mark, tick)
        except BaseException:
            _end(process, mark)
            raise
        if outlived:
            _end(process, mark)
            return Outcome(exit_code=0, outlived=True)
        if watch is not None:
            _end_daemons(mark, watch.name)
        code = process.returncode
        return Outcome(128 - code if code < 0 else code)


def _wait(process: subprocess.Popen[bytes], watch: Watch | None, mark: str, tick: Callable[[], None]) -> bool:
    """Until the process ends: False, or is stuck: True."""
    started = changed = time.monotonic()
    sizes = -1
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return False
        tick()
        now = time.monotonic()
        if watch is None:
            continue
        if not watch.pid_file.exists():
            if now - started > 2 * watch.grace_s:
                return True
            continue
        size = sum(_total_size(path) for path in watch.growing)
        if not _program_ended(watch.pid_file) or size != sizes:
            sizes, changed = size, now
        elif now - changed > watch.grace_s:
            if all(pid == process.pid or watch.name in _executable(pid) for pid in _marked(mark)):
                return True
            changed = now  # the program has left others behind, which the recorder waits for


def _program_ended(pid_file: Path) -> bool:
    try:
        pid = int(pid_file.read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return pid_file.exists() and pid_file.stat().st_size > 0
    except ValueError:  # the file is there and still empty
        return False
    return state in "ZX"


def _executable(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name
    return ""


def _total_size(path: Path) -> int:
    with suppress(OSError):
        if path.is_dir():
            return sum(_total_size(child) for child in path.iterdir())
        return path.stat().st_size
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
    """Living processes with the mark in their environment: recorders start daemons outside the session."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Signals that end a program raise CaptureError inside the block; only the main thread can hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not stop the tidying up
        name = signal.Signals(number).name
        raise CaptureError(f"interrupted by {name}: nothing was kept", exit_code=128 + number)

    heard = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
