"""The typer application: wires commands, no logic."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from attnprof import __version__
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
from attnprof.config import default_map, origins
from attnprof.errors import AttnprofError, ConfigError
from attnprof.printable import guarded_output

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
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with guarded_output():
            _run()
    finally:
        signal.signal(signal.SIGTERM, before)


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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds like Ctrl-C, so that a half-made run is removed."""
    sys.exit(128 + signum)
