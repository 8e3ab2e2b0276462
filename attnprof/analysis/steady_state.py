"""A serving engine's steps by what they hold: prefill only, mixed or decode only, and how many requests.

The steady state is the longest stretch of steps in which the engine is full: it holds at least nine tenths of
the most requests that any step of its process holds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from attnprof.analysis.phases import Steps, build_steps
from attnprof.analysis.splits import kernel_and_splits
from attnprof.check.verdicts import CheckedCall
from attnprof.model import PHASES
from attnprof.trace.range_names import UNKNOWN_PHASE
from attnprof.trace.timeline import Timeline

_FULL = 0.9
_ORDER = ("prefill", "mixed", "decode")
_NAMES = (  # what engines call their steps; what a rule's groups count is in _COUNTS
    (
        "execute_",
        re.compile(
            r"execute_(?:\d+_)?context_(?P<contexts>\d{1,9})\((?:sq)?(?P<context>\d{1,9})?[^(]{0,99}"
            r"_generation_(?P<generations>\d{1,9})\((?:sq)?(?P<generated>\d{1,9})?"
        ),
    ),
    ("step[", re.compile(r"step\[[A-Z_]+ bs=(?P<contexts>\d{1,9})(?: toks=(?P<context>\d{1,9}))?")),
)
_COUNTS = (("contexts", "generations"), ("context", "generated"))  # of requests, of tokens
_LONGEST = 4096  # characters of a name that are looked at

_Key = tuple[int, int]  # process and step


class Recorded(Protocol):
    """A recorded call, as ``calls`` reads it."""

    @property
    def step(self) -> int | None: ...
    @property
    def phase(self) -> str: ...
    @property
    def process(self) -> int: ...
    @property
    def fields(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The steps of one phase with one number of requests; ``full`` of them are of the steady state.

    ``wall_ns`` and ``attention_ns``, GPU time of attention, are medians of one step, None where no trace
    tells. ``num_splits`` are the fewest and most of its calls, () where none is known.
    """

    phase: str
    requests: int
    steps: int
    full: int
    wall_ns: float | None
    attention_ns: float | None
    kernels: tuple[str, ...]
    num_splits: tuple[int, int] | tuple[()]
    observed: bool


@dataclass(frozen=True, slots=True)
class SteadyState:
    """``most`` requests in a step; steps ``first`` to ``last`` of ``process`` are full, of ``steps`` it made.

    ``wall_share`` is their part of all steps' wall time, None without a trace.
    """

    process: int
    most: int
    first: int
    last: int
    steps: int
    wall_share: float | None
    sizes: tuple[BatchSize, ...]


def steady_state(
    timeline: Timeline,
    records: Iterable[Recorded],
    calls: Sequence[CheckedCall],
    processes: Iterable[Mapping[str, Any]] = (),
) -> SteadyState | None:
    """None where no step says how many requests it holds, or all hold as many in one phase."""
    numbers = numbers_of_processes(processes)
    held = _of_records(records)
    recorded = bool(held)
    held = held or {key: told[:2] for key, told in named_steps(timeline).items()}
    if len(set(held.values())) < 2:
        return None
    wall, attention = _times(timeline, held, numbers if recorded else None)
    ran = _ran(calls, held)
    by_process: dict[int, list[_Key]] = defaultdict(list)
    for key in sorted(held):
        by_process[key[0]].append(key)
    windows = {process: _window(keys, held) for process, keys in by_process.items()}
    full = {key for window in windows.values() for key in window}
    chosen = max(windows, key=lambda process: (len(windows[process]), -process))
    window, own = windows[chosen], by_process[chosen]
    total = sum(wall.get(key, 0) for key in own)
    return SteadyState(
        process=chosen,
        most=max(held[key][1] for key in own),
        first=window[0][1],
        last=window[-1][1],
        steps=len(own),
        wall_share=sum(wall.get(key, 0) for key in window) / total if total else None,
        sizes=tuple(_sizes(held, full, wall, attention, ran)),
    )


def _of_records(records: Iterable[Recorded]) -> dict[_Key, tuple[str, int]]:
    """Phase and requests of each step whose calls name each request's lengths."""
    found: dict[_Key, tuple[str, int]] = {}
    for record in records:
        lengths = record.fields.get("seqlens_q")
        if record.step is not None and isinstance(lengths, list) and record.phase in _ORDER:
            key = record.process, record.step
            found[key] = record.phase, max(len(lengths), found.get(key, ("", 0))[1])
    return found


