"""Split counts that a CUDA graph froze: chosen at its capture, replayed while the keys grow past a change.

A replay launches what the library chose for the length at capture. Where the number of keys of a step is
known, from the run's record of its steps or from the splits of eager steps, or bounded by the prefill's grid,
a replay is frozen if the library would choose another count for that length. Where it is not, a run of
replays is frozen that is longer than any growing sequence of keys can keep one count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attnprof.check.observed_calls import Bool, Int64, ObservedCalls
from attnprof.dispatch.explanation import ReadBack
from attnprof.dispatch.intervals import InferredCall, Interval, Intervals, intersect, shift
from attnprof.dispatch.libraries import splits_at
from attnprof.trace.range_names import DECODE, PREFILL


@dataclass(frozen=True, slots=True)
class Frozen:
    """Replayed calls, as rows of the observed calls, whose split count is that of another KV length."""

    rows: Int64
    shape: int
    detail: str


_ANY: Intervals = (Interval(-(1 << 40), None),)


def find_frozen(
    observed: ObservedCalls,
    inferred: Sequence[InferredCall | None],
    told_of: Sequence[ReadBack | None],
    num_sms: Mapping[int, int],
    keys_of_step: Mapping[int, int] | None = None,
) -> list[Frozen]:
    """The frozen calls. ``inferred`` and ``told_of`` are per shape, ``num_sms`` per GPU.

    ``keys_of_step`` gives the recorded keys of each step.
    """
    readable = np.array([one is not None and bool(one.seqlen_k) for one in inferred], np.bool_)
    if not len(readable) or not np.any(observed.replayed):
        return []
    found = []
    decode = (observed.phase == DECODE) & (observed.step >= 0) & readable[observed.shape]
    splits = np.array(
        [
            one is not None and one.num_splits > 1 and not _may_be_folded(told)
            for one, told in zip(inferred, told_of, strict=True)
        ],
        np.bool_,
    )
    for mine, prefill in _sequences(observed):
        rows = np.flatnonzero(mine & decode & observed.replayed)
        if not len(rows):
            continue
        ever_split = splits[observed.shape[observed.pid == observed.pid[rows[0]]]].any()
        told = _told_eagerly(observed, inferred, prefill, np.flatnonzero(mine & decode & ~observed.replayed))
        rows = rows[np.lexsort((observed.step[rows], observed.layer[rows]))]
        changes = (np.diff(observed.layer[rows]) != 0) | (np.diff(observed.shape[rows]) != 0)
        for run in np.split(rows, np.flatnonzero(changes) + 1):
            shape = int(observed.shape[run[0]])
            call = inferred[shape]
            assert call is not None
            # As a server launches its batches, whose longest sequence may have left since the prefill.
            if not keys_of_step and observed.shapes[shape].main.flag("Split") is False:
                continue
            if not ever_split and _may_never_ask(told_of[shape], call, inferred, observed.shape[prefill]):
                continue
            steps = observed.step[run].tolist()
            judged = _judge(steps, call, keys_of_step, told)
            if judged is not None:
                first, keys = judged
                ran = observed.shapes[shape]
                detail = _sentence(steps, first, keys, call, ran.launches[0].kernel, num_sms[ran.device])
                found.append(Frozen(run[observed.step[run] >= first], shape, detail))
    return found


def _may_be_folded(told: ReadBack | None) -> bool:
    """Whether the entry may be the one that splits folded calls alone: of others its splits say nothing."""
    return any(one.entry == "varlen_fwd" and one.folded for one in (told.explanations if told else ()))


def _may_never_ask(
    told: ReadBack | None, call: InferredCall, inferred: Sequence[InferredCall | None], prefill: Int64
) -> bool:
    """Whether the entry may be the one that splits no calls whose query heads it does not fold."""
    heads = {one.batch_heads for shape in np.unique(prefill).tolist() if (one := inferred[shape])}
    return told is not None and (not heads or call.batch_heads in heads) and told.may_never_split


def _sequences(observed: ObservedCalls) -> Iterator[tuple[Bool, Int64]]:
    """The calls of each growing sequence of keys, and those of its prefill: a prefill begins another one."""
    for process in np.unique(observed.pid).tolist():
        mine = observed.pid == process
        prefill = mine & (observed.phase == PREFILL) & (observed.step >= 0)
        starts = np.unique(observed.step[prefill])
        number = np.searchsorted(starts, observed.step, side="right")
        for sequence in range(len(starts) + 1):
            yield mine & (number == sequence), np.flatnonzero(prefill & (number == sequence))


def _judge(
    steps: list[int], call: InferredCall, recorded: Mapping[int, int] | None, told: Intervals
) -> tuple[int, Intervals] | None:
    """(the first frozen step, the keys of the last) of replays of one choice; None where nothing is wrong.

    ``told`` are the keys that step 0 would have held.
    """

    def held(step: int) -> Intervals:
        if recorded is not None and step in recorded:
            return (Interval(recorded[step], recorded[step]),)
        return shift(told, step)

    possible = told
    for step in steps:
        possible = intersect(possible, shift(call.seqlen_k, -step))
        known = recorded is not None and step in recorded
        if not intersect(held(step), call.seqlen_k) or not (known or possible):
            return step, held(steps[-1])
    return None


def _told_eagerly(
    observed: ObservedCalls, inferred: Sequence[InferredCall | None], prefill: Int64, decode: Int64
) -> Intervals:
    """The keys that step 0 would have held, as far as a sequence's prefill and eager decode steps tell."""
    told = _ANY
    shapes = np.unique(observed.shape[prefill]).tolist()
    if len(shapes) == 1:
        shape = observed.shapes[shapes[0]]
        if shape.main.block_m is not None and shape.main.family in ("fwd", "fwd_splitkv"):
            blocks, step = shape.launches[0].grid[0], int(observed.step[prefill[0]])
            at_least = (blocks - 1) * shape.main.block_m + 1  # queries; a prefix may lie in the cache already
            told = (Interval(at_least - step, None),)
    pairs = set(zip(observed.step[decode].tolist(), observed.shape[decode].tolist(), strict=True))
    for step, number in sorted(pairs):
        call = inferred[number]
        if call is not None:
            told = intersect(told, shift(call.seqlen_k, -step)) or told
    return told


def _sentence(
    steps: list[int],
    first: int,
    keys: Intervals,
    call: InferredCall,
    kernel: str,
    num_sms: int,
) -> str:
    """What was replayed, what it was chosen for, and what the library would choose in the end."""
    last = steps[-1]
    span = f"step {last}" if len(steps) == 1 else f"steps {steps[0]} to {last}"
    told = f"a CUDA graph replays {_splits(call.num_splits)} in {span}: the choice for"
    told = f"{told} {_lengths(call.seqlen_k)} keys"
    if len(keys) != 1 or keys[0].low < 1:
        return f"{told}; with a key more per step the cache has left these by step {first}"
    low = keys[0].low
    least = Interval(low, low) if keys[0].high is None else keys[0]
    now = sorted(splits_at(kernel, call, num_sms, least))
    chosen = ""
    if now and now != [call.num_splits]:
        chosen = f", for which the library chooses {' or '.join(map(str, now))}"
    return f"{told}; step {last} held {'at least ' if keys[0].high is None else ''}{least}{chosen}"


def _splits(count: int) -> str:
    return "1 split" if count == 1 else f"{count} splits"


def _lengths(lengths: Intervals) -> str:
    return " or ".join(map(str, lengths[:3])) + (" or more" if len(lengths) > 3 else "")
