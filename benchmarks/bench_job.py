#!/usr/bin/env python3
"""A job of many ranks on a Dask cluster: measured with as many workers as there are cores, else modelled.

    python -m benchmarks.bench_job                      # 64 ranks x 200,000 kernels, 1 and 2 workers
    python -m benchmarks.bench_job --ranks 8 --measured 1 2

Ranks are hard links of one export (``synthetic.py``). Each worker is a process of one thread, just started:
its first rank imports attnprof too. Measured are the wall time of the whole job (connected, submitted,
gathered), each rank's CPU time in its worker, first and later ones, and the CPU time that scheduler and
client need for a task that reads nothing. The model of W workers: ranks in turns, ceil(ranks / W) per worker,
the first of them with the import; and the cluster's part, which does not get shorter, once per rank. In it
each worker has a core of its own, and no disk is waited for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from attnprof.runs.rank_traces import find_traces, labels, summarise_all
from benchmarks.synthetic import write_sqlite


def cpu_of_rank(path: str, label: str) -> tuple[int, float, float]:
    """(process, CPU seconds, wall seconds) of one rank's summary."""
    wall, cpu = time.perf_counter(), time.process_time()
    from attnprof.runs.rank_traces import summarise_rank

    assert summarise_rank(path, label).error == ""
    return os.getpid(), time.process_time() - cpu, time.perf_counter() - wall


def make_ranks(folder: Path, ranks: int, kernels: int) -> None:
    first = folder / "run_rank0.sqlite"
    write_sqlite(first, kernels)
    for rank in range(1, ranks):
        os.link(first, folder / f"run_rank{rank}.sqlite")


def measure(folder: Path, workers: int) -> tuple[float, float, float, float]:
    """Seconds: wall time of the job; CPU of a worker's first rank, of a later one, of this end for a task."""
    from distributed import Client, LocalCluster

    paths = find_traces(folder)
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        began = time.perf_counter()
        summaries = summarise_all(paths, scheduler=cluster.scheduler_address)
        job = time.perf_counter() - began
        assert not any(summary.error for summary in summaries)
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        tasks = list(zip(map(str, paths), labels(paths), strict=True))
        taken = client.gather([client.submit(cpu_of_rank, *task, pure=False) for task in tasks])
        seen = set[int]()
        first, later = [], []
        for process, cpu, _ in taken:
            (later if process in seen else first).append(cpu)
            seen.add(process)
        began = time.process_time()  # the scheduler is in this process
        client.gather([client.submit(os.getpid, pure=False) for _ in range(500)])
        empty = (time.process_time() - began) / 500
    return job, max(first), statistics.median(later), empty


def modelled(ranks: int, workers: int, first: float, later: float, empty: float) -> float:
    """Wall seconds of the job on so many workers, each with a core of its own."""
    return first + (-(-ranks // workers) - 1) * later + ranks * empty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--kernels", type=int, default=200_000)
    parser.add_argument("--measured", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--modelled", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_ranks(Path(name), options.ranks, options.kernels)
        print(f"{options.ranks} ranks x {options.kernels:,} kernels; load {os.getloadavg()[0]:.1f} before")
        for workers in options.measured:
            job, first, later, empty = measure(Path(name), workers)
            print(
                f"measured, {workers} workers: job {job:.1f} s; CPU of a first rank {first:.2f} s, "
                f"of a later one {later:.2f} s; of the cluster for a task {empty * 1000:.2f} ms"
            )
    for workers in options.modelled:
        seconds = modelled(options.ranks, workers, first, later, empty)
        print(f"modelled, {workers} workers: {seconds:.1f} s, {seconds / first:.2f}x the slowest rank")


if __name__ == "__main__":
    main()