def named_steps(timeline: Timeline) -> dict[_Key, tuple[str, int, int]]:
    """Phase, requests and tokens of each step, by process id and number, as an engine's own names tell.

    Tokens are 0 where a name does not say.
    """
    trace, told = timeline.trace, timeline.of_range
    counts = {number: count for number, text in enumerate(trace.strings) if (count := _counted(text))[0]}
    found: dict[_Key, tuple[str, int, int]] = {}
    if not counts:
        return found
    for row, name in enumerate(trace.ranges.name.tolist()):
        if name in counts and told.step[row] >= 0 and told.phase[row] not in (0, UNKNOWN_PHASE):
            key = int(trace.ranges.pid[row]), int(told.step[row])
            of_name = PHASES[int(told.phase[row])], *counts[name]
            # Two engines name one step: vLLM's wording counts tokens, SGLang's may not.
            found[key] = max(of_name, found.get(key, of_name), key=lambda one: one[2])
    return {key: held for key, held in found.items() if held[0] in _ORDER}


def _counted(text: str) -> tuple[int, int]:
    """(requests, tokens) of a step of this name; 0 where it does not say."""
    for word, rule in _NAMES:
        if word in text and len(text) <= _LONGEST and (found := rule.search(text)):
            numbers = found.groupdict(default="0")
            return tuple(sum(int(numbers.get(key, "0")) for key in keys) for keys in _COUNTS)  # type: ignore[return-value]
    return 0, 0


def _times(
    timeline: Timeline, held: Mapping[_Key, Any], numbers: Mapping[int, int] | None
) -> tuple[dict[_Key, int], dict[_Key, int]]:
    """Wall time of each step, and GPU time of attention where kernels were seen."""
    steps = build_steps(timeline)
    rows = rows_of_steps(steps, held, numbers)
    wall = {key: int(steps.wall[row]) for key, row in rows.items()}
    if not len(timeline.trace.kernels):
        return wall, {}
    return wall, {key: int(steps.attention[row]) for key, row in rows.items()}


def rows_of_steps(
    steps: Steps, held: Mapping[_Key, Any], numbers: Mapping[int, int] | None
) -> dict[_Key, int]:
    """Where each step that is ``held``, by process and number, is among the steps of a timeline.

    ``numbers`` are those of the processes by their pid; None where ``held`` goes by pid.
    """
    pids = steps.pid.tolist()
    one = len(set(pids)) == 1
    only = next(iter(held), (-1, -1))[0]
    found: dict[_Key, int] = {}
    for row, (pid, number) in enumerate(zip(pids, steps.number.tolist(), strict=True)):
        process = pid if numbers is None else numbers.get(pid, only if one else -1)
        if (process, number) in held:
            found[process, number] = row
    return found


def numbers_of_processes(processes: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """The number of each process of a run by its pid."""
    return {int(one["pid"]): int(one["process"]) for one in processes if one.get("pid")}


def _ran(
    calls: Sequence[CheckedCall], held: Mapping[_Key, Any]
) -> dict[_Key, list[tuple[str, int | None, bool]]]:
    """Kernels, splits and whether they were seen, of each step's calls."""
    of_step: dict[int, list[_Key]] = defaultdict(list)
    for key in held:
        of_step[key[1]].append(key)
    found: dict[_Key, list[tuple[str, int | None, bool]]] = defaultdict(list)
    for call in calls:
        if call.step is None:
            continue
        for key in of_step.get(call.step, ()):
            if call.process is None or call.process == key[0]:
                found[key].append(kernel_and_splits(call))
    return found


def _window(keys: Sequence[_Key], held: Mapping[_Key, tuple[str, int]]) -> list[_Key]:
    """The longest stretch of steps in which the engine is full, the first of several."""
    enough = _FULL * max(held[key][1] for key in keys)
    best: list[_Key] = []
    now: list[_Key] = []
    for key in keys:
        now = [*now, key] if held[key][1] >= enough else []
        best = max(best, now, key=len)
    return best


def _sizes(
    held: Mapping[_Key, tuple[str, int]],
    full: set[_Key],
    wall: Mapping[_Key, int],
    attention: Mapping[_Key, int],
    ran: Mapping[_Key, list[tuple[str, int | None, bool]]],
) -> Iterable[BatchSize]:
    alike: dict[tuple[int, int], list[_Key]] = defaultdict(list)
    for key, (phase, requests) in held.items():
        alike[_ORDER.index(phase), requests].append(key)
    for (phase_at, requests), keys in sorted(alike.items()):
        inside = [one for key in keys for one in ran.get(key, ())]
        splits = [count for _, count, _ in inside if count is not None]
        yield BatchSize(
            phase=_ORDER[phase_at],
            requests=requests,
            steps=len(keys),
            full=sum(key in full for key in keys),
            wall_ns=_median(wall, keys),
            attention_ns=_median(attention, keys),
            kernels=tuple(dict.fromkeys(kernel for kernel, _, _ in inside)),
            num_splits=(min(splits), max(splits)) if splits else (),
            observed=any(seen for _, _, seen in inside),
        )


def _median(values: Mapping[_Key, int], keys: Sequence[_Key]) -> float | None:
    known = [values[key] for key in keys if key in values]
    return median(known) if known else None
