"""Tokens of each step, and the K and V that its attention calls read: how much, and how it grows.

Of recorded calls, whose shapes and lengths say it; of nobody's trace without them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

_DECODE = "decode"


class Read(Protocol):
    """What one call reads; ``attnprof.calls.kv_read`` says what each is."""

    @property
    def tokens(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def read_bytes(self) -> int | None: ...
    @property
    def lower_bound(self) -> bool: ...
    @property
    def cache_bytes(self) -> int | None: ...


class Recorded(Protocol):
    """A recorded call."""

    @property
    def step(self) -> int | None: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def phase(self) -> str: ...
    @property
    def process(self) -> int: ...

    def kv_read(self) -> Read | None: ...


@dataclass(frozen=True, slots=True)
class StepRead:
    """One step of one process.

    ``tokens`` are the queries of its ``requests``, ``keys`` the longest one's, as its first call has them.
    ``read_bytes`` are K and V that its ``calls`` read, each key once; ``lower_bound``: some lengths were not
    known. ``cache_bytes``: the caches that they were given, one per layer; None where they were given none.
    """

    process: int
    step: int
    phase: str
    calls: int
    requests: int
    tokens: int
    keys: int
    read_bytes: int
    lower_bound: bool
    cache_bytes: int | None


def step_reads(records: Iterable[Recorded]) -> list[StepRead]:
    """The steps with recorded calls, by process and number; calls outside of any step are of none."""
    of_step: dict[tuple[int, int], list[Recorded]] = defaultdict(list)
    for record in records:
        if record.step is not None:
            of_step[record.process, record.step].append(record)
    found = (_of_step(key, calls) for key, calls in sorted(of_step.items()))
    return [one for one in found if one is not None]


def _of_step(key: tuple[int, int], calls: Sequence[Recorded]) -> StepRead | None:
    reads = [(call.layer, read) for call in calls if (read := call.kv_read()) is not None]
    if not reads:
        return None
    known = [read.read_bytes for _, read in reads if read.read_bytes is not None]
    caches = {layer: read.cache_bytes for layer, read in reads if read.cache_bytes}
    caches = caches if None not in caches else {}  # whose caches are not told apart
    first = reads[0][1]
    return StepRead(
        process=key[0],
        step=key[1],
        phase=calls[0].phase,
        calls=len(calls),
        requests=first.requests,
        tokens=first.tokens,
        keys=max(read.keys for _, read in reads),
        read_bytes=sum(known),
        lower_bound=len(known) < len(calls) or any(read.lower_bound for _, read in reads),
        cache_bytes=sum(size for size in caches.values() if size) or None,
    )


@dataclass(frozen=True, slots=True)
class KvGrowth:
    """The decode steps ``first`` to ``last`` of a process, each after the one before, of as many requests.

    ``per_token`` is by how many bytes what they read grows with each token of each request; None where it
    does not grow alike from step to step, or lengths are not known.
    """

    first: StepRead
    last: StepRead
    steps: int
    per_token: int | None


def decode_growth(reads: Sequence[StepRead]) -> list[KvGrowth]:
    """The stretches of decode steps, in order."""
    stretches: list[list[StepRead]] = []
    for read in reads:
        if read.phase != _DECODE:
            continue
        before = stretches[-1][-1] if stretches else None
        follows = before is not None and (before.process, before.step + 1) == (read.process, read.step)
        if before is not None and follows and before.requests == read.requests:
            stretches[-1].append(read)
        else:
            stretches.append([read])
    return [KvGrowth(steps[0], steps[-1], len(steps), _per_token(steps)) for steps in stretches]


def _per_token(steps: Sequence[StepRead]) -> int | None:
    grown = {after.read_bytes - before.read_bytes for before, after in pairwise(steps)}
    if len(grown) != 1 or any(step.lower_bound for step in steps):
        return None
    one, tokens = grown.pop(), steps[0].tokens
    return one // tokens if tokens and one % tokens == 0 else None
