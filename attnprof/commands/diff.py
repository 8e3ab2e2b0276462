"""attnprof diff: two runs side by side."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from attnprof.commands.options import (
    GpuOption,
    LibraryOption,
    SmOption,
    SmsOption,
    VersionOption,
)


class DiffFormat(str, Enum):
    """How a comparison is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    JUNIT = "junit"
    GITHUB = "github"


def diff(
    a: Annotated[
        str | None, typer.Argument(metavar="[A]", help="A run's name or folder, or a trace file.")
    ] = None,
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="B", help="The run or trace to compare with it. Beside --against the one run given is it."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="NAME", help="Compare with this baseline (attnprof baseline set)."),
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option(
            metavar="PCT",
            min=0,
            help="Exit 1 where B takes more than PCT percent more GPU time than A"
            " (CPU step time where no kernel was observed).",
        ),
    ] = None,
    gate_dispatch: Annotated[
        bool, typer.Option("--gate-dispatch", help="Exit 1 where any shared call is dispatched otherwise.")
    ] = False,
    phase: Annotated[
        str | None, typer.Option(metavar="PHASE", help="Compare prefill or decode alone.")
    ] = None,
    gpu: GpuOption = None,
    sms: SmsOption = None,
    sm: SmOption = None,
    library: LibraryOption = None,
    version: VersionOption = None,
    output_format: Annotated[
        DiffFormat,
        typer.Option(
            "--format", help="table, json, csv or md; of the gates junit (XML) or github (annotations)."
        ),
    ] = DiffFormat.TABLE,
) -> None:
    """Compare two runs: dispatch first, then time per phase, kernel and layer.

    Steps are matched by number; times are of the steps that both runs have. Exit code: 0, or 1 where a gate
    fails, 2 usage, 3 cannot tell (the runs have nothing in common to compare).

    \b
    Examples:
      attnprof diff short long
      attnprof diff before after --gate 5 --gate-dispatch
      attnprof diff a.sqlite b.sqlite --phase decode --format json
      attnprof diff --against main --gate-dispatch --format github
    """
    from attnprof.analysis.diff import compare_runs
    from attnprof.errors import EXIT_CANNOT_TELL, EXIT_CHECK_FAILED, EXIT_OK, UsageError
    from attnprof.gpus import gpu_from_options
    from attnprof.model import STEP_PHASES
    from attnprof.report.ci import to_github, to_junit
    from attnprof.report.diff import as_json, judge, print_diff, to_document
    from attnprof.report.diff_tables import csv_table
    from attnprof.report.tables import print_json, to_csv
    from attnprof.runs.run import load
    from attnprof.safety.next_command import next_command

    if phase not in (None, *STEP_PHASES):
        raise UsageError(f"--phase {phase} is none of {', '.join(STEP_PHASES)}")
    if output_format in (DiffFormat.JUNIT, DiffFormat.GITHUB) and gate is None and not gate_dispatch:
        raise UsageError(
            f"--format {output_format.value} shows gates", hint="give --gate-dispatch, --gate PCT or both"
        )
    a, b = _two_runs(a, b, against)
    target = gpu_from_options(gpu, sms, sm)
    runs = [load(a), load(b)]
    checks = [run.check(gpu=target, library=library, version=version) for run in runs]
    comparison = compare_runs(runs[0].recording, runs[1].recording, checks[0], checks[1], phase)
    gates = judge(comparison, gate, dispatch=gate_dispatch)
    nothing = not comparison.dispatch.shared and not comparison.measures
    exit_code = EXIT_CANNOT_TELL if nothing or any(g.passed is None for g in gates) else EXIT_OK
    if any(g.passed is False for g in gates):
        exit_code = EXIT_CHECK_FAILED
    if output_format is DiffFormat.TABLE:
        print_diff(comparison, gates, next_command("report", runs[1].recording.argument))
    elif output_format is DiffFormat.JUNIT:
        print(to_junit(comparison, gates), end="")
    elif output_format is DiffFormat.GITHUB:
        print(to_github(comparison, gates), end="")
    elif output_format is DiffFormat.CSV:
        print(to_csv(csv_table(comparison)), end="")
    elif output_format is DiffFormat.JSON:
        print_json(as_json(comparison, gates, exit_code))
    else:
        print(to_document(comparison, gates), end="")
    raise typer.Exit(exit_code)


def _two_runs(a: str | None, b: str | None, against: str | None) -> tuple[str, str | None]:
    """What A and B are: the two given, or the baseline and the one given, None for the newest run."""
    from attnprof.errors import UsageError
    from attnprof.runs.baselines import baseline

    if against is not None:
        if b is not None:
            raise UsageError("--against is A already", hint="give one run to compare with it, or none")
        return baseline(against).run, a
    if a is None or b is None:
        raise UsageError(
            "two runs are compared", hint="attnprof diff A B, or attnprof diff --against BASELINE"
        )
    return a, b
