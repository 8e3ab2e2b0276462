"""The typer application: wires commands, no logic."""

from __future__ import annotations

import errno
import signal
import sqlite3
import sys
from contextlib import suppress
from typing import Annotated

import typer

from attnprof.commands import (
    baseline,
    capture,
    check,
    diff,
    doctor,
    explain,
    export,
    gpus,
    ingest,
    names,
    predict,
    replay,
    report,
    run,
    runs,
    sweep,
)
from attnprof.errors import EXIT_OK, EXIT_USAGE, AttnprofError, ConfigError, UsageError
from attnprof.machine import stop_signals
from attnprof.machine.configuration import default_map, origins
from attnprof.safety import streams
from attnprof.safety.printable import guarded_output
from attnprof.version import __version__

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)

app = typer.Typer(
    name="attnprof",
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


app.command("run", short_help="Record a workload.", context_settings={"allow_interspersed_args": False})(
    run.run
)
app.command("import", short_help="Ingest a trace made by nsys or torch.profiler.")(ingest.import_)
app.command("capture", short_help="Profile a running vLLM or SGLang server.")(capture.capture)
app.command("report", short_help="Show phases, kernels and the split timeline of a run.")(report.report)
app.command("check", short_help="Compare what ran with what should have run.")(check.check)
app.command("predict", short_help="Predict the launches of attention calls.")(predict.predict)
app.command("explain", short_help="Explain one attention call step by step.")(explain.explain)
app.command("sweep", short_help="Predict over ranges of lengths, batches, GPUs and versions.")(sweep.sweep)
app.command("diff", short_help="Compare two runs: dispatch, then time.")(diff.diff)
app.command("baseline", short_help="Name the runs that others are compared with.")(baseline.baseline)
app.command("export", short_help="Write a run for Perfetto, pandas or SQL.")(export.export)
app.command("doctor", short_help="Examine this machine, or a trace.")(doctor.doctor)
app.command("gpus", short_help="List the known GPUs.")(gpus.gpus)
app.command("names", short_help="Read what attention kernels' names state.")(names.names)
app.command("replay", short_help="Write one attention call as a program of its own.")(replay.replay)
app.command("runs", short_help="List the runs on disk.")(runs.runs)


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
    except (OSError, ImportError, MemoryError, sqlite3.Error) as error:
        streams.drop(sys.stdout)
        if code := stop_signals.heard():
            return code
        if isinstance(error, OSError) and error.filename is None and error.errno in _WRITING:
            streams.say(f"error: cannot write the output: {error.strerror}")
        else:
            streams.say(f"error: {streams.why_not(error)}")
        code = EXIT_USAGE
    return code


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
