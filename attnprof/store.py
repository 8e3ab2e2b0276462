"""Run folders: where they are, how one comes to be, and what stands in it.

A folder is built under a hidden partial name beside its final one and renamed when it is whole, so a killed
run never stands under a final name.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

from attnprof import disk, partial
from attnprof.config import setting
from attnprof.errors import RunError
from attnprof.schema import SCHEMA, upgraded

RUN_JSON = "run.json"
CALLS_JSONL = "calls.jsonl"
TRACE_NPZ = "trace.npz"
TRACE_SQLITE = "trace.sqlite"
DATABASE = "attnprof.db"
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


class RunBuilder:
    """A run folder that is being filled; ``folder`` is its partial name, ``final`` the one it will have.

    ``kept``: the folder stays where it is when the run is not finished, to be resumed or removed.
    """

    def __init__(self, folder: Path, final: Path, *, lock: int, force: bool = False, kept: bool = False):
        self.folder, self.final, self.kept = folder, final, kept
        self.finished = False
        self._lock, self._force = lock, force

    @cached_property
    def heading(self) -> dict[str, Any]:
        """What run.json and attnprof.db begin with."""
        return {"schema": SCHEMA, "created": now()}

    def note(self, **facts: Any) -> None:
        """Leaves facts for the one who resumes this run, should it be killed."""
        partial.note(self._lock, **facts)

    def finish(self, config: dict[str, Any]) -> Path:
        """Writes run.json when all else is on the disk and moves the folder to its final name, returned."""
        disk.sync(self.folder)
        unnamed = self.folder / f"{RUN_JSON}.part"
        write_json(unnamed, {**self.heading, **config})
        disk.sync_entry(unnamed)
        unnamed.rename(self.folder / RUN_JSON)
        disk.sync_entry(self.folder)
        return self.publish()

    def publish(self) -> Path:
        """Gives the whole folder its final name: NAME, or NAME-2, … where somebody else took it meanwhile.

        A run that is replaced stands under the name until the new one does.
        """
        self.kept, root = True, self.final.parent
        with disk.undisturbed():
            try:
                with disk.held(root):
                    replaced = self._take_name()
                    (self.final / partial.BUILDING).unlink(missing_ok=True)
            except RunError as error:
                resume = f"attnprof runs --resume {self.folder.name}"
                raise RunError(error.message, hint=f"nothing is lost; another name: {resume}") from error
            self.finished = True
            disk.sync_entry(root)
            if replaced is not None:
                _delete(replaced)
        return self.final

    def _take_name(self) -> Path | None:
        """Renames the folder; returns where the run went that had the name and was replaced."""
        if self._force and _is_there(self.final):
            _refuse_unless_forced(self.final, force=True)
            if disk.exchange(self.folder, self.final):
                return self.folder
            aside = partial.new_folder(self.final)
            self.final.rename(aside)  # without an exchange there is a moment with no run of that name
            self.folder.rename(self.final)
            return aside
        if _is_there(self.final):
            self.final = _unused(self.final)
        self.folder.rename(self.final)
        return None

    def close(self) -> None:
        """Lets go of the folder; removes it where the run was neither finished nor kept."""
        with disk.undisturbed():
            if not (self.finished or self.kept):
                _delete(self.folder)
            os.close(self._lock)


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


def _is_there(folder: Path) -> bool:
    return folder.exists() or folder.is_symlink()


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


def refuse_taken(name: str, *, force: bool = False) -> None:
    """Raises RunError where a run called ``name`` could not be made: before any work for it is done."""
    _refuse_name(name)
    _refuse_taken(run_folder(name), force)


def _refuse_name(name: str) -> None:
    if not name or Path(name).name.startswith(".") or Path(name).name in ("", ".."):
        raise RunError(f"{name!r} is no name for a run", hint="give a name such as -o my-run")


def _refuse_taken(final: Path, force: bool) -> None:
    if _is_there(final):
        _refuse_unless_forced(final, force)
    for maker in _makers(final):
        if not (force and maker.get("force")):
            raise RunError(
                f"{final} is being made by process {maker.get('pid')} on {maker.get('host')}",
                hint="give another name with -o NAME, or wait until it has ended",
            )


def unused_name(stem: str) -> str:
    """``stem``, or ``stem-2``, ``stem-3``, … where runs of that name exist or are being made."""
    return _unused(run_folder(stem)).name


def _unused(folder: Path) -> Path:
    others = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(one for one in chain((folder,), others) if not (_is_there(one) or _makers(one)))


def _makers(final: Path) -> list[dict[str, Any]]:
    """What is known of the runs called ``final`` that are being made at this moment."""
    same = (f for f in partial.folders(final.parent) if partial.intended_name(f) == final.name)
    return [partial.notes(folder) for folder in same if partial.is_running(folder)]


@contextmanager
def new_run(
    name: str, *, force: bool = False, numbered: bool = False, known: dict[str, Any] | None = None
) -> Iterator[RunBuilder]:
    """A folder to fill and ``finish``; removed again where the block raises or never finishes it.

    The name is taken from now on: of several who ask for one name at once the first gets it, unless all of
    them ``force``, when the last to finish does. ``numbered`` makes it NAME-2, NAME-3, … where it is taken.
    ``known`` are facts for the one who resumes the run, should it be killed.
    Raises RunError where ``name`` is taken, the folder cannot be made, or the disk is full.
    """
    _refuse_name(name)
    builder = _begin(run_folder(name), force, numbered, known or {})
    try:
        with disk.writing(builder.folder, builder.final.parent):
            yield builder
    finally:
        builder.close()


def _begin(final: Path, force: bool, numbered: bool, known: dict[str, Any]) -> RunBuilder:
    root = final.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with disk.undisturbed(), disk.held(root):
            if numbered:
                final = _unused(final)
            else:
                _refuse_taken(final, force)
            with disk.writing(root):
                folder = partial.new_folder(final)
                folder.mkdir()
                return _claimed(folder, final, force, known)
    except OSError as error:
        raise RunError(
            f"cannot make a folder in {root}: {error.strerror}", hint="set ATTNPROF_RUNS to a writable folder"
        ) from error


def _claimed(folder: Path, final: Path, force: bool, known: dict[str, Any]) -> RunBuilder:
    try:
        lock = partial.claim(folder)
        assert lock is not None  # nobody else knows the folder
        partial.note(lock, **partial.me(), began=now(), force=force, **known)
    except OSError:
        _delete(folder)
        raise
    return RunBuilder(folder, final, lock=lock, force=force)


@contextmanager
def reopened(folder: Path) -> Iterator[RunBuilder]:
    """An unfinished folder to go on with; it stays where the block raises.

    Raises RunError where a living process is still writing it.
    """
    name = partial.intended_name(folder)
    assert name is not None
    lock = partial.claim(folder)
    if lock is None:
        raise RunError(f"{folder} is still being written", hint="wait until it has ended, or end it")
    builder = RunBuilder(folder, folder.with_name(name), lock=lock, kept=True)
    try:
        with disk.writing(folder, folder.parent):
            yield builder
    finally:
        builder.close()


def _delete(folder: Path) -> None:
    """Removes a folder, run.json last: as long as it stands, the rest is not taken for a run to resume."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.name != RUN_JSON:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def read_run(folder: Path) -> RunEntry:
    """The run in ``folder``. Raises RunError where there is none, or one from a newer attnprof."""
    path = folder / RUN_JSON
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        schema, status = int(config["schema"]), str(config["status"])
        if schema < 1:
            raise ValueError(f"there is no schema {schema}")
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} is no attnprof run: it has no {RUN_JSON}", hint="attnprof runs lists the runs"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="record the run again") from error
    if schema > SCHEMA:
        raise RunError(
            f"{folder} was written by a newer attnprof, {config.get('attnprof', 'version unknown')}"
            f" (schema {schema}, this one reads up to {SCHEMA})",
            hint="upgrade attnprof to read it; -o NAME keeps it beside a run made by this one",
        )
    return RunEntry(folder, status, upgraded(config), schema)


