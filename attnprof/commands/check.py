"""attnprof check: observed against predicted."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from attnprof.commands.options import (
    GpuOption,
    LibraryOption,
    RunArgument,
    SmOption,
    SmsOption,
    TableFormat,
    VersionOption,
)


def check(
    run: RunArgument = None,
    gpu: GpuOption = None,
    sms: SmsOption = None,
    sm: SmOption = None,
    library: LibraryOption = None,
    version: VersionOption = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="KERNEL",
            help="Every call must have run it: flash, nosplit, splitkv, flash3, efficient, cudnn.",
        ),
    ] = None,
    expect_splits: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Every call must have run with N splits.")
    ] = None,
    phase: Annotated[str | None, typer.Option(metavar="PHASE", help="Judge prefill or decode alone.")] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="VERDICTS", help="Verdicts that fail, comma-separated. Default: mismatch; also none."
        ),
    ] = None,
    min_compared: Annotated[
        float | None,
        typer.Option(metavar="PCT", help="Fail where fewer of a hundred calls were compared."),
    ] = None,
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
) -> None:
    """Compare the kernels that ran with the kernels the library should have launched.

    One verdict per attention call, and first how many were compared. Exit code: 0 at least one call was
    compared and none contradicts, 1 a contradiction or not as expected, 2 usage, 3 cannot tell: no call was
    compared. A call whose arguments were not recorded is read back: launches that no call makes fail, but
    what some call makes is explained, not compared.

    \b
    Examples:
      attnprof check
      attnprof check trace.sqlite --gpu h100 --format csv
      attnprof check my-run --expect flash --phase decode
    """
    from attnprof.analysis.layer_kinds import layer_kinds
    from attnprof.analysis.splits import split_rows
    from attnprof.check.expectations import Expectation, judge, parse_fail_on
    from attnprof.gpus import gpu_from_options
    from attnprof.report.run_tables import splits_table, verdicts_table
    from attnprof.report.tables import Column, Table, print_json, write_csv, write_markdown
    from attnprof.report.text import print_check
    from attnprof.runs.run import load

    expectation = Expectation(
        expect, expect_splits, phase, None if fail_on is None else parse_fail_on(fail_on), min_compared
    )
    loaded = load(run)
    result = loaded.check(gpu=gpu_from_options(gpu, sms, sm), library=library, version=version)
    judgement = judge(result, expectation)
    if loaded.ending != "complete":
        print(f"note: {loaded.name}: {loaded.ending}", file=sys.stderr)
    if result.disbelief:
        print(f"note: {result.disbelief}", file=sys.stderr)
    if output_format is TableFormat.TABLE:
        splits = split_rows(result.calls)
        tables = splits_table(splits, layer_kinds(splits)), verdicts_table(result)
        print_check(judgement, tables, run or loaded.name)
        raise typer.Exit(judgement.exit_code)
    from attnprof.check.call_rows import CALL_COLUMNS, CallRows

    columns = [Column(name) for name in CALL_COLUMNS] if len(result.calls) else [Column("verdict")]
    table = Table("calls", columns, CallRows(result.calls))
    if output_format is TableFormat.JSON:
        counts = {verdict.value: count for verdict, count in result.counts.items()}
        summary = {
            "run": loaded.name,
            "exit_code": judgement.exit_code,
            "cannot_tell": judgement.cannot_tell or None,
            "phases_unknown": result.disbelief,
            "hint": judgement.hint or None,
            "library": result.library,
            "version": result.version,
            "gpu": result.gpu.name if result.gpu else None,
            "compared": {
                "calls": judgement.coverage.compared,
                "of": judgement.coverage.calls,
                "percent": round(judgement.coverage.percent, 2),
                "sentence": judgement.coverage.sentence,
            },
            "counts": counts,
            "explained": dict(result.strengths),
            "findings": [
                {"seq": f.call.seq if f.call else None, "what": f.label, "detail": f.detail}
                for f in judgement.findings
            ],
        }
        print_json(summary, rows=table)
    elif output_format is TableFormat.CSV:
        write_csv(table, sys.stdout)
    else:
        write_markdown(table, sys.stdout)
    raise typer.Exit(judgement.exit_code)
