"""The typer application: wires commands, no logic."""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Annotated, NoReturn

import typer

from attnprof.commands import (
    check,
    diff,
    doctor,
    explain,
    export,
    gpus,
    ingest,
    predict,
    report,
    run,
    runs,
    sweep,
)
from attnprof.errors import EXIT_USAGE, AttnprofError, ConfigError
from attnprof.machine.configuration import default_map, origins
from attnprof.safety.printable import guarded_output
from attnprof.version import __version__

_SAID = {signal.SIGINT: b"interrupted\n", signal.SIGTERM: b"terminated\n"}

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
app.command("report", short_help="Show phases, kernels and the split timeline of a run.")(report.report)
app.command("check", short_help="Compare what ran with what should have run.")(check.check)
app.command("predict", short_help="Predict the launches of attention calls.")(predict.predict)
app.command("explain", short_help="Explain one attention call step by step.")(explain.explain)
app.command("sweep", short_help="Predict over ranges of lengths, batches, GPUs and versions.")(sweep.sweep)
app.command("diff", short_help="Compare two runs: dispatch, then time.")(diff.diff)
app.command("export", short_help="Write a run for Perfetto, pandas or SQL.")(export.export)
app.command("doctor", short_help="Examine this machine, or a trace.")(doctor.doctor)
app.command("gpus", short_help="List the known GPUs.")(gpus.gpus)
app.command("runs", short_help="List the runs on disk.")(runs.runs)


def main() -> None:
    """The console script: expected failures become one message and an exit code."""
    heard = [one for one in _SAID if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stopped) for number in heard}
    try:
        with guarded_output():
            _run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run() -> None:
    defaults: dict[str, dict[str, str]] = {}
    try:
        if "--help" not in sys.argv:
            defaults = default_map(sys.argv[1:])
        app(default_map=defaults)
    except AttnprofError as error:
        print(f"error: {error.message}", file=sys.stderr)
        for origin in () if isinstance(error, ConfigError) else origins(error.message, defaults):
            print(f"  set by {origin}", file=sys.stderr)
        if error.hint:
            print(f"  try: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away (`| head`): there is nobody left to tell
        _drop_output()
        sys.exit(0)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full:
            _drop_output()
            print(f"error: cannot write {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        elif error.filename is not None:  # a name that is too long, a folder that has gone
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        else:
            raise
        sys.exit(EXIT_USAGE)


def _drop_output() -> None:
    """What is still to be written to stdout goes nowhere; Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stopped(signum: int, frame: FrameType | None) -> NoReturn:
    """Unwinds, so that what is half made is put in order, and no library takes it for an error of its own."""
    with suppress(OSError):
        os.write(2, _SAID[signal.Signals(signum)])  # print may be what was interrupted
    sys.exit(128 + signum)
