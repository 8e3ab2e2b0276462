"""Many traces as one job: each is summarised on its own, here, in processes or on a cluster, then compared.

Only summaries travel between processes and machines: a few kilobytes per trace.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnprof.analysis.ranks import RankSummary, summary_of
from attnprof.errors import AttnprofError, TraceError, UsageError
from attnprof.runs.run import load
from attnprof.runs.run_folders import RUN_JSON

if TYPE_CHECKING:
    from attnprof.model import Gpu

_TRACE = re.compile(r"\.(sqlite3?|nsys-rep|qdrep|qdstrm|json)(\.gz)?$")
_REPORT = re.compile(r"\.(nsys-rep|qdrep|qdstrm)$")
_RANK = re.compile(r"rank[-_.=]?(\d+)|(\d+)(?!.*\d)", re.IGNORECASE)
_ATTEMPTS = 3


def is_job_folder(path: Path) -> bool:
    """Whether ``path`` is a folder of traces rather than a run."""
    return path.is_dir() and not (path / RUN_JSON).exists() and not _is_trace(path) and bool(_traces(path))


def find_traces(folder: Path) -> list[Path]:
    """The traces in a folder, in order of the numbers in their names.

    Of a report and its export the export is taken. Raises UsageError where there is none.
    """
    found = _traces(folder)
    if not found:
        raise UsageError(f"{folder} holds no trace", hint="give a folder with a trace file per rank")
    stems = {_TRACE.sub("", path.name) for path in found if not _REPORT.search(path.name)}
    kept = [p for p in found if not (_REPORT.search(p.name) and _TRACE.sub("", p.name) in stems)]
    return sorted(kept, key=_natural)


def _traces(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and _is_trace(path)]


def _is_trace(path: Path) -> bool:
    """By its name, or as a folder of an export's Parquet files."""
    if path.is_dir():
        return any(path.glob("*.parquet"))
    return _TRACE.search(path.name) is not None


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """A key that sorts rank-2 before rank-10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def labels(paths: Sequence[Path]) -> list[str]:
    """What to call each rank: the number in its file's name where these tell all apart, else the name."""
    found = [_RANK.search(_TRACE.sub("", path.name)) for path in paths]
    numbers = [match and (match[1] or match[2]) for match in found]
    if all(numbers) and len({int(number or 0) for number in numbers}) == len(paths):
        return [str(int(number or 0)) for number in numbers]
    return [_TRACE.sub("", path.name) for path in paths]


def summarise_rank(path: str, label: str, gpu: Gpu | None = None) -> RankSummary:
    """The summary of one trace; of one that cannot be read, why."""
    try:
        run = load(path)
        return summary_of(run.recording, run.check(gpu=gpu), label)
    except AttnprofError as error:
        return RankSummary(label, Path(path).name, error=error.message)


def summarise_all(
    paths: Sequence[Path], *, gpu: Gpu | None = None, workers: int | None = None, scheduler: str | None = None
) -> list[RankSummary]:
    """A summary per trace, in order, made on a Dask cluster, in ``workers`` processes, or here.

    Raises AttnprofError where the cluster cannot be reached or workers keep dying, TraceError where not one
    trace could be read.
    """
    tasks = [(str(path.absolute()), label, gpu) for path, label in zip(paths, labels(paths), strict=True)]
    if scheduler is not None:
        summaries = _on_cluster(scheduler, tasks)
    else:
        workers = min(len(tasks), workers or os.cpu_count() or 1)
        summaries = (
            [summarise_rank(*task) for task in tasks] if workers == 1 else _in_processes(tasks, workers)
        )
    if all(summary.error for summary in summaries):
        raise TraceError(f"none of {len(paths)} traces can be read: {summaries[0].error}")
    return summaries


_Task = tuple[str, str, "Gpu | None"]


def _in_processes(tasks: Sequence[_Task], workers: int) -> list[RankSummary]:
    """In processes of this machine; what was lost with a process that died is done again."""
    done: dict[int, RankSummary] = {}
    for _ in range(_ATTEMPTS):
        left = [number for number in range(len(tasks)) if number not in done]
        # Not forked: a copy of a process with threads may hang.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures: dict[int, Future[RankSummary]] = {}
            try:
                for number in left:
                    futures[number] = pool.submit(summarise_rank, *tasks[number])
            except BrokenProcessPool:
                pass
            for number, future in futures.items():
                if not isinstance(future.exception(), BrokenProcessPool):
                    done[number] = future.result()
        if len(done) == len(tasks):
            return [done[number] for number in range(len(tasks))]
    raise AttnprofError(
        f"processes reading traces were killed {_ATTEMPTS} times, perhaps for lack of memory",
        hint="--workers 1 reads one trace at a time",
    )


def _on_cluster(address: str, tasks: Sequence[_Task]) -> list[RankSummary]:
    """On the workers of a Dask scheduler, which see the files under the same names as this machine.

    The scheduler gives the tasks of a worker that dies to others.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise AttnprofError(
            "--scheduler needs dask.distributed, which is not installed", hint="pip install 'attnprof[dask]'"
        ) from error
    try:
        client = Client(address, timeout="5s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise AttnprofError(
            f"no Dask scheduler answers at {address}: {error}", hint="start one: dask scheduler"
        ) from error
    with client:
        _require_workers(client, address)
        futures = [client.submit(summarise_rank, *task, pure=False, retries=_ATTEMPTS) for task in tasks]
        try:
            summaries: list[RankSummary] = client.gather(futures)
        except KilledWorker as error:
            raise AttnprofError(
                f"the cluster gave up: {error}", hint="give the workers more memory, or fewer threads"
            ) from error
        except ModuleNotFoundError as error:
            raise AttnprofError(
                f"a worker of {address} cannot import {error.name}",
                hint="install attnprof on the workers too",
            ) from error
    return summaries


def _require_workers(client: Any, address: str) -> None:
    if not client.scheduler_info().get("workers"):
        raise AttnprofError(
            f"the scheduler at {address} has no worker", hint=f"start one: dask worker {address}"
        )


def say_how(paths: Sequence[Path], scheduler: str | None, say: Callable[[str], None] | None = None) -> None:
    """A line for a person who waits, where one looks on."""
    where = f"on the cluster at {scheduler}" if scheduler else "here"
    if say is not None or sys.stderr.isatty():
        (say or (lambda text: print(text, file=sys.stderr)))(f"reading {len(paths)} traces {where} …")
