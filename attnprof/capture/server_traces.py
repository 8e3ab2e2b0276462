"""Where a server on this machine writes its profiler's traces, and which of them are new and whole."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"  # /proc/net/tcp's state
_ENDINGS = (".json", ".json.gz")
_SETTLED_S = 1.0  # a trace that did not grow for so long is whole
_OPTION = "--profiler-config"
_VARIABLES = ("VLLM_TORCH_PROFILER_DIR", "SGLANG_TORCH_PROFILER_DIR")


def trace_folder(port: int) -> Path | None:
    """What the process that listens on a port was told to write its traces to; None where it does not say.

    By its command line or environment, as far as this user may read them; of these only the folder is read.
    """
    for pid in _listeners(port):
        with suppress(OSError):
            named = _of_arguments(_words(Path(f"/proc/{pid}/cmdline"))) or _of_environment(pid)
            if named is not None:
                cwd = Path(f"/proc/{pid}/cwd").resolve()
                return (cwd / Path(named).expanduser()).resolve()
    return None


def _words(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8", "replace").split("\0")


def _of_environment(pid: int) -> str | None:
    for entry in _words(Path(f"/proc/{pid}/environ")):
        name, _, value = entry.partition("=")
        if name in _VARIABLES and value:
            return value
    return None


def _of_arguments(words: list[str]) -> str | None:
    """The folder among a command line's --profiler-config, whole as JSON or one field of it."""
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not option.startswith(_OPTION):
            continue
        value = value if equals else next(iter(words[at + 1 : at + 2]), "")
        field = option.removeprefix(_OPTION).lstrip(".").replace("-", "_")
        if field == "torch_profiler_dir":
            return value
        if not field:
            with suppress(ValueError, AttributeError):
                found = json.loads(value).get("torch_profiler_dir")
                if isinstance(found, str):
                    return found
    return None


def _listeners(port: int) -> Iterator[int]:
    """The processes that listen on a TCP port."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").iterdir() if inodes else ():
        if process.name.isdecimal():
            with suppress(OSError):
                if any(_link(one) in inodes for one in (process / "fd").iterdir()):
                    yield int(process.name)


def _link(path: Path) -> str:
    with suppress(OSError):
        return str(path.readlink())
    return ""


def traces_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each trace with its size and when it was written."""
    found = {}
    with suppress(OSError):
        for path in folder.rglob("*.json*"):
            if path.name.endswith(_ENDINGS):
                with suppress(OSError):
                    stat = path.stat()
                    found[path] = stat.st_size, stat.st_mtime_ns
    return found


def wait_for_traces(folder: Path, before: dict[Path, tuple[int, int]], seconds: float) -> list[Path]:
    """The traces that were not there ``before``, when none of them grows any more; [] where none comes."""
    deadline = time.monotonic() + seconds
    last: dict[Path, tuple[int, int]] = {}
    while True:
        now = {path: stat for path, stat in traces_in(folder).items() if before.get(path) != stat}
        if now and now == last and all(size for size, _ in now.values()):
            return sorted(now)
        if time.monotonic() > deadline:
            return sorted(path for path, (size, _) in now.items() if size)
        last = now
        time.sleep(_SETTLED_S)
