"""Processes of a program that compute attention and did not record themselves: seen, and said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attnprof.capture import own_recordings
from attnprof.machine.processes import command_line
from attnprof.workloads.child import PID_FILE
from attnprof.workloads.spec import keeping_out

_EVERY_S = 1.0
_SHOWN = 60  # characters of a command line


class OtherProcesses:
    """The descendants of a recorded program that load torch by themselves and leave nothing in ``folder``.

    A fork shares its parent's command line and is not one of them: the program's own journal counts those.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._pid_file = folder, folder / PID_FILE
        self._looked = 0.0
        self._found: dict[int, str] = {}

    def look(self) -> None:
        """To be called often; looks once a second."""
        now = time.monotonic()
        if now - self._looked < _EVERY_S:
            return
        self._looked = now
        with suppress(OSError, ValueError):
            program = int(self._pid_file.read_text())
            for pid, parent in _descendants(program):
                command = _command(pid)
                if pid not in self._found and command != _command(parent) and _has_torch(pid):
                    self._found[pid] = command

    def told(self) -> list[str]:
        """A sentence about them, if there are any."""
        recorded = own_recordings.pids(self._folder)
        found = [command for pid, command in self._found.items() if pid not in recorded]
        if not found:
            return []
        shown = found[0]
        noun = "another process" if len(found) == 1 else f"{len(found)} other processes"
        flag = keeping_out(shown.split()[1:])
        why = f", since {flag} keeps attnprof out" if flag else ""
        return [
            f"{noun} of the program loaded torch ({shown}): attention calls there could not be recorded{why}"
        ]


def _descendants(pid: int) -> Iterator[tuple[int, int]]:
    """(process, its parent) of all children and theirs."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                yield int(child), pid
                with suppress(OSError):
                    yield from _descendants(int(child))


def _command(pid: int) -> str:
    line = command_line(pid)
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _has_torch(pid: int) -> bool:
    with suppress(OSError):
        return b"libtorch" in Path(f"/proc/{pid}/maps").read_bytes()
    return False
