"""Recording with Nsight Systems."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from attnprof.capture.environment import copy_without_environments
from attnprof.capture.process import Outcome, Watch, supervise
from attnprof.errors import CaptureError
from attnprof.nsys import find_importer
from attnprof.workloads.child import HANDED, PID_FILE, Handed

REPORT = "trace.nsys-rep"
EXPORT = "trace.sqlite"
LOG = "nsys.log"
GRACE_S = 60.0
_STARTS = 3  # nsys 2022.4 fails now and then before it starts the program: "Local Endpoint is not available"

_OPTIONS = (
    "--trace=cuda,nvtx,osrt",
    "--cuda-graph-trace=node",  # by default the kernels of a replayed graph are not recorded
    "--sample=none",
    "--cpuctxsw=none",
)
_DROPPABLE = {  # refused by releases that do not know them
    "--cuda-graph-trace=node": "this nsys knows no --cuda-graph-trace: kernels of CUDA graphs may be missing",
    "--cpuctxsw=none": "this nsys knows no --cpuctxsw",
}


def profile_command(
    nsys: Path, folder: Path, child: Sequence[str], options: Sequence[str] = _OPTIONS
) -> list[str]:
    """The exact command: ``child`` recorded into ``folder``/trace.nsys-rep."""
    return [str(nsys), "profile", *options, f"--output={folder / REPORT}", *child]


def export_command(nsys: Path, folder: Path) -> list[str]:
    """The command that turns the report into ``folder``/trace.sqlite."""
    return [
        str(nsys), "export", "--type=sqlite", "--quiet=true", "--force-overwrite=true",
        f"--output={folder / EXPORT}", str(folder / REPORT),
    ]  # fmt: skip


def record(
    nsys: Path,
    folder: Path,
    child: Sequence[str],
    environment: Mapping[str, str],
    *,
    handed: Handed | None = None,
    pass_fds: Sequence[int] = (),
    grace_s: float = GRACE_S,
    tick: Callable[[], None] = lambda: None,
    keep_report: bool = False,
) -> tuple[Outcome, list[str], list[str]]:
    """Records ``child``; leaves a new trace.sqlite in ``folder``, without the environments nsys collects.

    ``keep_report`` leaves trace.nsys-rep too, which holds them. Returns the outcome, the command as it would
    be without attnprof, and notes. Raises CaptureError where no report came out of it.
    """
    options, notes = list(_OPTIONS), list[str]()
    with (
        tempfile.TemporaryDirectory(prefix="attnprof-") as scratch_name,
        # Hidden, and so gone when the run is finished, even by another process.
        tempfile.TemporaryDirectory(prefix=".nsys-", dir=folder) as made_name,
    ):
        scratch, made = Path(scratch_name), Path(made_name)
        log, starts = scratch / LOG, _STARTS
        while True:
            command = profile_command(nsys, made, child, options)
            watch = Watch(folder / PID_FILE, (scratch, made), grace_s)
            outcome = _profile(command, watch, scratch, environment, handed or {}, pass_fds, tick)
            if (folder / PID_FILE).exists():
                break
            refused = _refused_option(log, options)
            if refused is not None:
                options.remove(refused)
                notes.append(_DROPPABLE[refused])
            elif (starts := starts - 1) == 0 or outcome.outlived:
                break
        if outcome.outlived and (folder / PID_FILE).exists():
            notes.append(
                f"nsys went on for {grace_s:.0f} s after the program had ended, wrote nothing, and was ended"
            )
        _require_report(nsys, folder, made, scratch, outcome, notes)
        _export(nsys, made, scratch, tick)
        _hand_over(made / EXPORT, folder / EXPORT)
        if keep_report:
            (made / REPORT).chmod(0o600)
            (made / REPORT).rename(folder / REPORT)
            notes.append(
                f"{REPORT} holds the environments of running processes: share {EXPORT}, which does not"
            )
    return outcome, profile_command(nsys, folder, child, options), notes


def _profile(
    command: Sequence[str],
    watch: Watch,
    scratch: Path,
    environment: Mapping[str, str],
    handed: Handed,
    pass_fds: Sequence[int],
    tick: Callable[[], None],
) -> Outcome:
    own = _own_stdio()
    # nsys puts the program's output into its own, takes TMPDIR for its files and starts it with umask 0.
    kept: Handed = {"tmpdir": environment.get("TMPDIR"), "umask": _umask(), **handed}
    if len(own) == 2:
        kept["stdio"] = own
    given = {**environment, "TMPDIR": str(scratch), HANDED: json.dumps(kept)}
    try:
        with (scratch / LOG).open("wb") as log:
            return supervise(command, given, output=log, pass_fds=(*pass_fds, *own), watch=watch, tick=tick)
    finally:
        for descriptor in own:
            os.close(descriptor)


def _own_stdio() -> list[int]:
    """Copies of our stdout and stderr, numbered high enough that nothing on the way replaces them."""
    copies: list[int] = []
    for descriptor in (1, 2):
        with suppress(OSError):
            copies.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100))
    return copies


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _export(nsys: Path, folder: Path, scratch: Path, tick: Callable[[], None]) -> None:
    log = scratch / "export.log"
    with log.open("wb") as output:
        done = supervise(export_command(nsys, folder), os.environ, output=output, tick=tick)
    if done.exit_code != 0 or not (folder / EXPORT).exists():
        raise CaptureError(
            f"nsys recorded the run but cannot export it: {_last_words(log)}",
            hint="check the space on this disk, and the installation: nsys status -e",
        )


def _hand_over(export: Path, target: Path) -> None:
    try:
        copy_without_environments(export, target)
    except sqlite3.Error as error:
        raise CaptureError(
            f"nsys exported the run, but {target.name} cannot be written: {error}",
            hint="check the space on this disk",
        ) from error


def _refused_option(log: Path, options: Sequence[str]) -> str | None:
    """The option that nsys did not know, read from its complaint."""
    said = log.read_text(errors="replace")
    if "unrecognised option" not in said and "unrecognized option" not in said:
        return None
    return next((option for option in options if option in _DROPPABLE and option.split("=")[0] in said), None)


def _require_report(
    nsys: Path, folder: Path, made: Path, scratch: Path, outcome: Outcome, notes: list[str]
) -> None:
    """Makes sure of a report in ``made``; imports the .qdstrm where nsys's own importer failed."""
    report = made / REPORT
    if report.exists():
        return
    stream = next(iter(sorted(scratch.rglob("*.qdstrm"))), None)
    importer = find_importer(nsys)
    if stream is not None and importer is not None:
        command = [str(importer), "--input-file", str(stream), "--output-file", str(report)]
        with suppress(OSError):
            subprocess.run(command, capture_output=True, check=False)
        if report.exists():
            notes.append("nsys left only a .qdstrm; QdstrmImporter made the report")
            return
    if not (folder / PID_FILE).exists():
        raise CaptureError(
            f"nsys did not start the program: {_last_words(scratch / LOG)}",
            hint="attnprof doctor checks the installation; --capture none records calls without nsys",
        )
    if stream is not None:
        kept = folder.parent / f"{stream.stem}.qdstrm"
        shutil.move(stream, kept)
        kept.chmod(0o600)  # it holds environments
        raise CaptureError(
            f"nsys wrote {kept.name} but no report from it"
            + ("" if importer else ": QdstrmImporter is not installed beside it"),
            hint=f"attnprof import {kept}, where an importer of the same version is",
        )
    raise CaptureError(
        f"nsys ended with code {outcome.exit_code} and left no report: " + _last_words(scratch / LOG),
        hint="run it again; --capture none records calls without nsys",
    )


def _last_words(log: Path) -> str:
    """The last line of nsys's output that is no progress bar and no part of its internals."""
    lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines()]
    said = [line for line in lines if line and "%]" not in line and "% ]" not in line]
    return " ".join((said or ["it said nothing"])[-1].rpartition("*] = ")[2].split())[:300]


def count_ranges(export: Path, message: str, domain: str = "attnprof") -> int:
    """Push/pop ranges of one message in one NVTX domain of an export."""
    names = (
        "SELECT e.eventType, e.domainId, e.globalTid >> 24 AS process, coalesce(e.text, s.value) AS name"
        " FROM NVTX_EVENTS e LEFT JOIN StringIds s ON s.id = e.textId"
    )
    db = sqlite3.connect(f"{export.absolute().as_uri()}?mode=ro", uri=True)
    try:
        (count,) = db.execute(
            f"WITH named AS ({names}) SELECT count(*) FROM named WHERE eventType = 59 AND name = ? AND"
            " (domainId, process) IN (SELECT domainId, process FROM named WHERE eventType = 75 AND name = ?)",
            (message, domain),
        ).fetchone()
    except sqlite3.OperationalError:  # no range of any kind: no table
        return 0
    finally:
        db.close()
    return int(count)
