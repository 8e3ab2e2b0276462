"""From what nsys leaves to a trace: report, stream and export, each of which may be missing or cut."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from attnprof.capture.environment import copy_without_environments
from attnprof.capture.nsys_messages import explain, last_words
from attnprof.capture.process import Outcome
from attnprof.errors import CaptureError
from attnprof.machine.find_nsys import find_importer, is_whole_export
from attnprof.safety.next_command import next_command

REPORT = "trace.nsys-rep"
EXPORT = "trace.sqlite"
STREAM = "trace.qdstrm"
_EXPORTS = 2  # tries

Run = Callable[[Sequence[str], Path], Outcome]  # runs a command whose output goes to a file


def export_command(nsys: Path, folder: Path) -> list[str]:
    """The command that turns the report into ``folder``/trace.sqlite."""
    return [
        str(nsys), "export", "--type=sqlite", "--quiet=true", "--force-overwrite=true",
        f"--output={folder / EXPORT}", str(folder / REPORT),
    ]  # fmt: skip


def require_report(nsys: Path, made: Path, scratch: Path, folder: Path, log: Path, run: Run) -> str | None:
    """Makes sure of a report in ``made``; returns what had to be done for it.

    A report that nsys put into ``scratch``, where its own files are, is taken from there, and a stream is
    imported. A stream that cannot be is left in ``folder``. Raises CaptureError where there is no report.
    """
    report = made / REPORT
    if report.exists():
        return None
    elsewhere = sorted(scratch.glob("*.nsys-rep"))
    if elsewhere:  # what nsys does where it finds a file of the name it was given
        shutil.move(elsewhere[-1], report)
        return None
    stream = next(iter(sorted(scratch.rglob("*.qdstrm"))), None)
    if stream is None:
        said = explain(log)
        raise CaptureError(f"nsys left no report: {said.cause}", hint=said.fix)
    importer = find_importer(nsys)
    if importer is None:
        kept = _keep(stream, folder)
        raise CaptureError(
            f"nsys left no report: QdstrmImporter, which makes it, is not beside {nsys}; its events are kept",
            hint=f"{next_command('import', kept)}, where Nsight Systems of this version is whole",
        )
    import_log = scratch / "import.log"
    with suppress(OSError):
        run([str(importer), "--input-file", str(stream), "--output-file", str(report)], import_log)
    if report.exists():
        return "nsys left only a .qdstrm; QdstrmImporter made the report"
    said = explain(import_log)
    if "incomplete" in last_words(import_log):
        raise CaptureError(f"nsys left no report: {said.cause}", hint=said.fix)
    kept = _keep(stream, folder)
    raise CaptureError(
        f"nsys left no report, and QdstrmImporter makes none of its events: {said.cause}; they are kept",
        hint=f"{next_command('import', kept)}, where Nsight Systems of this version is whole",
    )


def export_report(nsys: Path, made: Path, target: Path, scratch: Path, run: Run) -> None:
    """Writes ``target``, the report's export without environments. An export that was killed is made again.

    Raises CaptureError where none can be made; the report is then beside ``target``.
    """
    log = scratch / "export.log"
    for _ in range(_EXPORTS):
        if run(export_command(nsys, made), log).exit_code == 0 and is_whole_export(made / EXPORT):
            break
    else:
        said = explain(log)
        kept = _keep(made / REPORT, target.parent)
        raise CaptureError(
            f"nsys recorded the run but cannot export it: {said.cause}; its report is kept",
            hint=next_command("import", kept) + (f"; {said.fix}" if said.fix else ""),
        )
    try:
        copy_without_environments(made / EXPORT, target)
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        kept = _keep(made / REPORT, target.parent)
        raise CaptureError(
            f"nsys exported the run, but {target.name} cannot be written: {error}; its report is kept",
            hint=f"{next_command('import', kept)}, when there is space on this disk",
        ) from error


def _keep(file: Path, folder: Path) -> Path:
    """Moves one of nsys's files out of a temporary folder, for its owner alone: it holds environments."""
    name = REPORT if file.name == REPORT else STREAM
    for place in (folder / name, file.parent.parent / f"attnprof-{os.getpid()}-{name}"):
        with suppress(OSError):
            shutil.move(file, place)
            place.chmod(0o600)
            return place
    return file
