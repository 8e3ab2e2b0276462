"""Making a run folder.

A folder is built under a hidden partial name beside its final one and renamed when all of it is on the disk,
so a killed run never stands under a final name. Who begins a run has its name from then on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

from attnprof.errors import AttnprofError, RunError
from attnprof.files import durable
from attnprof.runs import folder_lock, full_disk, unfinished_folders
from attnprof.runs.run_folders import delete, is_run, now, run_folder, write_config
from attnprof.runs.schema import SCHEMA
from attnprof.safety.next_command import next_command


class RunBuilder:
    """A run folder that is being filled; ``folder`` is its partial name, ``final`` the one it will have.

    ``kept``: the folder stays where it is when the run is not finished, to be resumed or removed.
    """

    def __init__(
        self, folder: Path, final: Path, *, lock: int | None = None, force: bool = False, kept: bool = False
    ):
        self.folder, self.final, self.kept = folder, final, kept
        self.finished = False
        self._lock, self._force = lock, force

    @classmethod
    def to_begin(cls, final: Path, *, force: bool = False) -> RunBuilder:
        """A run of which nothing is on the disk: whatever stops ``begin``, ``close`` takes away."""
        return cls(unfinished_folders.new_folder(final), final, force=force)

    def begin(self, numbered: bool, known: dict[str, Any]) -> None:
        """Takes the name and makes the folder; arguments and errors as of ``new_run``."""
        root = self.final.parent
        try:
            root.mkdir(parents=True, exist_ok=True)
            with durable.undisturbed(), folder_lock.held(root):
                if numbered:
                    self.final = _unused(self.final)
                    self.folder = unfinished_folders.new_folder(self.final)
                else:
                    _refuse_taken(self.final, self._force)
                with full_disk.writing(root):
                    self.folder.mkdir()
                    self._lock = unfinished_folders.claim(self.folder, begin=True)
                    assert self._lock is not None  # nobody else knows the folder
                    self.note(**unfinished_folders.me(), began=now(), force=self._force, **known)
        except OSError as error:
            raise RunError(
                f"cannot make a folder in {root}: {error.strerror}",
                hint="set ATTNPROF_RUNS to a writable folder",
            ) from error

    @cached_property
    def heading(self) -> dict[str, Any]:
        """What run.json and attnprof.db begin with."""
        return {"schema": SCHEMA, "created": now()}

    def note(self, **facts: Any) -> None:
        """Leaves facts for the one who resumes this run, should it be killed."""
        assert self._lock is not None
        unfinished_folders.note(self._lock, **facts)

    def finish(self, config: dict[str, Any]) -> Path:
        """Writes run.json when all else is on the disk and moves the folder to its final name, returned.

        What is hidden in the folder was for the way here: it is removed.
        """
        for entry in self.folder.glob(".*"):
            delete(entry)
        durable.sync(self.folder)
        write_config(self.folder, {**self.heading, **config})
        return self.publish()

    def publish(self) -> Path:
        """Gives the whole folder its final name: NAME, or NAME-2, … where somebody else took it meanwhile.

        A run that is replaced stands under the name until the new one does.
        """
        root = self.final.parent
        with durable.undisturbed():
            self.kept = True
            with folder_lock.held(root):
                replaced = self._take_name()
                (self.final / unfinished_folders.BUILDING).unlink(missing_ok=True)
            self.finished = True
            durable.sync_entry(root)
            if replaced is not None:
                delete(replaced)
        return self.final

    def _take_name(self) -> Path | None:
        """Renames the folder; returns where the run went that had the name and was replaced."""
        if self._force and _is_there(self.final):
            _refuse_unless_forced(self.final, force=True)
            if durable.exchange(self.folder, self.final):
                return self.folder
            aside = unfinished_folders.new_folder(self.final)
            self.final.rename(aside)  # without an exchange there is a moment with no run of that name
            self.folder.rename(self.final)
            return aside
        if _is_there(self.final):
            self.final = _unused(self.final)
        self.folder.rename(self.final)
        return None

    def close(self) -> None:
        """Lets go of the folder; removes it where the run was neither finished nor kept."""
        with durable.undisturbed():
            if not (self.finished or self.kept) and os.path.lexists(self.folder):
                delete(self.folder)
            if self._lock is not None:
                os.close(self._lock)


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
    builder = RunBuilder.to_begin(run_folder(name), force=force)
    try:
        builder.begin(numbered, known or {})
        with full_disk.writing(builder.folder, builder.final.parent):
            yield builder
    except AttnprofError as error:
        if builder.kept and builder.folder.exists():
            again = next_command("runs --resume", builder.folder.name)
            error.hint += f"; then make a run of what is there: {again}"
        raise
    finally:
        builder.close()


@contextmanager
def reopened(folder: Path) -> Iterator[RunBuilder]:
    """An unfinished folder to go on with; it stays where the block raises.

    Raises RunError where a living process is still writing it, or it cannot be opened.
    """
    name = unfinished_folders.intended_name(folder)
    assert name is not None
    try:
        lock = unfinished_folders.claim(folder)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be opened: {error.strerror}", hint="check its permissions"
        ) from error
    if lock is None:
        raise RunError(f"{folder} is still being written", hint="wait until it has ended, or end it")
    builder = RunBuilder(folder, folder.with_name(name), lock=lock, kept=True)
    try:
        with full_disk.writing(folder, folder.parent):
            yield builder
    finally:
        builder.close()


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
    same = (
        f
        for f in unfinished_folders.folders(final.parent)
        if unfinished_folders.intended_name(f) == final.name
    )
    return [unfinished_folders.notes(folder) for folder in same if unfinished_folders.is_running(folder)]


def _is_there(folder: Path) -> bool:
    return folder.exists() or folder.is_symlink()


def _refuse_unless_forced(folder: Path, force: bool) -> None:
    if not force:
        raise RunError(
            f"{folder} exists already",
            hint="give another name with -o NAME, or replace it with --force-overwrite",
        )
    empty = folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
    if not (empty or is_run(folder)):
        raise RunError(
            f"{folder} exists and is not an attnprof run: it is not overwritten",
            hint="give another name with -o NAME",
        )
