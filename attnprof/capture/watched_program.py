"""The recorded program as its recorder's parent sees it: by its process id, in /proc."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


class RecordedProgram:
    """A process that wrote its id to ``pid_file``; ``recorder`` is the id of the one that started it, or its
    own where there is no recorder between."""

    def __init__(self, pid_file: Path, *, recorder: int) -> None:
        self._file, self._recorder = pid_file, recorder
        self._pid: int | None = None
        self._group: int | None = None
        self._seen = 0.0
        self._ended_at: float | None = None

    @property
    def begun(self) -> bool:
        """Whether it has begun; its id is known from then on."""
        if self._pid is None:
            with suppress(FileNotFoundError, ValueError):  # ValueError: the file is there and still empty
                self._pid = int(self._file.read_text())
                self._seen = time.monotonic()
                with suppress(ProcessLookupError):
                    self._group = os.getpgid(self._pid)
        return self._pid is not None

    @property
    def ended(self) -> bool:
        """Whether it has begun and ended."""
        if self.begun and self._ended_at is None and _state(self._pid) in "ZX":
            self._ended_at = time.monotonic()
        return self._ended_at is not None

    @property
    def lived_s(self) -> float:
        """Seconds that it was seen alive; 0 where it has not ended."""
        return 0.0 if self._ended_at is None else self._ended_at - self._seen

    def lives(self, mark: str) -> bool:
        """Whether it has begun and not ended, and is no other process that got its id."""
        if not self.begun or self.ended:
            return False
        with suppress(OSError):
            return mark.encode() in Path(f"/proc/{self._pid}/environ").read_bytes()
        return False

    def ask(self, number: signal.Signals) -> None:
        """Asks it to end: SIGINT as a terminal sends it, to its group; else what it is prepared for."""
        if self._pid is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGINT and self._has_own_group():
                assert self._group is not None
                os.killpg(self._group, number)
            elif _catches(self._pid, number) or not _catches(self._pid, signal.SIGINT):
                os.kill(self._pid, number)
            else:  # Python ends by SIGINT with all its handlers, by SIGTERM without any
                os.kill(self._pid, signal.SIGINT)

    def kill(self) -> bool:
        """Kills it and its group; whether there was anything to kill."""
        killed = False
        with suppress(ProcessLookupError, PermissionError):
            if self._has_own_group():
                assert self._group is not None
                os.killpg(self._group, signal.SIGKILL)
                killed = True
            elif self._pid is not None and not self.ended:
                os.kill(self._pid, signal.SIGKILL)
                killed = True
        return killed

    def _has_own_group(self) -> bool:
        """Whether its group holds no recorder."""
        return self._group is not None and (self._group != self._recorder or self._pid == self._recorder)


def _state(pid: int | None) -> str:
    """The state as in /proc/PID/stat; "X" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _catches(pid: int, number: int) -> bool:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
        return bool(int(caught, 16) >> (number - 1) & 1)
    return False
