"""An nsys export and the report it was made from, side by side."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from attnprof.errors import TraceError
from attnprof.machine.find_nsys import is_whole_export

EXPORTS = (".sqlite", ".sqlite3", ".db")
REPORTS = (".nsys-rep", ".qdrep", ".qdstrm")
_SAME_MOMENT_S = 2.0
_AGAIN = "export the report again (nsys export --type sqlite)"


class BrokenExportError(TraceError):
    """An export that was not written to its end, or lost its end since."""


def refuse_unfinished(path: Path) -> None:
    """Raises BrokenExportError for an export that was killed.

    nsys writes all tables in one transaction without a journal: killed, it leaves a blank header. Where the
    report is there to be exported again, the lack of the table that comes last is enough.
    """
    if path.suffix not in EXPORTS or not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(100)
    if not any(head):
        how = "is empty" if not head else "has a blank header"
        raise BrokenExportError(f"{path} {how}: its export was ended before it was whole", hint=_AGAIN)
    if report_beside(path) and _opens(path) and not is_whole_export(path):
        raise BrokenExportError(f"{path} lacks tables: its export was ended before it was whole", hint=_AGAIN)


def report_beside(export: Path) -> Path | None:
    """The report of the same name, if there is one."""
    if export.suffix not in EXPORTS:
        return None
    return next((path for end in REPORTS if (path := export.with_suffix(end)).is_file()), None)


def seconds_late(export: Path, report: Path) -> float:
    """How much newer the report is: the export is of an earlier recording then; 0 where it is not."""
    late = report.stat().st_mtime - export.stat().st_mtime
    return late if late > _SAME_MOMENT_S else 0.0


def ago(seconds: float) -> str:
    """A span in the largest unit that it fills."""
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {noun}{'' if count == 1 else 's'}"
    return f"{seconds:.0f} s"


def _opens(path: Path) -> bool:
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db,
    ):
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return True
    return False
