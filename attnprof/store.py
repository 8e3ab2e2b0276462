"""Run folders: where they are, how one comes to be, and what stands in it.

A folder is built under a hidden partial name beside its final one and renamed when it is whole, so a killed
run never stands under a final name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from attnprof.config import setting
from attnprof.errors import RunError

SCHEMA = 1
RUN_JSON = "run.json"
CALLS_JSONL = "calls.jsonl"
TRACE_NPZ = "trace.npz"
TRACE_SQLITE = "trace.sqlite"
DATABASE = "attnprof.db"
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run on disk. ``status`` is "complete", "failed" or "incomplete"; ``config`` is its run.json."""

    folder: Path
    status: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name


class RunBuilder:
    """A run folder that is being filled; ``folder`` is its partial name, ``final`` its final one."""

    def __init__(self, folder: Path, final: Path, *, force: bool) -> None:
        self.folder, self.final, self._force = folder, final, force
        self.finished = False

    def finish(self, config: dict[str, Any]) -> Path:
        """Writes run.json and moves the folder to its final name, which is returned."""
        config = {"schema": SCHEMA, "name": self.final.name, "created": now(), **config}
        write_json(self.folder / RUN_JSON, config)
        if self.final.exists():
            _refuse_unless_forced(self.final, self._force)
            aside = self.final.with_name(f".{self.final.name}.replaced-{os.getpid()}")
            self.final.rename(aside)
            self.folder.rename(self.final)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            self.folder.rename(self.final)
        self.finished = True
        return self.final


def now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def runs_root() -> Path:
    """The folder that holds the runs, as configured; else attnprof-runs in the current folder."""
    known = setting("runs")
    return Path(known.value if known else "attnprof-runs")


def run_folder(name: str) -> Path:
    """The folder of a run given by name, or by path where it has a separator."""
    return Path(name) if os.sep in name else runs_root() / name


def _refuse_unless_forced(folder: Path, force: bool) -> None:
    if not force:
        raise RunError(
            f"{folder} exists already",
            hint="give another name with -o NAME, or replace it with --force-overwrite",
        )
    if (
        folder.is_symlink()
        or not folder.is_dir()
        or (any(folder.iterdir()) and not (folder / RUN_JSON).exists())
    ):
        raise RunError(
            f"{folder} exists and is not an attnprof run: it is not overwritten",
            hint="give another name with -o NAME",
        )


def unused_name(stem: str) -> str:
    """``stem``, or ``stem-2``, ``stem-3``, … where runs of that name exist."""
    name, count = stem, 1
    while run_folder(name).exists():
        count += 1
        name = f"{stem}-{count}"
    return name


@contextmanager
def new_run(name: str, *, force: bool = False) -> Iterator[RunBuilder]:
    """A folder to fill and ``finish``; removed again where the block raises or never finishes it.

    Raises RunError where ``name`` is taken and ``force`` is off, or the folder cannot be made.
    """
    final = run_folder(name)
    if not name or final.name.startswith("."):
        raise RunError(f"{name!r} is no name for a run", hint="give a name such as -o my-run")
    if final.exists() or final.is_symlink():
        _refuse_unless_forced(final, force)
    partial = final.with_name(f".{final.name}{_PARTIAL}{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise RunError(
            f"cannot make {partial}: {error.strerror}", hint="set ATTNPROF_RUNS to a writable folder"
        ) from error
    builder = RunBuilder(partial, final, force=force)
    try:
        yield builder
    finally:
        if not builder.finished:
            shutil.rmtree(partial, ignore_errors=True)


def read_run(folder: Path) -> RunEntry:
    """The run in ``folder``. Raises RunError where there is none, or one from a newer attnprof."""
    path = folder / RUN_JSON
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        schema, status = int(config["schema"]), str(config["status"])
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} is no attnprof run: it has no {RUN_JSON}", hint="attnprof runs lists the runs"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="record the run again") from error
    if schema > SCHEMA:
        raise RunError(
            f"{folder} was written by a newer attnprof (schema {schema}, this one reads {SCHEMA})",
            hint="upgrade attnprof",
        )
    return RunEntry(folder, status, config)


def list_runs() -> list[RunEntry]:
    """Every run under the runs folder, newest first; the partial folders of killed runs as "incomplete"."""
    entries = []
    root = runs_root()
    for folder in root.iterdir() if root.is_dir() else ():
        if _PARTIAL in folder.name:
            entries.append(RunEntry(folder, "incomplete", {}))
        elif (folder / RUN_JSON).exists():
            try:
                entries.append(read_run(folder))
            except RunError as error:
                entries.append(RunEntry(folder, "unreadable", {"error": error.message}))
    return sorted(entries, key=lambda entry: entry.folder.stat().st_mtime_ns, reverse=True)


def find_run(name: str | None) -> RunEntry:
    """The run called ``name``, or the newest. Raises RunError naming the runs there are."""
    if name is not None:
        folder = run_folder(name)
        if not folder.is_dir() and Path(name).is_dir():
            folder = Path(name)
        if not folder.exists():
            known = ", ".join(entry.name for entry in list_runs()[:5] if entry.config)
            raise RunError(
                f"no run or trace called {name}" + (f"; runs here: {known}" if known else ""),
                hint="attnprof runs lists the runs; attnprof run --max-new-tokens 512 makes one",
            )
        return read_run(folder)
    for entry in list_runs():
        if entry.status in ("complete", "failed"):
            return entry
    raise RunError(
        f"there is no run in {runs_root()} yet", hint="make one: attnprof run --max-new-tokens 512"
    )
