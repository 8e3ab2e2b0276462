"""Whether a trace holds what the questions need, and whether it is the one it seems to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attnprof.analysis.kernel_groups import GROUPS, kernel_group
from attnprof.arrays import occurring
from attnprof.dispatch.names.kernel_names import short_name
from attnprof.doctor.finding import Finding, fail, ok, warn
from attnprof.errors import AttnprofError
from attnprof.report.tables import percent
from attnprof.runs.run import load
from attnprof.trace.companion_files import (
    BrokenExportError,
    ago,
    refuse_unfinished,
    report_beside,
    seconds_late,
)
from attnprof.trace.timeline import NO_PHASE, PHASE_NAMES
from attnprof.trace.whole_graphs import are_whole_graphs

if TYPE_CHECKING:
    from attnprof.runs.run import Run
    from attnprof.trace.tables import Bool

_RECORD = "attnprof run -- python script.py records ranges without a change to the script"


def examine_trace(target: str) -> Iterator[Finding]:
    """One finding after another for a run or a trace file."""
    path = Path(target)
    yield from _stale(path)
    try:
        run = load(target)
        trace = run.trace
    except AttnprofError as error:
        yield fail("trace", error.message, error.hint)
        return
    info = trace.info
    schema = f", schema {info.schema}" if info.schema else ""
    yield ok("trace", f"{run.name}: whole and readable, {info.exporter or info.format}{schema}")
    if run.folder is not None:
        yield from _stale(run.folder / "trace.sqlite")
        if run.status != "complete":
            yield warn("run", f"{run.ending}: the end is missing", "record it again")
    yield from _kernels(run)
    yield from _graphs(run)
    yield from _ranges(run)
    yield from _losses(run)
    yield from _gpu(run)


def _stale(path: Path) -> Iterator[Finding]:
    """An export that is older than the report beside it is of an earlier recording."""
    report = report_beside(path) if path.exists() else None
    if report is None:
        return
    again = f"nsys export --type sqlite --force-overwrite true -o {path.name} {report.name}"
    try:
        refuse_unfinished(path)
    except BrokenExportError as broken:
        yield fail("export", broken.message, again)
        return
    if late := seconds_late(path, report):
        found = f"{path.name} is {ago(late)} older than {report.name}: it is of an earlier recording"
        yield fail("export", found, again)
    else:
        yield ok("export", f"{path.name} is newer than {report.name}")


def _kernels(run: Run) -> Iterator[Finding]:
    count = run.trace.num_kernels
    if not count:
        if run.records:
            found = (
                f"none; {len(run.records):,} attention calls are recorded, so their dispatch can be predicted"
            )
            yield warn("kernels", found, "record on a machine with an NVIDIA GPU to observe")
        else:
            yield fail(
                "kernels",
                "none, and no attention call: nothing to check",
                "capture with --trace=cuda,nvtx on a GPU",
            )
        return
    lost = int(np.count_nonzero((run.timeline.launch < 0) & ~are_whole_graphs(run.trace)))
    if lost:
        text = f"{count:,}; {lost:,} of them have no launching call, so no step, layer or call"
        yield warn(
            "kernels",
            text,
            "the trace was cut, or recorded without the CUDA API: capture with --trace=cuda,nvtx",
        )
    else:
        yield ok("kernels", f"{count:,}, each with its launch")
    observed = run.observed
    if not len(observed):
        yield _without_attention(run)
        return
    libraries = sorted({shape.main.library for shape in observed.shapes})
    calls = "1 call" if len(observed) == 1 else f"{len(observed):,} calls"
    yield ok("attention", f"{calls} ({', '.join(libraries)})")


def _without_attention(run: Run) -> Finding:
    """That no kernel of an attention library is among those recorded, and what that can mean."""
    if run.trace.info.whole_graph_launches:
        found = "no kernel of an attention library outside the CUDA graphs, whose kernels are hidden"
        return warn("attention", found, "capture with --cuda-graph-trace=node (attnprof run does)")
    strings = run.trace.strings
    names = [strings[name] for name in occurring(run.trace.kernels.name, len(strings)).tolist()]
    unknown = sorted(
        name for name in names if kernel_group(name) == GROUPS[-1] and "at::native::" not in name
    )
    if unknown:
        found = f"no kernel attnprof knows as attention; {_many(len(unknown))} it cannot place may be"
        return warn("attention", f"{found}: {short_name(unknown[0])}", "attnprof report lists the kernels")
    return warn(
        "attention",
        "no kernel of an attention library: attention ran as plain GEMMs, or not at all",
        "attnprof report lists the kernels; attnprof check --expect flash makes it a failure",
    )


def _many(count: int) -> str:
    return "1 kernel" if count == 1 else f"{count} kernels"


def _spent_in(run: Run, mine: Bool) -> str:
    """These kernels' share of the GPU time, "" where there is none."""
    kernels = run.trace.kernels
    spent = kernels.end - kernels.start
    return percent(int(spent[mine].sum()) / int(spent.sum())) if spent[mine].any() else ""


