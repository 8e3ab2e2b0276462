"""From recorded files to a run folder that can be asked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnprof.runs import run_folders
from attnprof.runs.compiled_calls import with_compiled_calls
from attnprof.runs.run_builder import RunBuilder, new_run, refuse_taken
from attnprof.trace.capture_join import with_captures
from attnprof.trace.merge_traces import merged
from attnprof.trace.open_trace import open_trace
from attnprof.trace.process_numbers import numbered_through
from attnprof.trace.saved_trace import save_trace
from attnprof.trace.timeline import timeline_columns
from attnprof.version import __version__

if TYPE_CHECKING:
    from attnprof.model import Gpu
    from attnprof.trace.tables import Trace

DERIVED = (run_folders.TRACE_NPZ, run_folders.DATABASE)  # made of a recording; the database when asked for
ENDINGS = re.compile(r"(\.sqlite3?|\.nsys-rep|\.qdrep|\.qdstrm|\.pt\.trace|\.json|\.gz|\.db)+$")
_FRONT_END = re.compile(r"async_?llm|frontend", re.IGNORECASE)


def import_trace(
    path: Path,
    *,
    name: str | None = None,
    force: bool = False,
    gpu: Gpu | None = None,
    nsys: str | None = None,
    captures: Sequence[Path] = (),
) -> tuple[Path, Trace]:
    """A new run from a trace file; returns its folder and the trace. The file itself is not copied.

    ``captures`` are other traces, of the captures of the CUDA graphs that it replays. Raises TraceError where
    a file cannot be read or no capture fits, RunError where the name is taken.
    """
    if name is not None:
        refuse_taken(name, force=force)
    trace = open_trace(path, nsys=nsys, details=True)
    if captures:
        from attnprof.check.observed_calls import role_in_capture

        trace = with_captures(trace, captures, role_in_capture, nsys=nsys)
    config = {
        "kind": "import",
        "source": {"path": str(path), "bytes": path.stat().st_size},
        "predict": {"gpu": asdict(gpu)} if gpu else {},
    }
    stem = ENDINGS.sub("", path.name).lstrip(".") or "trace"
    known = {"config": config, "source": str(path.absolute()), "nsys": nsys}
    with new_run(name or stem, force=force, numbered=name is None, known=known) as builder:
        folder = finish(builder, trace, config)
    return folder, trace


def import_ranks(
    paths: Sequence[Path],
    *,
    name: str | None,
    stem: str,
    force: bool = False,
    gpu: Gpu | None = None,
    server: dict[str, Any] | None = None,
    note: str = "",
) -> tuple[Path, Trace, int]:
    """A new run from the traces of all ranks of one job, on one timeline; the files are copied into it.

    Returns its folder, the trace and the number of ranks. A trace of the front end, which launches nothing,
    is left out. ``server`` says whose they are. Raises TraceError where one cannot be read, RunError where
    the name is taken.
    """
    ranks = [path for path in paths if not _FRONT_END.search(path.name)] or list(paths)
    trace = merged([open_trace(path) for path in ranks])
    if note:
        trace = replace(trace, info=replace(trace.info, notes=(*trace.info.notes, note)))
    total = sum(path.stat().st_size for path in ranks)
    config = {
        "kind": "import",
        "source": {"path": str(ranks[0].parent), "bytes": total},
        "predict": {"gpu": asdict(gpu)} if gpu else {},
        "server": server or {},
    }
    known = {"config": config, "source": str(ranks[0].absolute())}
    with new_run(name or stem, force=force, numbered=name is None, known=known) as builder:
        place = builder.folder / "traces"
        place.mkdir()
        for path in ranks:
            shutil.copyfile(path, place / path.name)
        folder = finish(builder, trace, config)
    return folder, trace, len(ranks)


def finish_recorded(builder: RunBuilder, trace: Path | None, config: dict[str, Any], status: str) -> Path:
    """Makes the run of a recording that has ended; ``trace`` is the recorder's file in the run folder.

    From here on nothing is recorded in vain: what stops the rest leaves the folder to be resumed.
    """
    builder.note(recorded={"config": config, "status": status, "trace": trace.name if trace else None})
    read = open_trace(trace) if trace else no_trace()
    builder.kept = True
    calls = builder.folder / run_folders.CALLS_JSONL
    if read.attention_ops is not None and calls.exists():
        read, added = with_compiled_calls(read, calls)
        workload = config.get("workload") or {}
        if added and workload.get("num_calls") is not None:
            workload["num_calls"] += added
    try:
        return finish(builder, read, config, status)
    except BaseException:
        for name in DERIVED:  # they are made again, and may be what filled the disk
            (builder.folder / name).unlink(missing_ok=True)
        raise


def finish(builder: RunBuilder, trace: Trace, config: dict[str, Any], status: str = "complete") -> Path:
    """Writes what every run folder holds beside the recorder's files, and gives the folder its final name."""
    from attnprof.runs.run import Run

    trace = numbered_through(trace, (config.get("workload") or {}).get("processes") or ())
    made = {**builder.heading, "status": status, "attnprof": __version__}
    config = {**made, **config, "trace": trace_summary(trace)}
    run = Run(builder.final.name, folder=builder.folder, trace_path=None, config=config)
    run.__dict__["trace"] = trace  # just read: no need to read it back
    told = replace(trace, info=replace(trace.info, notes=run.timeline.notes))  # what the joins found too
    save_trace(told, builder.folder / run_folders.TRACE_NPZ, timeline_columns(run.timeline))
    return builder.finish(config)


def no_trace() -> Trace:
    """The trace of a run without a recorder: no row in any table."""
    import numpy as np

    from attnprof.trace.tables import ApiCalls, Kernels, Ranges, Trace, TraceInfo

    time, ids, flags = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.bool_)
    shapes = np.empty((0, 6), np.int32)
    return Trace(
        TraceInfo(path="", format="nsys-sqlite", notes=("recorded without a profiler",)),
        Kernels(time, time, ids, ids, ids, ids, time, time, ids, shapes),
        ApiCalls(time, time, ids, ids, time, time),
        Ranges(time, time, ids, ids, time, ids, time, flags, flags),
    )


def trace_summary(trace: Trace) -> dict[str, Any]:
    """What run.json says of the trace."""
    info = asdict(trace.info)
    info["path"] = Path(trace.info.path).name
    return {
        **info,
        "kernels": trace.num_kernels,
        "api_calls": len(trace.api_calls),
        "ranges": len(trace.ranges),
    }