def list_runs() -> list[RunEntry]:
    """Every run under the runs folder, newest first; also those being made and what killed commands left.

    Raises RunError where the folder cannot be read.
    """
    root, found = runs_root(), []
    try:
        with disk.held(root, fcntl.LOCK_SH, wait_s=1.0):
            for folder in root.iterdir():
                with suppress(FileNotFoundError):  # renamed or removed since
                    found.append((folder.stat().st_mtime_ns, _entry(folder)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(
            f"{root} cannot be read: {error.strerror}", hint="ATTNPROF_RUNS names another folder"
        ) from error
    ordered = sorted(found, key=lambda dated: dated[0], reverse=True)
    return [entry for _, entry in ordered if entry is not None]


def _entry(folder: Path) -> RunEntry | None:
    finished = (folder / RUN_JSON).exists()
    if partial.intended_name(folder) is not None:
        return RunEntry(folder, partial.state(folder, finished), partial.notes(folder))
    if not finished:
        return None
    try:
        return read_run(folder)
    except RunError as error:
        return RunEntry(folder, "unreadable", {"error": error.message})


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
        if partial.intended_name(entry.folder) == name:
            what = "is still being made" if entry.status == "running" else f"is {entry.status}"
            return RunError(f"the run {name} {what}: {entry.folder}", hint="attnprof runs says what to do")
    known = ", ".join([entry.name for entry in entries if entry.readable][:5])
    return RunError(
        f"no run or trace called {name}" + (f"; runs here: {known}" if known else ""),
        hint="attnprof runs lists the runs; attnprof run --max-new-tokens 512 makes one",
    )
