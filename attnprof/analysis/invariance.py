"""Where the order of summation depends on how many sequences, or queries, are computed together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attnprof.analysis.sweep import Ints, Setting, Sweep
from attnprof.dispatch.intervals import Interval, Intervals

Size = Literal["batch", "seqlen_q"]
SIZES: tuple[Size, ...] = ("batch", "seqlen_q")


@dataclass(frozen=True, slots=True)
class Differing:
    """Neighbouring sizes that sum in another order than the reference at the same lengths."""

    sizes: Interval
    seqlen_k: Intervals
    share: float


@dataclass(frozen=True, slots=True)
class Invariance:
    """Where one setting's order of summation, by split count, kernels and tiles, depends on a size.

    ``of``: the field compared; ``reference``: the size compared with, the smallest.  ``differing``: the
    others that differ anywhere, ``num_differing`` in all.
    ``constant``: the longest run of sizes that agree at every length, and how many it has.
    ``same_for_all``: the lengths at which all launch something and agree.  ``not_launched``: predictions of
    which nothing is launched, so that there is nothing to compare; ``nothing``: why, where that is all.
    ``tiles_told``: the kernels' names tell every tile, so that tiles were compared.
    """

    setting: Setting
    of: Size
    reference: int
    sizes: tuple[int, ...]
    differing: tuple[Differing, ...]
    num_differing: int
    constant: Interval
    num_constant: int
    same_for_all: Intervals
    not_launched: int
    nothing: str
    tiles_told: bool


def invariance(result: Sweep) -> list[Invariance]:
    """Each setting's order of summation, size against size, in a sweep along seqlen_k.

    Over batches and over queries, whichever have several values.
    """
    return [found for of in SIZES for found in _over(result, of)]


def _over(result: Sweep, of: Size) -> Iterator[Invariance]:
    groups: dict[Any, list[int]] = {}
    for row, setting in enumerate(result.settings):
        alike: dict[str, Any] = {of: 1}
        groups.setdefault(replace(setting, call=replace(setting.call, **alike)), []).append(row)
    for rows in groups.values():
        if len(rows) > 1:
            yield _invariance(
                result, of, sorted(rows, key=lambda row: getattr(result.settings[row].call, of))
            )


def _invariance(result: Sweep, of: Size, rows: list[int]) -> Invariance:
    sizes = tuple(int(getattr(result.settings[row].call, of)) for row in rows)
    counts, launched = result.arithmetic[rows], result.num_splits[rows] > 0
    differs = (counts != counts[0]) & launched & launched[0]
    others = (differs[1:] != differs[:-1]).any(axis=1) | (np.diff(sizes) != 1)
    edges = [0, *(np.flatnonzero(others) + 1).tolist(), len(rows)]
    differing = tuple(
        Differing(
            Interval(sizes[first], sizes[after - 1]),
            spans_of(differs[first], result.values),
            float(differs[first].mean()),
        )
        for first, after in pairwise(edges)
        if differs[first].any()
    )
    neighbours = (counts[1:] != counts[:-1]) & launched[1:] & launched[:-1]
    breaks = [0, *(np.flatnonzero(neighbours.any(axis=1)) + 1).tolist(), len(rows)]
    first, after = max(pairwise(breaks), key=lambda run: run[1] - run[0])
    ran = [result.orders[index] for index in np.unique(result.order[rows][launched]).tolist()]
    compared = bool((launched[1:] & launched[0]).any())
    return Invariance(
        setting=result.settings[rows[0]],
        of=of,
        reference=sizes[0],
        sizes=sizes,
        differing=differing,
        num_differing=int(differs.any(axis=1).sum()),
        constant=Interval(sizes[first], sizes[after - 1]),
        num_constant=after - first,
        same_for_all=spans_of(launched.all(axis=0) & ~differs.any(axis=0), result.values),
        not_launched=int(np.count_nonzero(~launched)),
        nothing="" if compared else _why_nothing(result, rows),
        tiles_told=all(order.tiles_told for order in ran),
    )


def _why_nothing(result: Sweep, rows: list[int]) -> str:
    """Why no two sizes could be compared."""
    for row in rows:
        for column in np.flatnonzero(result.num_splits[row] == 0)[:1].tolist():
            error = result.refusal(row, column)
            if error:
                return f"the library refuses: {error}"
    return "no two of them launch anything at one length"


def spans_of(chosen: npt.NDArray[np.bool_], values: Ints) -> Intervals:
    """The chosen values as runs of neighbours."""
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0))
    return tuple(
        Interval(int(values[first]), int(values[after - 1]))
        for first, after in zip(edges[::2], edges[1::2], strict=True)
    )
