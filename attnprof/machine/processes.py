"""The living processes of this machine, as /proc shows them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def process_ids() -> Iterator[int]:
    """The ids of all processes, this one's among them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            yield int(entry.name)


def carrying(variable: str) -> Iterator[int]:
    """Processes with this NAME=VALUE in their environment, but this one."""
    wanted = variable.encode()
    for pid in process_ids():
        if pid != os.getpid():
            with suppress(OSError):
                if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    yield pid


def command_line(pid: int) -> str:
    """A process's command, separated by spaces; "" where it has gone."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode(errors="replace").strip()
    return ""
