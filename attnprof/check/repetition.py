"""Steps and layers of a trace that names none, as far as the kernels between attention calls repeat.

Between two layers the same kernels run in every step, and between two steps others: the sampler, the
embedding. What stands between calls at a constant distance, many times over, is a step's end; the calls from
one to the next are its layers. A call that is missing has the kernels of two gaps behind the one before it, a
doubled one has none. Where nothing repeats, or a stretch is no such step, nothing is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnprof.trace.tables import Bool, Int32, Int64
from attnprof.trace.timeline import Timeline

_FEWEST_STEPS, _FEWEST_REPLAYS = 4, 2
_REGULAR = 0.75  # of the distances between a step's ends
_MOST_KINDS = 64  # of gaps that may be a step's end
_MOST_ODD = 4096  # stretches that are looked at one by one
_Sums = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Repetition:
    """Per call its step and its place in it, -1 where the kernels do not tell; ``layers`` in a step.

    ``replays``: steps are a CUDA graph's replays, which are one model's.
    """

    step: Int32
    layer: Int32
    layers: int
    replays: bool = False


def find_replays(launch: Int64 | Int32, replayed: Bool) -> Repetition | None:
    """The replays of a process that make as many calls as most do, each as a step; None of fewer than two.

    Per call in order of time: what launched it, and whether that was a CUDA graph.
    """
    rows = np.flatnonzero(replayed & (launch >= 0))
    _, number, counts = np.unique(launch[rows], return_inverse=True, return_counts=True)
    if len(counts) < _FEWEST_REPLAYS:
        return None
    layers = int(np.argmax(np.bincount(counts)))
    mine = rows[counts[number] == layers]
    if len(mine) < _FEWEST_REPLAYS * layers:
        return None
    order = mine[np.argsort(launch[mine], kind="stable")]
    step, layer = (np.full(len(launch), -1, np.int32) for _ in range(2))
    step[order] = np.arange(len(order)) // layers
    layer[order] = np.arange(len(order)) % layers
    return Repetition(step, layer, layers, replays=True)


def find_repetition(timeline: Timeline, main: Int64, attention: Bool) -> Repetition | None:
    """What repeats in the calls of one process, by their main kernels in order of time.

    ``attention``: which names are an attention call's. None where the calls run on several streams, or
    nothing repeats.
    """
    kernels = timeline.trace.kernels
    if len(main) < 2 * _FEWEST_STEPS or timeline.trace.info.whole_graph_launches:
        return None
    columns = (kernels.pid, kernels.device, kernels.stream)
    if any(len(np.unique(column[main])) > 1 for column in columns):
        return None
    mine = np.ones(len(kernels), np.bool_)
    for column in columns:
        mine &= column == column[main[0]]
    rows = np.flatnonzero(mine)
    between = _between(kernels.name[rows], np.searchsorted(rows, main), attention)
    found = _ends(between)
    if found is None:
        return None
    ends, layers = found
    step, layer = (np.full(len(main), -1, np.int32) for _ in range(2))
    pattern = _pattern(between, ends, layers)
    number = odd = 0
    for first, last in zip((ends[:-1] + 1).tolist(), ends[1:].tolist(), strict=True):
        if last + 1 - first == layers:
            step[first : last + 1], layer[first : last + 1] = number, np.arange(layers)
        elif pattern is not None and odd < _MOST_ODD:
            odd += 1
            places = _aligned(between[first : last + 1].tolist(), pattern)
            if places is not None:
                step[first : last + 1] = number + np.array([place // layers for place in places])
                layer[first : last + 1] = [place % layers for place in places]
                number += places[-1] // layers
        number += 1
    return Repetition(step, layer, layers)


def _between(names: npt.NDArray[np.signedinteger], calls: Int64, attention: Bool) -> _Sums:
    """Of the kernels behind each call up to the next, a sum that tells them apart; 0 where there are none."""
    numbers = np.random.default_rng(0).integers(1, 1 << 63, len(attention), dtype=np.uint64)
    numbers[attention] = 0
    until = np.append(np.uint64(0), np.cumsum(numbers[names], dtype=np.uint64))
    sums: _Sums = np.diff(until[calls])  # which may pass 2**64 and begin again
    return sums


def _ends(between: _Sums) -> tuple[Int64, int] | None:
    """After which calls a step ends, and how many calls it has: the longest distance that repeats.

    An end stands between steps, so once less often than what is in each of them. None where the trace is cut
    so that it stands as often as another: these two take turns, and nothing tells with which a step begins.
    """
    sums, counts = np.unique(between, return_counts=True)
    likely = np.flatnonzero((counts >= _FEWEST_STEPS) & (2 * counts <= len(between)) & (sums != 0))
    best: tuple[Int64, int] | None = None
    takes_turns = False
    for kind in likely[np.argsort(counts[likely])][:_MOST_KINDS].tolist():
        at = np.flatnonzero(between == sums[kind])
        distances, times = np.unique(np.diff(at), return_counts=True)
        usual = int(distances[np.argmax(times)])
        if usual > 1 and times.max() >= _REGULAR * (len(at) - 1):
            if best is None or usual > best[1]:
                best, takes_turns = (at, usual), False
            elif usual == best[1] and len(at) == len(best[0]):
                takes_turns = True
    return None if takes_turns else best


def _pattern(between: _Sums, ends: Int64, layers: int) -> list[int] | None:
    """What stands behind each call of a step, in most whole ones; None where these differ."""
    first = ends[:-1][np.diff(ends) == layers] + 1
    steps = between[first[:, None] + np.arange(layers)]
    rows, counts = np.unique(steps, axis=0, return_counts=True)
    most = int(np.argmax(counts))
    return rows[most].tolist() if counts[most] >= _FEWEST_STEPS - 1 else None


def _aligned(between: list[int], pattern: list[int]) -> list[int] | None:
    """The place of each call of a stretch, on beyond the first step; None where it is no step's calls.

    ``between`` is what stands behind each call. A call of the pattern may be missing, or stand twice.
    """
    layers, place, places = len(pattern), 0, [0]
    for sums in between[:-1]:
        here, after = pattern[place % layers], pattern[(place + 1) % layers]
        if sums == here:
            place += 1
        elif sums == (here + after) % (1 << 64):
            place += 2
        elif sums != 0:
            return None
        places.append(place)
    return places if places[-1] % layers == layers - 1 and between[-1] == pattern[-1] else None
