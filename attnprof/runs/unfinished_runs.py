"""What killed commands leave: said, removed, or made into a run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnprof.errors import RunError, TraceError
from attnprof.files.untrusted import read_json, require_shape
from attnprof.runs import run_folders, unfinished_folders
from attnprof.runs.ingest import DERIVED, finish, finish_recorded, no_trace
from attnprof.runs.run_builder import RunBuilder, reopened
from attnprof.runs.schema import SHAPE, STEPS
from attnprof.safety.next_command import next_command

if TYPE_CHECKING:
    from attnprof.trace.tables import Trace

INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Leftover:
    """What stands in an unfinished folder, in words, and whether a run can be made of it."""

    text: str
    resumable: bool


def leftover(folder: Path) -> Leftover:
    """What a killed command left in ``folder``."""
    known = unfinished_folders.notes(folder)
    if (folder / run_folders.RUN_JSON).exists():
        whole = (folder / run_folders.TRACE_NPZ).exists()
        named = not (folder / unfinished_folders.BUILDING).exists()
        return Leftover("a run that was replaced or removed" if named else "whole, without its name", whole)
    if "recorded" in known:
        return Leftover("all that was recorded", True)
    if "source" in known:
        there = Path(known["source"]).exists()
        return Leftover(f"an import of {known['source']}" + ("" if there else ", which is gone"), there)
    found = _Recorded(folder)
    return Leftover(", ".join(found.texts()) or "nothing was recorded", found.usable)


class _Recorded:
    """The files of a recording that was cut off."""

    def __init__(self, folder: Path) -> None:
        from attnprof.capture.nsys_files import EXPORT, REPORT
        from attnprof.capture.own_recordings import own_recordings
        from attnprof.capture.saved_calls import saved_journal
        from attnprof.workloads.child import TORCH_TRACE
        from attnprof.workloads.written import CALLS_FILE, WORKLOAD_FILE

        self.calls = folder / CALLS_FILE
        self.workload = _json(folder / WORKLOAD_FILE)
        self.kept = saved_journal(folder) if self.workload is None else None
        joined = bool((self.workload or {}).get("processes"))
        self.of_others = 0 if joined else sum(len(one.kept.calls) for one in own_recordings(folder))
        # The export last: it may be cut where the report it is made from still stands.
        places = [folder / TORCH_TRACE, *folder.glob(f".*/{REPORT}"), folder / REPORT, folder / EXPORT]
        self.traces = [path for path in places if path.exists() and path.stat().st_size]

    @property
    def usable(self) -> bool:
        known = bool((self.kept and self.kept.calls) or self.of_others)
        return known or bool(self.traces) or (self.calls.exists() and self.calls.stat().st_size > 0)

    def texts(self) -> list[str]:
        texts = [f"{path.name} ({path.stat().st_size / 1e6:,.1f} MB)" for path in self.traces]
        if self.workload is not None:
            return [f"{(self.workload.get('num_calls') or 0) + self.of_others:,} attention calls", *texts]
        if (self.kept and self.kept.calls) or self.of_others:
            known = len(self.kept.calls) if self.kept else 0
            return [f"{known + self.of_others:,} attention calls", *texts]
        return [*(["some attention calls"] if self.usable and self.calls.exists() else []), *texts]


def remove(name: str) -> list[Path]:
    """Removes the run called ``name``, or what a killed command left under that name or in that folder.

    Returns what is gone. Raises RunError for what is no run, and for one that is still being made.
    """
    removed = []
    for folder in _meant(name):
        if unfinished_folders.intended_name(folder) is None:
            run_folders.remove_run(folder)
        else:
            with reopened(folder) as builder:
                builder.kept = False
            run_folders.require_gone(folder)
        removed.append(folder)
    return removed


def resume(name: str) -> list[tuple[Path, str]]:
    """Makes runs of what killed commands left of ``name``; returns each with its status.

    Raises RunError where nothing usable is there: the folder stays as it is.
    """
    made = []
    for folder in _meant(name):
        if unfinished_folders.intended_name(folder) is None:
            raise RunError(
                f"{folder} is finished: there is nothing to resume", hint=next_command("report", name)
            )
        with reopened(folder) as builder:
            done = _finish(builder)
        made.append((done, run_folders.read_run(done).status))
    return made


def _meant(name: str) -> list[Path]:
    """The folders that a name stands for: the finished run's, else every unfinished one's for that name."""
    folder = run_folders.run_folder(name)
    if folder.exists() or folder.is_symlink():
        return [folder]
    unfinished = [
        one
        for one in unfinished_folders.folders(folder.parent)
        if unfinished_folders.intended_name(one) == folder.name
    ]
    if not unfinished:
        raise RunError(f"there is no run called {name}", hint="attnprof runs lists the runs")
    return sorted(unfinished)


def _finish(builder: RunBuilder) -> Path:
    from attnprof.trace.open_trace import open_trace

    folder, known = builder.folder, unfinished_folders.notes(builder.folder)
    left = leftover(folder)
    if not left.resumable:
        raise RunError(
            f"{folder.name} cannot be resumed: {left.text}",
            hint=next_command("runs --remove", folder.name),
        )
    if (folder / run_folders.RUN_JSON).exists():
        return builder.publish()
    for name in DERIVED:
        (folder / name).unlink(missing_ok=True)
    if "recorded" in known:
        recorded = known["recorded"]
        trace = folder / recorded["trace"] if recorded["trace"] else None
        return finish_recorded(builder, trace, recorded["config"], recorded["status"])
    if "source" in known:
        read = open_trace(known["source"], nsys=known["nsys"], details=True)
        return finish(builder, read, known["config"])
    return _salvage(builder, known)


def _salvage(builder: RunBuilder, known: dict[str, Any]) -> Path:
    """A run of what a recording left that was cut off: called complete only where nothing is missing."""
    from attnprof.capture.exit_status import unwritten
    from attnprof.capture.nsys_files import REPORT
    from attnprof.capture.own_recordings import join
    from attnprof.capture.saved_calls import Kept
    from attnprof.workloads.child import PID_FILE

    folder = builder.folder
    found = _Recorded(folder)
    notes = ["attnprof run was killed; this is what it left"]
    path, trace = _first_readable(found.traces, known.get("nsys"), notes)
    if found.workload is None:
        notes.append("the program had not ended: its last attention calls are missing")
        if found.kept and found.kept.calls:
            found.kept.write(found.calls)
            found.workload = unwritten(found.kept, INTERRUPTED, None, None)
        else:
            _keep_whole_lines(found.calls)
    if found.of_others:
        empty = unwritten(Kept([], [], [], {}), INTERRUPTED, None, None)
        found.workload, said = join(folder, found.workload or empty)
        notes += said
    status = str((found.workload or {}).get("status", INTERRUPTED))
    if trace is None and known.get("recorder") != "none":
        notes.append("the recorder had written no trace")
        status = INTERRUPTED
    for left in (folder / PID_FILE, *found.traces):
        if left != path and left.parent == folder and left.name != REPORT:  # who asked for it keeps it
            left.unlink(missing_ok=True)
    found.calls.touch()
    capture = {"recorder": known.get("recorder"), "exit_code": None, "notes": notes}
    workload = {key: value for key, value in (found.workload or {}).items() if key not in STEPS}
    config = {"kind": "run", **known.get("config", {}), "capture": capture, "workload": workload}
    return finish(builder, trace or no_trace(), config, status)


def _first_readable(
    paths: list[Path], nsys: str | None, notes: list[str]
) -> tuple[Path | None, Trace | None]:
    from attnprof.trace.open_trace import open_trace

    for path in paths:
        try:
            return path, open_trace(path, nsys=nsys, details=True)
        except TraceError as error:
            notes.append(f"{path.name} cannot be read: {error.message}")
    return None, None


def _keep_whole_lines(calls: Path) -> None:
    """Cuts off what a killed writer left of its last line."""
    with suppress(FileNotFoundError):
        written = calls.read_bytes()
        calls.write_bytes(written[: written.rfind(b"\n") + 1])


def _json(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        found = read_json(path)
        require_shape(found, SHAPE["workload"], path.name)
        return found if isinstance(found, dict) else None
    return None
