"""The decode timeline's columns, of all layers or of each kind of them, before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnprof.analysis.layer_kinds import LayerKind
from attnprof.analysis.splits import kernel_and_splits
from attnprof.check.verdicts import CheckedCall
from attnprof.report.layer_words import kind_titles

_SPARSEST = 16  # step numbers per step
MOST_CHARTS = 6


@dataclass(frozen=True, slots=True)
class Mark:
    """What one column of the timeline shows: kernels, their split count, and whether it was seen to run."""

    kernel: str
    num_splits: int | None
    observed: bool


@dataclass(frozen=True, slots=True)
class TimelineColumns:
    """The decode timeline: a column per decode step, or per attention call where no step is known.

    ``marks`` has a tuple per column, ``seqlen_k`` the KV length where a record says it, ``attention_ns`` the
    GPU time of the column's attention kernels; None where unknown. ``first`` is the first column's number.
    """

    kind: str
    first: int
    marks: tuple[tuple[Mark, ...], ...]
    seqlen_k: tuple[int | None, ...]
    attention_ns: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A timeline of one kind of layers: its ``title``, and its ``number``, "" and -1 where it is of all."""

    title: str
    number: int
    columns: TimelineColumns


def charts(calls: Sequence[CheckedCall], kinds: Sequence[LayerKind], of_call: Sequence[int]) -> list[Chart]:
    """A timeline per kind of layers, those that took most GPU time first, over the same steps.

    ``of_call`` is the number of each call's kind. One timeline of all layers where they are of one kind; of
    more than MOST_CHARTS kinds the rest have none. Without decode steps each has its calls in order.
    """
    known = [
        (call, number)
        for call, number in zip(calls, of_call, strict=True)
        if call.observed is not None or call.predicted is not None
    ]
    span = _steps([call for call, _ in known])
    told = {number for call, number in known if span is None or _decodes(call)}
    if len(told) < 2 or -1 in told:
        return [Chart("", -1, timeline_columns(calls))]
    by_cost = sorted(range(len(kinds)), key=lambda one: -(kinds[one].gpu_ns or 0))
    drawn = [
        Chart(title, number, _over(span, [call for call, kind in known if kind == number]))
        for number, title in ((one, kind_titles(kinds)[one]) for one in by_cost)
    ]
    return [chart for chart in drawn if any(chart.columns.marks)][:MOST_CHARTS]


def timeline_columns(calls: Iterable[CheckedCall]) -> TimelineColumns:
    """The columns of the decode timeline of all layers."""
    known = [call for call in calls if call.observed is not None or call.predicted is not None]
    return _over(_steps(known), known)


def _over(span: tuple[int, int] | None, known: Sequence[CheckedCall]) -> TimelineColumns:
    """A column per step of ``span``, or where that is None per call."""
    return _columns("call", 0, [[call] for call in known]) if span is None else _by_step(known, *span)


def _decodes(call: CheckedCall) -> bool:
    return call.phase == "decode" and call.step is not None


def _steps(known: Iterable[CheckedCall]) -> tuple[int, int] | None:
    """First and last decode step; None where there is none, or numbers far apart, which count no steps."""
    numbers = {call.step for call in known if _decodes(call) and call.step is not None}
    if not numbers or max(numbers) - min(numbers) >= _SPARSEST * len(numbers):
        return None
    return min(numbers), max(numbers)


def _by_step(known: Iterable[CheckedCall], first: int, last: int) -> TimelineColumns:
    groups: list[list[CheckedCall]] = [[] for _ in range(first, last + 1)]
    for call in known:
        if _decodes(call):
            groups[(call.step or 0) - first].append(call)
    return _columns("step", first, groups)


def _columns(kind: str, first: int, groups: list[list[CheckedCall]]) -> TimelineColumns:
    marks, lengths, times = [], [], []
    for group in groups:
        marks.append(tuple(dict.fromkeys(Mark(*kernel_and_splits(call)) for call in group)))
        lengths.append(max((call.call.seqlen_k for call in group if call.call), default=None))
        spent = [call.duration_ns for call in group if call.duration_ns is not None]
        times.append(sum(spent) if spent else None)
    return TimelineColumns(kind, first, tuple(marks), tuple(lengths), tuple(times))
