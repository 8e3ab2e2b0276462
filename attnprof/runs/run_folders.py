"""Run folders: where they are, what stands in them, and finding one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from attnprof.errors import RunError
from attnprof.files import durable
from attnprof.files.untrusted import read_json
from attnprof.machine.configuration import setting
from attnprof.runs import folder_lock, unfinished_folders
from attnprof.runs.schema import SCHEMA, read_config, upgraded
from attnprof.safety.printable import all_printable

RUN_JSON = "run.json"
CALLS_JSONL = "calls.jsonl"
TRACE_NPZ = "trace.npz"
TRACE_SQLITE = "trace.sqlite"
DATABASE = "attnprof.db"
_TRIES = 20  # to remove a folder: a reader may be writing attnprof.db in it
_NOT_READABLE = ("running", "incomplete", "discarded", "unreadable")


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run on disk. ``config`` is its run.json, or what is known of one that is not finished.

    ``status`` is the run's own ("complete", "failed", "interrupted"), or "running" where it is being made,
    "incomplete" where a command was killed, "discarded" where a replaced or removed run is not all gone,
    "unreadable" where run.json is damaged or a newer attnprof's. ``schema`` is the one on the disk.
    """

    folder: Path
    status: str
    config: dict[str, Any]
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def readable(self) -> bool:
        """Whether it is a finished run that this attnprof can open."""
        return self.status not in _NOT_READABLE


def now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a final newline."""
    text = json.dumps(all_printable(value), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes a run folder's run.json: the old one or the new one stands there, whatever happens."""
    unnamed = folder / f".{RUN_JSON}.{os.getpid()}.part"
    try:
        write_json(unnamed, config)
        durable.sync_entry(unnamed)
        unnamed.replace(folder / RUN_JSON)
    finally:
        unnamed.unlink(missing_ok=True)
    durable.sync_entry(folder)


def runs_root() -> Path:
    """The folder that holds the runs, as configured; else attnprof-runs in the current folder."""
    known = setting("runs")
    return Path(known.value if known else "attnprof-runs")


def run_folder(name: str) -> Path:
    """The folder of a run given by name, or by path where it has a separator."""
    return Path(name) if os.sep in name else runs_root() / name


def is_run(folder: Path) -> bool:
    """Whether a folder is a finished run, of whatever version and however damaged."""
    if folder.is_symlink() or not (folder / RUN_JSON).exists():
        return False
    with suppress(OSError, ValueError):
        found = read_json(folder / RUN_JSON)
        return isinstance(found, dict) and {"schema", "status"} <= found.keys()
    return (folder / TRACE_NPZ).exists()


def remove_run(folder: Path) -> None:
    """Removes a finished run. It loses its name first: no half of it ever stands under it.

    Raises RunError for a folder that is no run, or that cannot be removed.
    """
    if not is_run(folder):
        raise RunError(f"{folder} is no attnprof run: it is not removed", hint="attnprof runs lists the runs")
    try:
        with durable.undisturbed():
            with folder_lock.held(folder.parent):
                aside = folder.rename(unfinished_folders.new_folder(folder))
            delete(aside)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be removed: {error.strerror}", hint="check its permissions"
        ) from error
    require_gone(aside)


def require_gone(folder: Path) -> None:
    """Raises RunError where ``delete`` could not remove all."""
    if folder.exists():
        raise RunError(
            f"not all of {folder} could be removed", hint="check the permissions of what is left there"
        )


def delete(folder: Path) -> None:
    """Removes what it can, run.json last: as long as it stands, the rest is not taken for a run to resume."""
    if not folder.is_dir() or folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.name != RUN_JSON:
                delete(entry)
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.001)


def read_run(folder: Path) -> RunEntry:
    """The run in ``folder``. Raises RunError where there is none, or one from a newer attnprof."""
    path = folder / RUN_JSON
    try:
        config = read_config(path)
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} is no attnprof run: it has no {RUN_JSON}", hint="attnprof runs lists the runs"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="record the run again") from error
    schema = config["schema"]
    if schema > SCHEMA:
        raise RunError(
            f"{folder} was written by a newer attnprof, {config.get('attnprof', 'version unknown')}"
            f" (schema {schema}, this one reads up to {SCHEMA})",
            hint="upgrade attnprof to read it; -o NAME keeps it beside a run made by this one",
        )
    return RunEntry(folder, config["status"], upgraded(config), schema)


def list_runs() -> list[RunEntry]:
    """Every run under the runs folder, newest first; also those being made and what killed commands left.

    Raises RunError where the folder cannot be read.
    """
    root, found = runs_root(), []
    try:
        with folder_lock.held(root, fcntl.LOCK_SH, wait_s=1.0):
            for folder in root.iterdir():
                with suppress(FileNotFoundError):  # renamed or removed since
                    found.append((folder.lstat().st_mtime_ns, _entry(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(
            f"{root} cannot be read: {error.strerror}", hint="ATTNPROF_RUNS names another folder"
        ) from error
    ordered = sorted(found, key=lambda dated: dated[0], reverse=True)
    return [entry for _, entry in ordered if entry is not None]


def _entry(folder: Path) -> RunEntry | None:
    try:
        return _readable_entry(folder)
    except FileNotFoundError:
        raise
    except OSError as error:  # somebody else's: it hides no other
        return RunEntry(folder, "unreadable", {"error": f"{folder} cannot be read: {error.strerror}"})


def _readable_entry(folder: Path) -> RunEntry | None:
    finished = (folder / RUN_JSON).exists()
    if unfinished_folders.intended_name(folder) is not None:
        return RunEntry(folder, unfinished_folders.state(folder, finished), unfinished_folders.notes(folder))
    if not finished:
        return None
    try:
        return read_run(folder)
    except RunError as error:
        return RunEntry(folder, "unreadable", {"error": error.message})


def ending(status: str, config: dict[str, Any]) -> str:
    """How a run ended: its status, with where it was interrupted or why it failed."""
    said = (config.get("capture") or {}).get("interrupted") if status == "interrupted" else None
    error = (config.get("workload") or {}).get("error") if status == "failed" else None
    return str(said or (f"failed: {error}" if error else status))


def find_run(name: str | None) -> RunEntry:
    """The run called ``name``, or the newest. Raises RunError naming the runs there are."""
    if name is not None:
        folder = run_folder(name)
        if not folder.is_dir() and Path(name).is_dir():
            folder = Path(name)
        if not folder.exists():
            raise _no_run(name)
        return read_run(folder)
    for entry in list_runs():
        if entry.readable:
            return entry
    raise RunError(
        f"there is no run in {runs_root()} yet", hint="make one: attnprof run --max-new-tokens 512"
    )


def _no_run(name: str) -> RunError:
    entries = list_runs()
    for entry in entries:
        if unfinished_folders.intended_name(entry.folder) == name:
            what = "is still being made" if entry.status == "running" else f"is {entry.status}"
            return RunError(f"the run {name} {what}: {entry.folder}", hint="attnprof runs says what to do")
    known = ", ".join([entry.name for entry in entries if entry.readable][:5])
    return RunError(
        f"no run or trace called {name}" + (f"; runs here: {known}" if known else ""),
        hint="attnprof runs lists the runs; attnprof run --max-new-tokens 512 makes one",
    )
