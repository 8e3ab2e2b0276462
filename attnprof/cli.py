"""The typer application: wires commands, no logic."""

from __future__ import annotations

import errno
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

from attnprof.commands.deferred import Deferred, deferring, undecided
from attnprof.errors import EXIT_OK, EXIT_USAGE, AttnprofError, ConfigError, UsageError
from attnprof.machine import stop_signals
from attnprof.machine.configuration import default_map, origins
from attnprof.safety import streams
from attnprof.safety.printable import guarded_output
from attnprof.version import __version__

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)

COMMANDS = {
    "run": Deferred("run:run", "Record a workload.", {"allow_interspersed_args": False}),
    "import": Deferred("ingest:import_", "Ingest a trace made by nsys or torch.profiler."),
    "capture": Deferred("capture:capture", "Profile a running vLLM or SGLang server."),
    "report": Deferred("report:report", "Show phases, kernels and the split timeline of a run."),
    "check": Deferred("check:check", "Compare what ran with what should have run."),
    "predict": Deferred("predict:predict", "Predict the launches of attention calls."),
    "explain": Deferred("explain:explain", "Explain one attention call step by step."),
    "sweep": Deferred("sweep:sweep", "Predict over ranges of lengths, batches, GPUs and versions."),
    "diff": Deferred("diff:diff", "Compare two runs: dispatch, then time."),
    "baseline": Deferred("baseline:baseline", "Name the runs that others are compared with."),
    "export": Deferred("export:export", "Write a run for Perfetto, pandas or SQL."),
    "doctor": Deferred("doctor:doctor", "Examine this machine, or a trace."),
    "gpus": Deferred("gpus:gpus", "List the known GPUs."),
    "names": Deferred("names:names", "Read what attention kernels' names state."),
    "replay": Deferred("replay:replay", "Write one attention call as a program of its own."),
    "runs": Deferred("runs:runs", "List the runs on disk."),
}

app = typer.Typer(
    name="attnprof",
    cls=deferring(COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Which attention kernel ran, why that one, and when will it change?\n\n"
    "Start with: attnprof run --max-new-tokens 512, then attnprof report",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attnprof {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


for _name, _command in COMMANDS.items():
    _command.add_to(app, _name, undecided)


def main() -> None:
    """Runs a command; expected failures become one message and an exit code. Raises SystemExit."""
    before = stop_signals.hear()
    try:
        with guarded_output():
            sys.exit(_run())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def _run() -> int:
    defaults: dict[str, dict[str, str]] = {}
    code = EXIT_OK
    try:
        try:
            if "--help" not in sys.argv:
                defaults = default_map(sys.argv[1:])
            app(default_map=defaults)
        except ValueError as error:
            if "null byte" not in str(error):
                raise
            raise UsageError("no file's name holds a NUL character", hint="check the paths given") from error
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        sys.stdout.flush()
    except AttnprofError as error:
        code = stop_signals.heard()
        if not code:
            _tell(error, defaults)
            code = error.exit_code
    except (BrokenPipeError, streams.ReaderGoneError):  # `| head`: there is nobody left to tell
        streams.drop(sys.stdout)
        code = 128 + signal.SIGPIPE
    except Exception as error:
        code = stop_signals.heard()
        if not code and not isinstance(error, (*streams.OF_THE_SYSTEM, *_sqlite_errors())):
            raise
        streams.drop(sys.stdout)
        if code:
            return code
        if isinstance(error, OSError) and error.filename is None and error.errno in _WRITING:
            streams.say(f"error: cannot write the output: {error.strerror}")
        else:
            streams.say(f"error: {streams.why_not(error)}")
        code = EXIT_USAGE
    return code


def _sqlite_errors() -> tuple[type[Exception], ...]:
    """What SQLite raises, where it was imported."""
    sqlite3 = sys.modules.get("sqlite3")
    return () if sqlite3 is None else (sqlite3.Error,)


def _tell(error: AttnprofError, defaults: dict[str, dict[str, str]]) -> None:
    """The message, where a default that it speaks of was set, what to do; what was printed comes first."""
    try:
        sys.stdout.flush()
    except (OSError, streams.ReaderGoneError):
        streams.drop(sys.stdout)
    streams.say(f"error: {error.message}")
    with suppress(ConfigError):  # which the command did not come to ask
        for origin in () if isinstance(error, ConfigError) else origins(error.message, defaults):
            streams.say(f"  set by {origin}")
    if error.hint:
        streams.say(f"  try: {error.hint}")
