"""Columns and group statistics of which nsys's reports are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.arrays import Narrow, blocks, narrowest
from attnprof.errors import CannotTellError
from attnprof.trace.tables import Bool, Int64, Trace

_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a report: ``take(rows)`` gives the values of a slice or an index array as a list.

    ``own``: texts, all of them spelled here and nothing of them found in the trace.
    """

    title: str
    take: Callable[[Any], list[Any]]
    own: bool = False


@dataclass(frozen=True, slots=True)
class NsysReport:
    """A report's name, columns and number of rows."""

    name: str
    columns: tuple[Column, ...]
    rows: int


def array_column(title: str, values: npt.NDArray[Any], known: Bool | None = None) -> Column:
    """A column of numbers, None where not ``known``."""

    def take(rows: Any) -> list[Any]:
        taken: list[Any] = values[rows].tolist()
        if known is None:
            return taken
        return [v if k else None for v, k in zip(taken, known[rows].tolist(), strict=True)]

    return Column(title, take)


def coded_column(
    title: str, texts: Sequence[str | None], code: npt.NDArray[Any], *, own: bool = False
) -> Column:
    """A column of texts by index; index -1 is None where the last of ``texts`` is."""
    return Column(title, lambda rows: [texts[i] for i in code[rows].tolist()], own)


def empty_column(title: str, rows: int) -> Column:
    return coded_column(title, (None,), np.broadcast_to(np.int8(0), (rows,)))


def tenths(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rounded to one decimal, halves up, as SQLite rounds."""
    rounded: npt.NDArray[np.float64] = np.floor(values * 10 + 0.5) / 10
    return rounded


@dataclass(frozen=True, slots=True)
class Groups:
    """Durations in groups: ``code`` and the statistics of each group that has any, by ascending code."""

    code: Int64
    count: Int64
    total: Int64
    mean: npt.NDArray[np.float64]
    median: npt.NDArray[np.float64]
    least: Int64
    most: Int64
    deviation: npt.NDArray[np.float64]

    def columns(self, order: Int64) -> list[Column]:
        """Total Time to StdDev, as every summary has them."""
        whole = (("Total Time (ns)", self.total),)
        middle = (("Avg (ns)", tenths(self.mean)), ("Med (ns)", tenths(self.median)))
        ends = (("Min (ns)", self.least), ("Max (ns)", self.most), ("StdDev (ns)", tenths(self.deviation)))
        return [array_column(title, values[order]) for title, values in (*whole, *middle, *ends)]


def grouped(code: Int64, duration: Int64) -> Groups:
    """Statistics of the durations by code, whatever the codes."""
    # Packed into one word, where they fit, they sort several times faster than as two keys.
    wide = int(duration.max(initial=0)).bit_length()
    bits = wide + int(code.max(initial=0)).bit_length()
    narrow: Narrow
    if bits <= 63 and int(duration.min(initial=0)) >= 0:
        kind: type[np.integer[Any]] = np.uint32 if bits <= 32 else np.int64
        packed: npt.NDArray[Any] = code.astype(kind)
        packed <<= kind(wide)
        packed |= duration.astype(kind, copy=False)
        packed.sort()
        narrow, group = packed & kind((1 << wide) - 1), packed >> kind(wide)
    else:
        order = np.lexsort((duration, code))
        group, narrow = code[order], duration[order]
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
    return _statistics(group[first].astype(np.int64), np.diff(np.append(first, len(group))), narrow)


def grouped_few(codes: int, length: int, block: Callable[[slice], tuple[Narrow, Int64]]) -> Groups:
    """Statistics of many durations by few codes, from 0 to ``codes`` - 1.

    ``block`` gives the codes and durations of a slice of the rows: there is never more than one array of all.
    """
    count, longest, shortest = np.zeros(codes, np.int64), 0, 0
    for rows in blocks(length):
        code, duration = block(rows)
        count += np.bincount(code, minlength=codes)
        longest, shortest = max(longest, int(duration.max())), min(shortest, int(duration.min()))
    first = np.cumsum(count) - count
    ascending = np.empty(length, narrowest(shortest, longest))
    free = first.copy()
    for rows in blocks(length):
        code, duration = block(rows)
        order = np.argsort(code, kind="stable")
        here = np.bincount(code, minlength=codes)
        at = np.repeat(free - (np.cumsum(here) - here), here) + np.arange(len(code))
        ascending[at] = duration[order]
        free += here
    used = np.flatnonzero(count)
    for code in used.tolist():
        ascending[first[code] : first[code] + count[code]].sort()
    return _statistics(used, count[used], ascending)


def _statistics(code: Int64, count: Int64, duration: Narrow) -> Groups:
    """Statistics of durations that stand group by group, ascending in each."""
    first = np.cumsum(count) - count
    parts = [
        _of_groups(duration[first[some.start] : first[some.stop - 1] + count[some.stop - 1]], count[some])
        for some in _together(count)
    ]
    columns = zip(*parts, strict=True) if parts else [[np.zeros(0, kind)] for kind in _KINDS]
    total, mean, median, least, most, squares = (np.concatenate(column) for column in columns)
    deviation = np.sqrt(squares / np.maximum(1, count - 1))
    return Groups(code, count, total, mean, median, least, most, deviation)


_KINDS = (np.int64, np.float64, np.float64, np.int64, np.int64, np.float64)


def _together(count: Int64) -> Iterator[slice]:
    """Consecutive groups, few enough rows at a time; a single group may be larger."""
    end = np.cumsum(count)
    first = 0
    while first < len(count):
        limit = int(end[first - 1] if first else 0) + _ROWS_AT_ONCE
        last = max(first + 1, int(np.searchsorted(end, limit, side="right")))
        yield slice(first, last)
        first = last


def _of_groups(narrow: Narrow, count: Int64) -> tuple[npt.NDArray[Any], ...]:
    """Total, mean, median, least, most and summed squares of deviations of consecutive groups."""
    duration, at = narrow.astype(np.int64), np.cumsum(count) - count
    total = np.add.reduceat(duration, at)
    mean = total / count
    away = np.repeat(mean, count)
    away -= duration
    away *= away
    squares = np.add.reduceat(away, at)
    middle = duration[at + (count - 1) // 2] + duration[at + count // 2]
    return total, mean, middle / 2, duration[at], duration[at + count - 1], squares


def require(there: bool, trace: Trace, lack: str) -> None:
    if not there:
        raise CannotTellError(
            f"{trace.info.path or 'the run'} {lack}", hint="capture with nsys profile --trace=cuda,nvtx"
        )
