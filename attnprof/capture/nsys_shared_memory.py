"""The shared memory through which nsys's processes agree: one that was killed can leave it locked.

Seen with nsys 2022.4.2: /dev/shm/NSys-2022.4.2.1 outlives an agent that gets SIGKILL, with a lock that no
process holds; every later recording waits for it for 10 s and ends with "Agent launcher failed".
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from attnprof.machine.find_nsys import nsys_version
from attnprof.machine.processes import process_ids

SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class SharedState:
    """``path``: the memory's file. ``holders``: ids of the living processes that use it, as far as seen."""

    path: Path
    holders: tuple[int, ...]


def shared_state(nsys: Path) -> SharedState | None:
    """What nsys of this version shares on this machine; None where there is nothing."""
    version = nsys_version(nsys)
    path = SHARED / f"NSys-{version.partition('-')[0]}" if version else None
    if path is None or not path.exists():
        return None
    return SharedState(path, tuple(_holders(path)))


def remove_abandoned(nsys: Path) -> str | None:
    """Removes shared memory that no process uses any more; returns what was done, if anything was."""
    state = shared_state(nsys)
    if state is None or state.holders:
        return None
    with suppress(OSError):
        state.path.unlink()
        return f"{state.path}, left locked by an nsys that was killed, was in the way and was removed"
    return None


def _holders(path: Path) -> list[int]:
    """Processes that have the file mapped, and any nsys whose memory may not be looked at."""
    found = []
    for pid in process_ids():
        with suppress(OSError):
            try:
                holds = str(path).encode() in Path(f"/proc/{pid}/maps").read_bytes()
            except PermissionError:
                holds = Path(f"/proc/{pid}/comm").read_bytes().startswith(b"nsys")
            if holds:
                found.append(pid)
    return sorted(found)
