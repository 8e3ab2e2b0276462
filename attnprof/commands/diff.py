"""attnprof diff: two runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from attnprof.commands.options import (
    GpuOption,
    LibraryOption,
    SmOption,
    SmsOption,
    TableFormat,
    VersionOption,
)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's name or folder, or a trace file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The run or trace to compare with it.")],
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
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """Compare two runs: dispatch first, then time per phase, kernel and layer.

    Steps are matched by number; times are of the steps that both runs have. Exit code: 0, or 1 where a gate
    fails, 2 usage, 3 cannot tell (the runs have nothing in common to compare).

    \b
    Examples:
      attnprof diff short long
      attnprof diff before after --gate 5 --gate-dispatch
      attnprof diff a.sqlite b.sqlite --phase decode --format json
    """
    from attnprof.analysis.diff import compare_runs
    from attnprof.errors import EXIT_CANNOT_TELL, EXIT_CHECK_FAILED, EXIT_OK, UsageError
    from attnprof.model import STEP_PHASES
    from attnprof.report.diff import as_json, judge, print_diff, to_document
    from attnprof.report.diff_tables import csv_table
    from attnprof.report.tables import print_json, to_csv
    from attnprof.runs.run import gpu_from_options, load
    from attnprof.safety.next_command import next_command

    if phase not in (None, *STEP_PHASES):
        raise UsageError(f"--phase {phase} is none of {', '.join(STEP_PHASES)}")
    target = gpu_from_options(gpu, sms, sm)
    runs = [load(a), load(b)]
    checks = [run.check(gpu=target, library=library, version=version) for run in runs]
    comparison = compare_runs(runs[0].recording, runs[1].recording, checks[0], checks[1], phase)
    gates = judge(comparison, gate, dispatch=gate_dispatch)
    nothing = not comparison.dispatch.shared and not comparison.measures
    exit_code = EXIT_CANNOT_TELL if nothing or any(g.passed is None for g in gates) else EXIT_OK
    if any(g.passed is False for g in gates):
        exit_code = EXIT_CHECK_FAILED
    if output_format is TableFormat.TABLE:
        print_diff(comparison, gates, next_command("report", b))
    elif output_format is TableFormat.CSV:
        print(to_csv(csv_table(comparison)), end="")
    elif output_format is TableFormat.JSON:
        print_json(as_json(comparison, gates, exit_code))
    else:
        print(to_document(comparison, gates), end="")
    raise typer.Exit(exit_code)
