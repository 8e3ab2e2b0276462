"""Processes beside the recorded one that may compute attention: seen, not recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attnprof.machine.processes import command_line

_EVERY_S = 1.0
_SHOWN = 60  # characters of a command line


class OtherProcesses:
    """The descendants of a recorded program that load torch by themselves.

    A fork shares its parent's command line and is not one of them: the program's own journal counts those.
    """

    def __init__(self, pid_file: Path) -> None:
        self._pid_file = pid_file
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
        if not self._found:
            return []
        count, shown = len(self._found), next(iter(self._found.values()))
        noun = "another process" if count == 1 else f"{count} other processes"
        instead = "put attnprof run in front of that command instead"
        if "multiprocessing" in shown:
            instead = "those of the program's own process and its threads are"
        return [
            f"{noun} of the program loaded torch ({shown}): attention calls there are not recorded; {instead}"
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
