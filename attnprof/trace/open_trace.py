"""Opening a trace file: which reader, told by content, and a report's way to SQLite."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from attnprof.errors import TraceError
from attnprof.files.compressed import readable, temporary_errors, temporary_folder, unpacked, unpacked_head
from attnprof.machine.find_nsys import find_importer, find_nsys, nsys_version
from attnprof.safety.next_command import next_command
from attnprof.trace.companion_files import (
    BrokenExportError,
    ago,
    refuse_unfinished,
    report_beside,
    seconds_late,
)
from attnprof.trace.nsys_parquet import is_parquet_export
from attnprof.trace.nsys_sqlite import read_nsys_sqlite
from attnprof.trace.tables import Trace
from attnprof.trace.torch_json import read_torch_json
from attnprof.trace.validity import in_time

_SQLITE_MAGIC = b"SQLite format 3\0"
_GZIP_MAGIC = b"\x1f\x8b"
_HEAD = 100  # bytes: the header of an SQLite file
_REPORTS = (".nsys-rep", ".qdrep")
_KNOWN = (
    "an nsys report (.nsys-rep, .qdstrm), its .sqlite or parquetdir export, or a torch profiler .json, "
    "also gzipped"
)


def open_trace(path: Path | str, *, nsys: str | None = None, details: bool = False) -> Trace:
    """Read a trace recorded by nsys or torch.profiler.

    ``nsys`` is the program that exports .nsys-rep and .qdstrm files; None finds one.
    ``details`` asks for what only nsys's own reports need, where the file has it.
    The file and its folder are left as they are. Raises TraceError for anything that cannot be read.
    """
    path = Path(path)
    try:
        with readable(path):
            refuse_unfinished(path)
        trace = in_time(_read(path, nsys, details))
    except BrokenExportError as broken:
        return _read_report_instead(path, nsys, details, broken)
    report = report_beside(path)
    late = seconds_late(path, report) if report else 0.0
    if not report or not late:
        return trace
    return _noted(
        trace, f"{path.name} is {ago(late)} older than {report.name}: it is of an earlier recording"
    )


def _read_report_instead(path: Path, nsys: str | None, details: bool, broken: BrokenExportError) -> Trace:
    """The report that an unusable export was made from, where it and an nsys are there."""
    report = report_beside(path)
    if report is None:
        raise broken
    if find_nsys(nsys) is None:
        hint = f"its report is beside it: {next_command('import', report)}, where nsys is"
        raise BrokenExportError(broken.message, hint=hint) from broken
    trace = in_time(_read(report, nsys, details))
    return _noted(trace, f"{broken.message}; {report.name} was read instead")


def _noted(trace: Trace, note: str) -> Trace:
    return replace(trace, info=replace(trace.info, notes=(*trace.info.notes, note)))


def _read(path: Path, nsys: str | None, details: bool) -> Trace:
    with readable(path):
        is_export = is_parquet_export(path)
    if is_export:
        return read_nsys_sqlite(path, shown_as=str(path), details=details)
    head = _head(path)
    if path.suffix in _REPORTS or path.suffix == ".qdstrm":
        with _exported(path, nsys) as exported:
            return read_nsys_sqlite(exported, shown_as=str(path), details=details)
    gzipped = head.startswith(_GZIP_MAGIC)
    if gzipped:
        head = unpacked_head(path, _HEAD)
        if head.startswith(_SQLITE_MAGIC):
            with unpacked(path) as plain:
                _refuse_cut_sqlite(plain, path)
                return read_nsys_sqlite(plain, shown_as=str(path), details=details)
    if head.startswith(_SQLITE_MAGIC):
        _refuse_cut_sqlite(path, path)
        with _settled(path) as settled:
            return read_nsys_sqlite(settled, shown_as=str(path), details=details)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return read_torch_json(path, gzipped=gzipped)
    raise TraceError(f"{path} is no trace that can be read", hint=f"give {_KNOWN}")


def _head(path: Path) -> bytes:
    with readable(path):
        if path.is_dir():
            raise TraceError(f"{path} is a folder, not a trace", hint=f"give {_KNOWN}")
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end, a device never begin
            raise TraceError(f"{path} is no regular file", hint=f"give {_KNOWN}")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    if not head:
        raise TraceError(f"{path} is empty", hint="the recorder wrote nothing: capture again")
    return head


def _refuse_cut_sqlite(plain: Path, path: Path) -> None:
    """SQLite's header states how many pages follow; a shorter file has been cut."""
    with plain.open("rb") as file:
        head = file.read(_HEAD)
    page = int.from_bytes(head[16:18], "big")
    stated = (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
    valid = head[24:28] == head[92:96]  # else the count is from before the last change
    if len(head) < _HEAD or (valid and plain.stat().st_size < stated):
        raise BrokenExportError(
            f"{path} is cut short: {plain.stat().st_size:,} bytes of {stated:,}",
            hint="copy it again, or export the report again (nsys export --type sqlite)",
        )


@contextmanager
def _settled(path: Path) -> Iterator[Path]:
    """The database with what its write-ahead log holds: a copy, so that nothing is written beside it."""
    journal, log = (path.with_name(path.name + end) for end in ("-journal", "-wal"))
    if journal.exists() and journal.stat().st_size:
        raise TraceError(
            f"{path} is being written, or its writing was interrupted ({journal.name} is beside it)",
            hint="wait for the export to end, or export the report again",
        )
    if not log.exists() or not log.stat().st_size:
        yield path
        return
    with temporary_folder(path) as folder:
        copy = folder / "trace.sqlite"
        with temporary_errors(path):
            shutil.copyfile(path, copy)
            shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
        db = sqlite3.connect(copy)
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise TraceError(f"{path} cannot be read: {error}", hint="export the report again") from error
        finally:
            db.close()
        yield copy


@contextmanager
def _exported(path: Path, nsys: str | None) -> Iterator[Path]:
    """The report's SQLite export, in a folder of its own that goes away."""
    program = find_nsys(nsys)
    if program is None:
        raise TraceError(
            f"{path} needs nsys to be read, and {nsys or 'nsys'} was not found",
            hint="install Nsight Systems, set ATTNPROF_NSYS, or export it where it was recorded: "
            f"nsys export --type sqlite {path.name}",
        )
    with temporary_folder(path) as folder:
        report, exported = path.resolve(), folder / "trace.sqlite"
        if path.suffix == ".qdstrm":
            importer = find_importer(program)
            if importer is None:
                raise TraceError(
                    f"{path} needs QdstrmImporter, which is not beside {program}",
                    hint="open it with the Nsight Systems that recorded it and save a .nsys-rep",
                )
            report = folder / "trace.nsys-rep"
            _convert(
                [importer, "--input-file", path.resolve(), "--output-file", report], report, path, program
            )
        command: list[Path | str] = [
            program,
            "export",
            "--type",
            "sqlite",
            "--force-overwrite",
            "true",
            "--output",
            exported,
            report,
        ]
        _convert(command, exported, path, program)
        yield exported


def _convert(command: list[Path | str], made: Path, path: Path, program: Path) -> None:
    """Run one of nsys's own converters; its exit code alone does not tell whether it wrote anything."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        try:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            ).returncode
        except OSError as error:
            raise TraceError(
                f"{path} cannot be converted: {error}", hint="check the nsys installation"
            ) from error
        if code == 0 and made.exists() and made.stat().st_size:
            return
        said = _last_words(log)
        if "is incomplete" in said:
            raise TraceError(
                f"{path} is no whole stream: nsys was ended before it had written all of it",
                hint="no nsys reads it: record again, and let nsys end by itself",
            )
        raise TraceError(
            f"{path} cannot be converted by nsys {nsys_version(program) or ''}: {said}",
            hint="it opens in the nsys that recorded it or a newer one: export it there "
            "(nsys export --type sqlite REPORT.nsys-rep) and give the .sqlite file",
        )


def _last_words(log: IO[str]) -> str:
    """The line of a converter's output that says most."""
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    telling = [
        line
        for line in lines
        if any(w in line.lower() for w in ("error", "newer", "version", "fail", "invalid"))
    ]
    return " ".join((telling or lines or ["it said nothing"])[-1].split())[:300]
