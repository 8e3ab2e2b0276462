"""CPU time of programs over that of a reference, run in turns: the harness of :mod:`benchmarks.table`.

A module ``benchmarks/rows_NAME.py`` yields jobs (:class:`Job`), the table measures them. In every round the
reference and the program run one after the other, so that what else the machine does meets both alike; a
number is the median over the rounds, a ratio that of two medians.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 1200
ENOUGH_S = 60  # of wall time: a job that took so long begins no further round
ATTNPROF: tuple[str, ...] = (sys.executable, "-m", "attnprof")
_SHORT_S = 1e-3  # below, a time is told in microseconds
_SETTLED = (0, 3)  # exit codes of a command that did its work


@dataclass(frozen=True)
class Program:
    """A command. ``printed``: the last line it prints is what it took, in seconds; else its CPU time is."""

    command: tuple[str | Path, ...]
    printed: bool = False


@dataclass(frozen=True)
class Job:
    """One row of the table: ``program`` takes at most ``goal`` times what ``reference`` takes.

    Without a reference ``goal`` is in seconds. ``peers`` are others that answer the same question, measured
    in the same rounds. ``missing``: why it cannot be measured here, and then nothing is run.
    """

    name: str
    program: Program
    goal: float
    reference: Program | None = None
    peers: Mapping[str, Program] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Cost:
    """Of one process: wall and CPU time in seconds (children waited for included), peak memory in MB."""

    wall: float
    cpu: float
    peak_mb: float


@dataclass(frozen=True)
class Row:
    """What was measured of a job: median seconds, None of what failed; the most memory of any run, in MB."""

    job: Job
    seconds: float | None
    reference: float | None
    peers: Mapping[str, float | None]
    peak_mb: float

    @property
    def value(self) -> float | None:
        """What ``goal`` is about: the ratio, or seconds where there is no reference."""
        if self.job.reference is None or self.seconds is None:
            return self.seconds
        return self.seconds / self.reference if self.reference else None

    def over_reference(self, seconds: float | None) -> str:
        """``seconds`` as a ratio, or as seconds where there is no reference."""
        if seconds is None:
            return "failed"
        return _number(seconds / self.reference) if self.reference else _time(seconds)


def run_once(command: tuple[str | Path, ...] | list[str | Path], printed: bool = False) -> Cost | None:
    """One run of a command; None where it fails or takes longer than TIMEOUT_S."""
    began = time.perf_counter()
    out = subprocess.PIPE if printed else subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, cwd=ROOT)
    usage = _wait(process, began + TIMEOUT_S)
    if usage is None or process.returncode not in _SETTLED:
        return None
    wall, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    if process.stdout is not None:  # a line or two, which the pipe held
        cpu = float(process.stdout.read().split()[-1])
    return Cost(wall, cpu, usage.ru_maxrss / 1024)


def _wait(process: subprocess.Popen[bytes], until: float) -> resource.struct_rusage | None:
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.perf_counter() > until:
            process.kill()
            os.wait4(process.pid, 0)
            return None
        time.sleep(0.002)


def measure(job: Job, rounds: int) -> Row:
    """Runs a job, its reference and its peers in turns, after one round that is not counted."""
    programs = {"": job.program, **({"reference": job.reference} if job.reference else {})}
    peers = {f"peer {name}": program for name, program in job.peers.items()}
    taken: dict[str, list[float]] = {name: [] for name in programs | peers}
    failed: set[str] = set()
    peak, began = 0.0, time.perf_counter()
    for number in range(rounds + 1):
        if number > 1 and time.perf_counter() - began > ENOUGH_S:
            break
        for name, program in (programs | peers).items():
            cost = None if name in failed else run_once(program.command, program.printed)
            if cost is None:
                failed.add(name)
            elif number:
                taken[name].append(cost.cpu)
                peak = max(peak, 0.0 if name else cost.peak_mb)
    medians = {name: statistics.median(seconds) if seconds else None for name, seconds in taken.items()}
    return Row(
        job,
        None if "" in failed else medians[""],
        medians.get("reference"),
        {name: medians[f"peer {name}"] for name in job.peers},
        peak,
    )


HEADINGS = ("job", "CPU", "reference", "ratio", "goal", "peak", "beside it")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, a text per heading."""
    job, value = row.job, row.value
    goal = f"{job.goal:g}" if job.reference else _time(job.goal)
    beside = ", ".join(f"{name} {row.over_reference(seconds)}" for name, seconds in row.peers.items())
    if job.missing:
        return (job.name, "", "", job.missing, goal, "", "")
    if value is None or row.seconds is None:
        return (job.name, "", "", "failed", goal, "", beside)
    return (
        job.name,
        _time(row.seconds),
        _time(row.reference) if row.reference else "-",
        f"{_number(value)}{'' if value <= job.goal else ' (not met)'}" if job.reference else "-",
        f"{goal}{'' if job.reference or value <= job.goal else ' (not met)'}",
        f"{row.peak_mb:.0f} MB",
        beside,
    )


def _time(seconds: float) -> str:
    return f"{_number(seconds)} s" if seconds >= _SHORT_S else f"{_number(seconds * 1e6)} µs"


def _number(value: float) -> str:
    """Three figures, never a 0 of what is not 0."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
