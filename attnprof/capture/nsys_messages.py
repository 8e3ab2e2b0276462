"""What nsys's own output means: the cause in words, and what to do about it."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from attnprof.capture.nsys_shared_memory import SHARED, shared_state

_SHM_BYTES = 1 << 20  # of shared memory that nsys's agent needs


@dataclass(frozen=True)
class Explanation:
    """``cause``: what happened, one sentence. ``fix``: what to do about it."""

    cause: str
    fix: str


_INSTALLATION = "attnprof doctor examines the installation; --capture none records calls without nsys"
_KNOWN = (  # as nsys 2022.4.2 says it
    (
        r"interprocess_exception(?s:.){0,2000}(Read-only file system|Permission denied)",
        "nsys needs shared memory, and /dev/shm cannot be written",
        "make /dev/shm writable (docker run --read-only needs --tmpfs /dev/shm too)",
    ),
    (
        r"Network is unreachable",
        "nsys's processes talk over the loopback interface, and there is none here",
        "ip link set lo up, or a container with a network; --capture none records calls without nsys",
    ),
    (
        r"Failed to create '(?P<path>[^']*)': No space left on device|No space left on device|disk is full",
        "no space was left on the disk{path}",
        "make room; ATTNPROF_RUNS names another folder for runs, TMPDIR one for nsys's temporary files",
    ),
    (
        r"Qdstrm file is incomplete or invalid",
        "nsys ended before its stream of events was whole, and no nsys reads such a stream",
        "run it again, and let nsys end by itself",
    ),
    (
        r"Connection to the Agent lost",
        "nsys lost the agent that records: that process was killed or ran out of memory",
        "run it again; dmesg tells whether the system was out of memory",
    ),
)  # fmt: skip


def explain(log: Path, nsys: Path | None = None) -> Explanation:
    """What the output in ``log``, of the program ``nsys``, says."""
    text = _text(log)
    for pattern, cause, fix in _KNOWN:
        if found := re.search(pattern, text):
            path = found.groupdict().get("path") if "{path}" in cause else None
            return Explanation(cause.replace("{path}", f" for {path}" if path else ""), fix)
    if has_no_agent(log):
        return _no_agent(nsys)
    return Explanation(last_words(log), _INSTALLATION)


def has_no_agent(log: Path) -> bool:
    """Whether nsys says that the agent which records did not start."""
    return "Agent launcher failed" in _text(log)


def refused_option(log: Path) -> str | None:
    """What nsys says of an option that it does not know."""
    found = re.search(r"unrecogni[sz]ed option[^\n]*", _text(log))
    return found.group() if found else None


def last_words(log: Path) -> str:
    """The last line of nsys's output that is no progress bar and no part of its internals."""
    lines = [line.strip() for line in _text(log).replace("\r", "\n").splitlines()]
    said = [line for line in lines if line and "%]" not in line and "% ]" not in line]
    return " ".join((said or ["it said nothing"])[-1].rpartition("*] = ")[2].split())[:300]


def _no_agent(nsys: Path | None) -> Explanation:
    with suppress(OSError):
        free = shutil.disk_usage(SHARED).free
        if free < _SHM_BYTES:
            return Explanation(
                f"nsys's agent did not start: {SHARED} has {free // 1024} kB free and nsys needs more",
                f"make {SHARED} larger (docker run --shm-size=64m)",
            )
        state = shared_state(nsys) if nsys else None
        if state is not None and state.holders:
            pids = ", ".join(map(str, state.holders[:5]))
            return Explanation(
                f"nsys's agent did not start: another nsys holds {state.path} and does not answer",
                f"end the processes that use it, if they are stopped or hang: {pids}",
            )
        if state is not None:
            return Explanation(
                f"nsys's agent did not start: {state.path} was left locked by another user's nsys",
                f"let its owner (user {state.path.stat().st_uid}) or root remove it",
            )
    return Explanation(
        f"nsys's agent did not start: it needs folders that it may write in TMPDIR and {SHARED}",
        _INSTALLATION,
    )


def _text(log: Path) -> str:
    with suppress(OSError):
        return log.read_text(errors="replace")
    return ""
