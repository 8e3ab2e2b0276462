"""Columns and group statistics of which nsys's reports are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.errors import CannotTellError
from attnprof.trace.model import Bool, Int64, Trace


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a report: ``take(rows)`` gives the values of a slice or an index array as a list."""

    title: str
    take: Callable[[Any], list[Any]]


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


def coded_column(title: str, texts: Sequence[str | None], code: npt.NDArray[Any]) -> Column:
    """A column of texts by index; index -1 is None where the last of ``texts`` is."""
    return Column(title, lambda rows: [texts[i] for i in code[rows].tolist()])


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
    """Statistics of the durations by code."""
    # Packed into one word, where they fit, they sort several times faster than as two keys.
    wide = int(duration.max(initial=0)).bit_length()
    if wide + int(code.max(initial=0)).bit_length() <= 63 and int(duration.min(initial=0)) >= 0:
        packed = code << wide
        packed |= duration
        packed.sort()
        duration = packed & ((1 << wide) - 1)
        packed >>= wide
        code = packed
    else:
        order = np.lexsort((duration, code))
        code, duration = code[order], duration[order]
    first = np.flatnonzero(np.diff(code, prepend=-1))
    if not len(first):
        empty, none = np.zeros(0), np.zeros(0, np.int64)
        return Groups(none, none, none, empty, empty, none, none, empty)
    count = np.diff(np.append(first, len(code)))
    total = np.add.reduceat(duration, first)
    mean = total / count
    away = np.repeat(mean, count)
    away -= duration
    away *= away
    squares = np.add.reduceat(away, first)
    middle = duration[first + (count - 1) // 2] + duration[first + count // 2]
    return Groups(
        code=code[first],
        count=count,
        total=total,
        mean=mean,
        median=middle / 2,
        least=duration[first],
        most=duration[first + count - 1],
        deviation=np.sqrt(squares / np.maximum(1, count - 1)),
    )


def require(there: bool, trace: Trace, lack: str) -> None:
    if not there:
        raise CannotTellError(
            f"{trace.info.path or 'the run'} {lack}", hint="capture with nsys profile --trace=cuda,nvtx"
        )
