"""attnprof report: what ran, on what, from which step on with how many splits."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
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


class ReportTable(str, Enum):
    """The tables of a report that CSV can hold one at a time."""

    KERNELS = "kernels"
    ATTENTION = "attention"
    SPLITS = "splits"
    PHASES = "phases"
    STEPS = "steps"
    SPLITTING = "splitting"
    VERDICTS = "verdicts"


def report(
    run: RunArgument = None,
    gpu: GpuOption = None,
    sms: SmsOption = None,
    sm: SmOption = None,
    library: LibraryOption = None,
    version: VersionOption = None,
    output_format: Annotated[
        TableFormat, typer.Option("--format", help="table, json, csv or md.")
    ] = TableFormat.TABLE,
    table: Annotated[
        ReportTable | None,
        typer.Option(
            help="The table that --format csv writes. Default: kernels where kernels ran, else splits."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Draw num_splits and kernel over decode steps (.png, .svg, .pdf)."
        ),
    ] = None,
) -> None:
    """Show a run: phases, attention kernels, the split timeline and the check's verdict.

    \b
    Examples:
      attnprof report
      attnprof report my-run --plot splits.png
      attnprof report trace.sqlite --format csv
    """
    from attnprof.report.tables import to_csv, to_markdown
    from attnprof.session import gpu_from_options, load
    from attnprof.summary import summarise

    loaded = load(run)
    target = gpu_from_options(gpu, sms, sm)
    summary = summarise(loaded, loaded.check(gpu=target, library=library, version=version))  # type: ignore[arg-type]
    if output_format is TableFormat.TABLE:
        from attnprof.report.text import print_report

        print_report(summary)
    elif output_format is TableFormat.CSV:
        has_kernels = bool(summary.tables["kernels"].rows)
        name = table.value if table else "kernels" if has_kernels else "splits"
        sys.stdout.write(to_csv(summary.tables[name]))
    elif output_format is TableFormat.JSON:
        content = {
            "run": summary.name,
            "facts": dict(summary.facts),
            "answer": list(summary.story),
            **{name: part.objects() for name, part in summary.tables.items()},
            "exit_code": summary.check.exit_code,
            "cannot_tell": summary.check.cannot_tell or None,
            "notes": list(summary.notes),
        }
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        print(f"# attnprof report: {summary.name}\n")
        print("\n".join(f"- {label}: {text}" for label, text in summary.facts), end="\n\n")
        print("\n".join(summary.story), end="\n\n")
        for name, part in summary.tables.items():
            if part.rows:
                print(f"## {name}\n\n{to_markdown(part)}")
    if plot is not None:
        from attnprof.report.figures import plot_splits, save_figure

        save_figure(plot_splits(summary.splits, title=summary.name), plot)
        print(f"wrote {plot}", file=sys.stderr)
