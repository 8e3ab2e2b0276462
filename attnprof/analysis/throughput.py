"""Tokens a second, phase by phase: of wall time and of GPU time; and what the first token waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from attnprof.analysis.kv_cache import StepRead
from attnprof.analysis.phases import FIRST_DECODE, PART_NAMES, PREFILL_PART, Steps
from attnprof.analysis.steady_state import named_steps, numbers_of_processes, rows_of_steps
from attnprof.trace.timeline import Timeline

_ORDER = ("prefill", "mixed", "decode")


@dataclass(frozen=True, slots=True)
class PhaseTokens:
    """The steps of one phase whose tokens are known, of one process. Times in ns, 0 where none was seen.

    ``tokens`` are those that went through the model: of prompts in prefill, one of each request in decode,
    more where drafts are verified. ``requests`` adds up those of each step, ``most`` is the most of a step.
    ``missing`` are steps of the phase whose tokens are not known.
    """

    phase: str
    process: int
    steps: int
    requests: int
    most: int
    tokens: int
    wall_ns: int
    gpu_ns: int
    missing: int

    @property
    def per_second(self) -> float | None:
        """Tokens per second of wall time."""
        return self.tokens * 1e9 / self.wall_ns if self.wall_ns else None

    @property
    def per_gpu_second(self) -> float | None:
        """Tokens per second in which kernels ran, added up over all GPUs of the process."""
        return self.tokens * 1e9 / self.gpu_ns if self.gpu_ns else None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Prefills of one batch each: how many there were, and the median of their wall times in ns.

    From the first forward on the CPU to the end of the last kernel; sampling comes after.
    """

    prefills: int
    median_ns: float


def phase_tokens(
    timeline: Timeline,
    steps: Steps,
    reads: Sequence[StepRead],
    processes: Iterable[Mapping[str, Any]] = (),
) -> list[PhaseTokens]:
    """The phases of the first process, in order: others' tokens are the same ones where they share a model.

    Of recorded calls where there are any, else of what an engine calls its steps.
    """
    told: dict[tuple[int, int], tuple[str, int, int]] = {
        (read.process, read.step): (read.phase, read.requests, read.tokens) for read in reads
    }
    numbers = numbers_of_processes(processes) if told else None
    told = told or {key: one for key, one in named_steps(timeline).items() if one[2]}
    if not told:
        return []
    process = min(key[0] for key in told)
    mine = {key: one for key, one in told.items() if key[0] == process}
    rows = rows_of_steps(steps, mine, numbers)
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for key, row in rows.items():
        if steps.wall[row] > 0:
            groups[mine[key][0]].append(key)
    pids = [int(steps.pid[row]) for row in rows.values()]
    found = []
    for phase in _ORDER:
        keys = groups[phase]
        if not keys:
            continue
        wall = sum(int(steps.wall[rows[key]]) for key in keys)
        gpu = sum(int(steps.gpu[rows[key]]) for key in keys)
        parts = [place for place, part in enumerate(PART_NAMES) if phase in part]
        made = int(np.count_nonzero(np.isin(steps.part, parts) & np.isin(steps.pid, pids)))
        requests, tokens = [mine[key][1] for key in keys], sum(mine[key][2] for key in keys)
        counted = (len(keys), sum(requests), max(requests), tokens)
        found.append(PhaseTokens(phase, process, *counted, wall, gpu, max(made - len(keys), 0)))
    return found


def first_token(
    steps: Steps, reads: Sequence[StepRead], processes: Iterable[Mapping[str, Any]] = ()
) -> FirstToken | None:
    """What the first token of each generation waits for, chunks of its prompt together.

    ``reads`` are of a program whose steps each hold one batch: of an engine's requests none begins with its
    step. None where no decode follows a prefill whose beginning is known.
    """
    known = {(read.process, read.step): read for read in reads if read.phase == "prefill"}
    rows = rows_of_steps(steps, known, numbers_of_processes(processes))
    fresh = {rows[key] for key, read in known.items() if key in rows and _begins(read)}
    waits, begin, end = [], -1, 0
    for row, part in enumerate(steps.part.tolist()):
        if part == PREFILL_PART:
            begin = int(steps.begin[row]) if row in fresh else begin
            end = int(steps.end[row])
            continue
        if part == FIRST_DECODE and begin >= 0:
            waits.append(end - begin)
        begin = -1
    return FirstToken(len(waits), median(waits)) if waits else None


def _begins(read: StepRead) -> bool:
    """Whether nothing was in the cache before."""
    return read.tokens == read.requests * read.keys