def _graphs(run: Run) -> Iterator[Finding]:
    whole = run.trace.info.whole_graph_launches
    inside = int(np.count_nonzero(run.trace.kernels.graph_node))
    if whole:
        found = f"{whole:,} CUDA graph launches were recorded whole: the kernels inside are not in the trace"
        spent = _spent_in(run, are_whole_graphs(run.trace))
        if spent:
            found += f", {spent} of the GPU time with them"
        yield fail("graphs", found, "capture with --cuda-graph-trace=node (attnprof run does)")
    elif inside:
        yield ok("graphs", f"{inside:,} kernels inside CUDA graphs, recorded one by one")


def _ranges(run: Run) -> Iterator[Finding]:
    ranges, domains = run.trace.ranges, run.trace.info.nvtx_domains
    recorder = (run.config.get("capture") or {}).get("recorder")
    if not len(ranges):
        if domains:
            found = (
                f"NVTX domains ({', '.join(domains[:3])}) but not one range: nothing was annotated, "
                "or nvtx is too new for this nsys"
            )
            yield fail("ranges", found, "capture again with attnprof run, or with nvtx 0.2.11")
        elif recorder == "none":
            yield warn("ranges", "none: recorded without a profiler", "attnprof run --capture nsys")
        else:
            yield warn("ranges", "none: kernels get no phase, step or layer", _RECORD)
        return
    attributes = run.timeline.of_range
    steps = {
        name: len(np.unique(attributes.step[attributes.phase == phase]))
        for phase, name in PHASE_NAMES.items()
        if phase != NO_PHASE
    }
    if not sum(steps.values()):
        yield warn("ranges", f"{len(ranges):,}, none of which names prefill or decode", _RECORD)
        return
    layers = len(np.unique(attributes.layer[attributes.layer >= 0]))
    counts = " and ".join(f"{count} {name}" for name, count in steps.items() if count)
    text = f"{len(ranges):,}: {counts} steps, {layers} layers"
    calls = len(np.unique(attributes.call[attributes.call >= 0]))
    if run.records_complete and calls < len(run.records):
        lost = f"{text}; {len(run.records):,} calls were recorded but {calls:,} of their ranges arrived"
        yield warn("ranges", lost, "attnprof doctor without a trace tests nvtx with this nsys")
    else:
        yield ok("ranges", text)


def _losses(run: Run) -> Iterator[Finding]:
    said = [note for note in run.trace.info.notes if note.startswith("nsys says:")]
    for note in said:
        yield warn("losses", note, "record fewer steps at once, or with a newer Nsight Systems")
    if run.trace.info.format == "nsys-sqlite":  # a profiler does not say what it lost
        if not said:
            yield ok("losses", "nsys reports none")
    elif run.records and (unseen := run.check().unseen):
        yield warn("losses", unseen, "record fewer steps or layers at once, or with nsys")


def _gpu(run: Run) -> Iterator[Finding]:
    if not len(run.trace.kernels):
        return
    gpu = run.observed_gpu
    if gpu is None:
        yield warn(
            "gpu",
            "the trace does not state the SM count: split counts cannot be checked",
            "give --gpu NAME, or --sms N --sm X.Y, to check and report",
        )
    else:
        capability = "" if gpu.vendor == "amd" else f", sm {gpu.sm_major}.{gpu.sm_minor}"
        yield ok("gpu", f"{gpu.name}, {gpu.num_sms} {gpu.units}{capability}")
