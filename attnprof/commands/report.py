"""attnprof report: what ran, on what, from which step on with how many splits."""

from __future__ import annotations

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
from attnprof.errors import UsageError


class ReportTable(str, Enum):
    """The tables of a report that CSV can hold one at a time."""

    KERNELS = "kernels"
    ATTENTION = "attention"
    SPLITS = "splits"
    KINDS = "kinds"
    PHASES = "phases"
    STEPS = "steps"
    MODULES = "modules"
    TOKENS = "tokens"
    CACHE = "cache"
    CACHE_STEPS = "cache_steps"
    SERVING = "serving"
    GRAPHS = "graphs"
    PROCESSES = "processes"
    SPLITTING = "splitting"
    ROOFLINE = "roofline"
    ADVICE = "advice"
    VERDICTS = "verdicts"
    RANKS = "ranks"
    STRAGGLERS = "stragglers"
    DISPATCH = "dispatch"


class FigureKind(str, Enum):
    """The figures of a run."""

    SPLITS = "splits"
    CALLS = "calls"
    ROOFLINE = "roofline"
    STEP = "step"
    PHASES = "phases"
    MODULES = "modules"
    SHARE = "share"


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
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write the whole report as one page that opens anywhere."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw a figure (.png, .svg, .pdf); --figure says which."),
    ] = None,
    figure: Annotated[
        FigureKind | None,
        typer.Option(
            help="splits: num_splits per decode step; calls: attention calls in order; roofline: what they"
            " read and compute against the card's peak; step: the kernels of one decode step by stream;"
            " phases: GPU time by phase and kind of kernel; modules: by phase and what it works for;"
            " share: attention's share against KV length."
            " Default: splits, else what the run can show."
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(metavar="N", help="The step of --figure step. Default: the middle one.")
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="EVIDENCE",
            help="What such a card reached: evidence.json of benchmarks.gpu_evidence, or its folder.",
        ),
    ] = None,
    nsys_reports: Annotated[
        str | None,
        typer.Option(
            "-r",
            "--report",
            metavar="NAMES",
            help="nsys's own reports instead, comma-separated: nvtx_gpu_proj_trace, nvtx_kern_sum,"
            " cuda_gpu_kern_sum, cuda_gpu_trace, also by their old names.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="STEM", help="Write each --report to STEM_<report>.<format>."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Folder of traces: read so many at once. Default: one per CPU."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Folder of traces: read them on this Dask cluster, tcp://…."),
    ] = None,
) -> None:
    """Show a run: phases, attention kernels, the split timeline and the check's verdict.

    A folder of traces is one job: its ranks side by side, who is slow, and whose dispatch differs.

    \b
    Examples:
      attnprof report
      attnprof report my-run --html report.html
      attnprof report my-run --plot step.png --figure step
      attnprof report trace.sqlite --format csv
      attnprof report trace.sqlite --report nvtx_gpu_proj_trace --format csv
      attnprof report traces/ --scheduler tcp://node0:8786
    """
    if nsys_reports is not None:
        from attnprof.commands.nsys_reports import write_nsys_reports

        write_nsys_reports(run, nsys_reports, output_format, output)
        return
    if output is not None:
        raise UsageError("-o goes with --report", hint="redirect the output: attnprof report … > FILE")
    if run is not None and Path(run).is_dir():
        from attnprof.runs.rank_traces import is_job_folder

        if is_job_folder(Path(run)):
            from attnprof.commands.ranks import report_ranks
            from attnprof.gpus import gpu_from_options

            asked = table.value if table else None
            chosen = gpu_from_options(gpu, sms, sm)
            report_ranks(Path(run), output_format, asked, gpu=chosen, workers=workers, scheduler=scheduler)
            return
    if workers is not None or scheduler is not None:
        raise UsageError("--workers and --scheduler are for a folder of traces", hint="give the folder")
    if table in (ReportTable.RANKS, ReportTable.STRAGGLERS, ReportTable.DISPATCH):
        raise UsageError(f"--table {table.value} is of a folder of traces", hint="give the folder")
    from attnprof.gpus import gpu_from_options
    from attnprof.report.summary import summarise
    from attnprof.report.tables import print_json, to_csv, to_markdown
    from attnprof.runs.run import load
    from attnprof.safety.quoting import markdown_words
    from attnprof.safety.redact import redact

    loaded = load(run)
    target = gpu_from_options(gpu, sms, sm)
    recording = loaded.recording
    peaks = None
    if measured is not None:
        from attnprof.commands.measured_evidence import read_peaks

        peaks = read_peaks(measured)
    summary = summarise(recording, loaded.check(gpu=target, library=library, version=version), peaks)
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
        print_json(content)
    else:
        print(f"# attnprof report: {markdown_words(redact(summary.name))}\n")
        facts = [f"- {label}: {markdown_words(redact(text))}" for label, text in summary.facts]
        print("\n".join(facts), end="\n\n")
        print("\n".join(markdown_words(redact(text)) for text in summary.story), end="\n\n")
        for name, part in summary.tables.items():
            if part.rows:
                print(f"## {name}\n\n{to_markdown(part)}")
    if html is not None:
        from attnprof.report.html import save_page
        from attnprof.report.page_contents import make_page

        save_page(make_page(recording, summary), html, loaded.files)
        print(f"wrote {html}", file=sys.stderr)
    if plot is not None:
        from attnprof.report.call_figures import FigureName, figure_of
        from attnprof.report.figures import plot_splits, save_figure
        from attnprof.report.redacted import redacted

        kind: FigureName
        if figure is None:
            kind, why = figure_of(summary.splits, len(summary.check.calls), len(recording.trace.kernels))
        else:
            kind, why = figure.value, ""
        if kind == "splits":
            drawn = plot_splits(summary.splits, title=redact(summary.name))
        else:
            from attnprof.report.recording_figures import draw

            drawn = draw(kind, redacted(recording), step)
        save_figure(drawn, plot, loaded.files)
        print(f"wrote {plot}{f' (--figure {kind}: {why})' if why else ''}", file=sys.stderr)
