"""Folders of runs that are not finished: how they are named, who writes them, what is known of them.

Such a folder is ``.NAME.partial-PID-RANDOM`` beside the run's final name. Its ``building.jsonl`` is locked by
the process that writes the folder for as long as it lives, and says what is being made.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from attnprof.files.untrusted import parse_json, read_whole, require_shape
from attnprof.runs import folder_lock
from attnprof.runs.schema import SHAPE

BUILDING = "building.jsonl"
_NAME = re.compile(r"\.(?P<name>.+)\.(?:partial|replaced)-(?P<builder>[\w-]+)")
_NOTES = {
    "pid": int, "host": str, "began": str, "force": bool, "config": SHAPE, "source": str, "nsys": str,
    "recorded": {"config": SHAPE, "status": str, "trace": str},
}  # fmt: skip
_WAIT_S = 1.0  # for one who only looks whether the lock is free

State = Literal["running", "incomplete", "discarded"]


def new_folder(final: Path) -> Path:
    """A name nobody has used for a folder that will become ``final``."""
    return final.with_name(f".{final.name}.partial-{os.getpid()}-{os.urandom(3).hex()}")


def intended_name(folder: Path) -> str | None:
    """The name that the run in an unfinished folder is for; None where the folder is not one."""
    match = _NAME.fullmatch(folder.name)
    return match["name"] if match else None


def folders(root: Path) -> Iterator[Path]:
    """The unfinished folders under ``root``."""
    for folder in root.iterdir() if root.is_dir() else ():
        if intended_name(folder) is not None and folder.is_dir():
            yield folder


def claim(folder: Path, *, begin: bool = False) -> int | None:
    """The descriptor that holds the lock of an unfinished folder; None where a living process has it.

    ``begin`` makes its building.jsonl; a folder without one is locked itself.
    """
    if begin:
        descriptor = os.open(folder / BUILDING, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    elif is_running(folder):
        return None
    elif (folder / BUILDING).exists():
        descriptor = os.open(folder / BUILDING, os.O_RDWR | os.O_APPEND)
    else:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    if folder_lock.lock(descriptor, fcntl.LOCK_EX, wait_s=_WAIT_S):
        return descriptor
    os.close(descriptor)
    return None


def note(descriptor: int, **facts: Any) -> None:
    """Adds a line to building.jsonl; one cut by a kill is ignored."""
    line = (json.dumps(facts) + "\n").encode()
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def notes(folder: Path) -> dict[str, Any]:
    """What is known of an unfinished folder: the facts of all lines of its building.jsonl."""
    known: dict[str, Any] = {}
    with suppress(OSError):
        for line in read_whole(folder / BUILDING).splitlines():
            with suppress(ValueError, TypeError):
                facts = parse_json(line)
                require_shape(facts, _NOTES, BUILDING)
                known |= facts
    return known


def me() -> dict[str, Any]:
    """Who writes, for people, and for file systems without locks."""
    return {"pid": os.getpid(), "host": os.uname().nodename}


def is_running(folder: Path) -> bool:
    """Whether a living process is writing the folder."""
    try:
        descriptor = os.open(folder / BUILDING, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return _of_older_version(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        known = notes(folder)
        return known.get("host") == os.uname().nodename and _is_attnprof(str(known.get("pid")))
    finally:
        os.close(descriptor)
    return False


def state(folder: Path, finished: bool) -> State:
    """``finished``: run.json stands in the folder. "discarded": a run that was replaced or removed."""
    if is_running(folder):
        return "running"
    return "discarded" if finished and not (folder / BUILDING).exists() else "incomplete"


def _of_older_version(folder: Path) -> bool:
    """Before building.jsonl, the name ended with the process's id alone."""
    match = _NAME.fullmatch(folder.name)
    return bool(match and match["builder"].isdecimal() and _is_attnprof(match["builder"]))


def _is_attnprof(pid: str) -> bool:
    with suppress(OSError):
        return b"attnprof" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
