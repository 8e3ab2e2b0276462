"""attnprof import: a trace somebody else made becomes a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnprof.commands.options import GpuOption, ReplaceRunOption, RunNameOption, SmOption, SmsOption


def import_(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE...", help="nsys .sqlite, .nsys-rep, .qdstrm or torch profiler .json, also gzipped."
        ),
    ],
    output: RunNameOption = None,
    force: ReplaceRunOption = False,
    graph_capture: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TRACE",
            help="A trace of the capture of the CUDA graphs that TRACE replays: it names their layers.",
        ),
    ] = None,
    gpu: GpuOption = None,
    sms: SmsOption = None,
    sm: SmOption = None,
    nsys: Annotated[
        str | None, typer.Option(metavar="PATH", help="The nsys that exports .nsys-rep files.")
    ] = None,
) -> None:
    """Ingest traces made by nsys or torch.profiler, so that report and check can answer for them.

    \b
    Examples:
      attnprof import profile.sqlite
      attnprof import trace.json.gz -o decode --gpu l40
      attnprof import decode.json.gz --graph-capture capture_bs_32.json.gz
    """
    from attnprof.errors import UsageError
    from attnprof.gpus import gpu_from_options
    from attnprof.machine.process_guard import guarded
    from attnprof.runs.ingest import import_trace
    from attnprof.safety.next_command import next_command

    if output is not None and len(traces) > 1:
        raise UsageError("-o names one run, but several traces are given", hint="import them one by one")
    target = gpu_from_options(gpu, sms, sm)
    for path in traces:
        with guarded():  # nsys exports its reports
            folder, trace = import_trace(
                path, name=output, force=force, gpu=target, nsys=nsys, captures=graph_capture or ()
            )
        source = trace.info.exporter or trace.info.format
        print(f"{folder}: {trace.num_kernels:,} kernels, {len(trace.ranges):,} ranges, from {source}")
        for note in trace.info.notes:
            print(f"  note: {note}")
        print(f"next: {next_command('report', folder.name)}")
