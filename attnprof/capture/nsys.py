"""Recording with Nsight Systems."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGBUS, SIGSEGV, Signals

from attnprof.capture.interrupt import InterruptError, Interruption
from attnprof.capture.nsys_files import EXPORT, REPORT, export_report, require_report
from attnprof.capture.nsys_messages import explain, has_no_agent, refused_option
from attnprof.capture.nsys_shared_memory import remove_abandoned
from attnprof.capture.process import Outcome, Watch, supervise
from attnprof.errors import CaptureError
from attnprof.workloads.child import HANDED, PID_FILE, Handed

LOG = "nsys.log"
GRACE_S = 60.0
_LEAST_ROOM = 8 << 20  # bytes of TMPDIR below which nothing is begun
_NO_ROOM = 1 << 20  # bytes left when nsys failed for want of them
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


@dataclass(frozen=True)
class Recording:
    """What came of a recording. ``failure`` says why there is no trace.sqlite.

    ``exit_code`` is the program's own where it is known. ``command`` is as it would be without attnprof.
    """

    outcome: Outcome
    command: list[str]
    exit_code: int | None
    notes: list[str]
    failure: CaptureError | None = None


@dataclass(frozen=True)
class Session:
    """What goes to the child, and who is told meanwhile.

    ``handed`` and ``pass_fds`` reach the child. ``tick`` is called several times a second, ``say`` takes
    sentences for the user; ``interruption`` ends the recording gently. ``grace_s``: see Watch.
    """

    environment: Mapping[str, str]
    handed: Handed = field(default_factory=lambda: Handed())
    pass_fds: Sequence[int] = ()
    grace_s: float = GRACE_S
    tick: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda sentence: None
    interruption: Interruption | None = None


def record(
    nsys: Path, folder: Path, child: Sequence[str], session: Session, *, keep_report: bool = False
) -> Recording:
    """Records ``child``; leaves a new trace.sqlite in ``folder``, without the environments nsys collects.

    ``keep_report`` leaves trace.nsys-rep too, which holds them. Raises CaptureError where the program was
    never started; what goes wrong later is the recording's failure.
    """
    with _temporary() as scratch, tempfile.TemporaryDirectory(prefix=".nsys-", dir=folder) as made_name:
        made = Path(made_name)  # for its owner's eyes only
        room = _Room(scratch)
        outcome, options, notes = _record(nsys, folder, made, scratch, child, session, room)
        recorded = Recording(
            outcome,
            profile_command(nsys, folder, child, options),
            _exit_code(outcome, scratch, folder),
            notes,
        )
        notes += _told(outcome) + room.notes(recorded.exit_code)

        def run(command: Sequence[str], log: Path) -> Outcome:
            with log.open("wb") as output:
                return supervise(
                    command, os.environ, output=output, tick=session.tick, interruption=session.interruption
                )

        try:
            done = require_report(nsys, made, scratch, folder, scratch / LOG, run)
            notes += [done] if done else []
            export_report(nsys, made, folder / EXPORT, scratch, run)
        except InterruptError:
            raise
        except CaptureError as error:
            return replace(recorded, failure=error)
        if keep_report:
            (made / REPORT).chmod(0o600)
            (made / REPORT).rename(folder / REPORT)
            notes.append(
                f"{REPORT} holds the environments of running processes: share {EXPORT}, which does not"
            )
    return recorded


def _record(
    nsys: Path, folder: Path, made: Path, scratch: Path, child: Sequence[str], session: Session, room: _Room
) -> tuple[Outcome, list[str], list[str]]:
    """(outcome, options taken, notes) of the start that began the program."""
    options, notes, starts = list(_OPTIONS), list[str](), _STARTS
    log = scratch / LOG
    while True:
        command = profile_command(nsys, made, child, options)
        watch = Watch(folder / PID_FILE, (scratch, made), session.grace_s)
        outcome = _profile(command, watch, log, session, room)
        if (folder / PID_FILE).exists():
            return outcome, options, notes
        said = refused_option(log)
        refused = next((o for o in options if said and o in _DROPPABLE and o.split("=")[0] in said), None)
        if refused is not None:
            options.remove(refused)
            notes.append(_DROPPABLE[refused])
        elif (starts := starts - 1) == 0 or outcome.outlived:
            why = explain(log, nsys)
            raise CaptureError(f"nsys did not start the program: {why.cause}", hint=why.fix)
        elif has_no_agent(log) and (done := remove_abandoned(nsys)):
            notes.append(done)


def _profile(command: Sequence[str], watch: Watch, log: Path, session: Session, room: _Room) -> Outcome:
    own = _own_stdio()
    # nsys puts the program's output into its own, takes TMPDIR for its files and starts it with umask 0.
    kept: Handed = {"tmpdir": session.environment.get("TMPDIR"), "umask": _umask(), **session.handed}
    if len(own) == 2:
        kept["stdio"] = own
    given = {**session.environment, "TMPDIR": str(log.parent), HANDED: json.dumps(kept)}

    def tick() -> None:
        room.look()
        session.tick()

    try:
        with log.open("wb") as output:
            return supervise(
                command,
                given,
                output=output,
                pass_fds=(*session.pass_fds, *own),
                watch=watch,
                tick=tick,
                interruption=session.interruption,
                say=session.say,
            )
    finally:
        for descriptor in own:
            os.close(descriptor)


def _told(outcome: Outcome) -> list[str]:
    """What the reader of the run is told of how nsys ended."""
    if outcome.died:
        how = f"was killed by {Signals(outcome.exit_code - 128).name}" if outcome.exit_code > 128 else "ended"
        return [f"nsys {how} before the program, which went on without it"]
    if outcome.outlived:
        return ["nsys did not notice that the program had ended, did not listen, and was ended"]
    if outcome.reminded:
        return ["nsys did not notice that the program had ended; it wrote its report when asked to stop"]
    return []


def _exit_code(outcome: Outcome, scratch: Path, folder: Path) -> int | None:
    """The program's own: nsys passes it on where it ends by itself, else it has left it in a file."""
    if not (outcome.died or outcome.outlived or outcome.reminded):
        return outcome.exit_code
    with suppress(OSError, ValueError):
        pid = (folder / PID_FILE).read_text().strip()
        signaled, number = (scratch / f"nsys_termination_status_{pid}").read_text().split()
        return int(number) + (128 if int(signaled) else 0)
    return None


@contextmanager
def _temporary() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="attnprof-")
    except OSError as error:
        raise CaptureError(
            f"nsys needs a folder for temporary files, and there is none: {error.strerror or error}",
            hint="TMPDIR names one; --capture none records calls without nsys",
        ) from error
    with folder as name:
        yield Path(name)


class _Room:
    """The space that nsys has for its temporary files: where it ends, nsys takes the program with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._least = shutil.disk_usage(folder).free
        self._shown = f"{self._least / 1e6:,.0f} MB free in {folder.parent}"
        if self._least < _LEAST_ROOM:
            raise CaptureError(
                f"{self._shown} are too little for nsys's temporary files", hint="TMPDIR names another folder"
            )

    def look(self) -> None:
        with suppress(OSError):
            self._least = min(self._least, shutil.disk_usage(self._folder).free)

    def notes(self, exit_code: int | None) -> list[str]:
        if self._least < _NO_ROOM and exit_code in (128 + SIGSEGV, 128 + SIGBUS):
            return [
                f"nsys had no space left for its temporary files ({self._shown} at first), which ends the"
                " program it records: TMPDIR names another folder"
            ]
        return []


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
