"""A folder of traces as one job: in this process, in several, and on a Dask cluster that loses a worker."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from attnprof.analysis.job import build_job
from attnprof.runs.rank_traces import find_traces, labels, summarise_all
from tests.support.command import attnprof
from tests.support.graph_trace import GraphTrace

STEPS = 6


def rank_trace(path: Path, *, prompt: int = 1000, kernel_ns: int = 400, slow_step: int | None = None) -> Path:
    """A prefill and decode steps; ``slow_step`` takes ten times as long as the others."""
    made = GraphTrace(kernel_ns=kernel_ns)
    made.eager(prompt, prompt)
    for step in range(1, STEPS + 1):
        made.kernel_ns = kernel_ns * (10 if step == slow_step else 1)
        made.eager(1, prompt + step)
    return made.write(path)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 ranks: rank 5 holds more keys, rank 7 is slow, most of all in step 4."""
    folder = tmp_path_factory.mktemp("job")
    for rank in range(32):
        odd: dict[str, Any] = {5: {"prompt": 1022}, 7: {"kernel_ns": 440, "slow_step": 4}}.get(rank, {})
        rank_trace(folder / f"run_rank{rank}.sqlite", **odd)
    return folder


@pytest.fixture(scope="module")
def alone(job: Path) -> list[Any]:
    """The summaries made one by one in this process."""
    return summarise_all(find_traces(job), workers=1)


def test_ranks_stand_in_order_of_their_numbers(job: Path) -> None:
    paths = find_traces(job)
    assert labels(paths) == [str(rank) for rank in range(32)]


def test_an_export_beside_its_report_counts_once(tmp_path: Path) -> None:
    for name in ("a.nsys-rep", "a.sqlite", "b.nsys-rep", "notes.txt", ".hidden.sqlite"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in find_traces(tmp_path)] == ["a.sqlite", "b.nsys-rep"]
    assert labels(find_traces(tmp_path)) == ["a", "b"]


def test_the_slow_rank_and_the_other_dispatch_are_found(alone: list[Any]) -> None:
    found = build_job(alone)
    (slow,) = found.stragglers
    assert (slow.label, slow.worst_step and slow.worst_step[0]) == ("7", 4)
    assert slow.over > 1.1
    (other,) = found.differences
    assert (other.label, other.phase, other.step, other.layers) == ("5", "decode", 3, (0, 1, 2))
    assert (other.ran[1], other.usual[1]) == (9, 8)
    assert sum(kernel.instances for kernel in found.kernels) == sum(rank.kernels for rank in alone)
    assert sum(kernel.total_ns for kernel in found.kernels) == sum(rank.gpu_ns for rank in alone)


def test_processes_give_what_one_process_gives(job: Path, alone: list[Any]) -> None:
    assert summarise_all(find_traces(job), workers=2) == alone


def test_a_report_of_the_folder_names_who_is_odd(job: Path) -> None:
    done = attnprof("report", str(job), "--workers", "1")
    said = " ".join(done.out.split())
    assert "32 ranks, each on NVIDIA H100 80GB HBM3" in said
    assert "slow rank 7: its kernels take" in said
    assert "furthest behind in step 4" in said
    assert "rank 5 runs 9 splits from decode step 3 in layers 0–2; most ranks run 8 splits" in said
    assert all(len(line) <= 100 for line in done.out.splitlines())


def test_every_format_holds_every_rank(job: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(attnprof("report", str(job), "--format", "csv").out)))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(32)]
    content = json.loads(attnprof("report", str(job), "--format", "json", "--workers", "1").out)
    assert len(content["ranks"]) == len(content["phases_per_rank"]) == 32
    assert [phase["phase"] for phase in content["phases"]] == ["prefill", "first decode", "steady decode"]
    assert {phase["ranks"] for phase in content["phases"]} == {32}
    kernels = attnprof("report", str(job), "--format", "csv", "--table", "kernels", "--workers", "1").out
    assert len(kernels.splitlines()) > 3
    assert "## stragglers" in attnprof("report", str(job), "--format", "md", "--workers", "1").out


def test_a_trace_that_cannot_be_read_is_named_and_the_others_stand(tmp_path: Path) -> None:
    rank_trace(tmp_path / "rank0.sqlite")
    (tmp_path / "rank1.sqlite").write_text("no trace")
    done = attnprof("report", str(tmp_path), "--workers", "1")
    assert done.code == 0
    assert "rank 1 is missing" in done.err
    assert "unreadable" in done.out
    (tmp_path / "rank0.sqlite").unlink()
    assert attnprof("report", str(tmp_path)).code == 2


def test_options_of_a_job_are_refused_for_a_run(tmp_path: Path) -> None:
    path = rank_trace(tmp_path / "t.sqlite")
    assert attnprof("report", str(path), "--workers", "2").code == 2
    assert attnprof("report", str(path), "--table", "ranks").code == 2


@pytest.fixture
def cluster() -> Any:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as running:
        yield running


def test_a_cluster_that_loses_a_worker_midway_gives_what_one_process_gives(
    job: Path, alone: list[Any], cluster: Any
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.Client(cluster, set_as_default=False) as client:
        victim = next(iter(client.run(os.getpid).values()))
    done_when_killed = []

    def kill_midway() -> None:
        tasks = cluster.scheduler.tasks
        until = time.monotonic() + 60
        while time.monotonic() < until:
            finished = sum(task.state == "memory" for task in list(tasks.values()))
            if finished >= 3:
                os.kill(victim, signal.SIGKILL)
                done_when_killed.append(finished)
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill_midway)
    killer.start()
    summaries = summarise_all(find_traces(job), scheduler=cluster.scheduler_address)
    killer.join()
    assert done_when_killed
    assert done_when_killed[0] < 32
    assert summaries == alone


def test_a_scheduler_that_does_not_answer_is_said(job: Path) -> None:
    pytest.importorskip("distributed")
    done = attnprof("report", str(job), "--scheduler", "tcp://127.0.0.1:9")
    assert done.code == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.err
