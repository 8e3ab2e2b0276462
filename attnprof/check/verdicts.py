"""Verdicts, and the attention calls they were given to: one by one, or as columns read back from a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, overload

import numpy as np

from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.check.observed_shape import ObservedShape
from attnprof.check.verdict_wording import MEANINGS
from attnprof.dispatch.explanation import strength
from attnprof.dispatch.intervals import InferredCall
from attnprof.model import AttentionCall, Prediction
from attnprof.trace.timeline import PHASE_NAMES


class Verdict(str, Enum):
    """What comparing one call gave."""

    MATCH = "match"
    EXPLAINED = "explained"
    WRONG_KERNEL = "wrong kernel"
    WRONG_NUM_SPLITS = "wrong num_splits"
    WRONG_TEMPLATE = "wrong template"
    WRONG_GRID = "wrong grid"
    MISSING = "missing"
    UNEXPECTED = "unexpected"
    UNEXPLAINED = "unexplained"
    INCONSISTENT = "inconsistent"
    FROZEN = "frozen"
    NOT_RECORDED = "not recorded"
    NOT_READ = "not read"
    NOT_MODELLED = "not modelled"
    NOT_OBSERVED = "not observed"

    @property
    def failed(self) -> bool:
        return self in FAILED

    @property
    def meaning(self) -> str:
        return MEANINGS[self.value]


FAILED = frozenset({
    Verdict.WRONG_KERNEL, Verdict.WRONG_NUM_SPLITS, Verdict.WRONG_TEMPLATE, Verdict.WRONG_GRID,
    Verdict.MISSING, Verdict.UNEXPECTED, Verdict.UNEXPLAINED, Verdict.INCONSISTENT,
    Verdict.FROZEN,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """One attention call with its verdict.

    ``observed`` and ``predicted`` are None where there is none; ``call`` is what was predicted for.
    ``duration_ns`` is GPU time. ``seq``, ``step`` and ``layer`` are None where unknown,
    ``process`` where no call was recorded: 0 is the first of the run's processes. ``share`` says how
    much an explained call proves: of calls like it, one for every KV length, how many launch the same.
    """

    verdict: Verdict
    detail: str
    seq: int | None
    step: int | None
    phase: str
    layer: int | None
    call: AttentionCall | None = None
    predicted: Prediction | None = None
    observed: ObservedShape | None = None
    inferred: InferredCall | None = None
    duration_ns: int | None = None
    num_kernels: int = 0
    process: int | None = None
    share: float | None = None

    @property
    def num_splits(self) -> int | None:
        """Observed where something was observed, else predicted."""
        if self.observed is not None:
            return self.observed.num_splits
        return self.predicted.num_splits if self.predicted else None


class Reading(NamedTuple):
    """What a call's launches say; ``share`` as in CheckedCall.

    ``whose``: the kernel with the libraries of which one launched it, where several known ones may have.
    """

    verdict: Verdict
    detail: str
    inferred: InferredCall | None = None
    share: float | None = None
    whose: str = ""


class ReadBackCalls(Sequence[CheckedCall]):
    """The calls of a trace without records: each is its row of ``observed`` and a reading.

    The first readings are those of the shapes; a call has its shape's reading unless :meth:`read_otherwise`
    gave it another. A CheckedCall is made when one is asked for; counting needs none.
    """

    def __init__(self, observed: ObservedCalls, readings: Sequence[Reading]) -> None:
        self.observed, self.readings = observed, list(readings)
        self._reading = observed.shape

    def __len__(self) -> int:
        return len(self.observed)

    @property
    def inferred(self) -> list[InferredCall | None]:
        """What each shape says of the KV length."""
        return [reading.inferred for reading in self.readings[: len(self.observed.shapes)]]

    def not_having(self, rows: Int64, verdicts: frozenset[Verdict]) -> Int64:
        """Of these calls, those with none of these verdicts."""
        wanted = np.array([reading.verdict not in verdicts for reading in self.readings], np.bool_)
        return rows[wanted[self._reading[rows]]]

    def read_otherwise(self, rows: Int64, reading: Reading) -> None:
        """Give some calls a reading of their own."""
        self._reading = self._reading.copy()
        self._reading[rows] = len(self.readings)
        self.readings.append(reading)

    @property
    def counts(self) -> Counter[Verdict]:
        """How many calls got each verdict."""
        return self._counts(self._reading)

    def counts_in(self, phase: str) -> Counter[Verdict]:
        """How many calls of a phase got each verdict."""
        number = next(number for number, name in PHASE_NAMES.items() if name == phase)
        return self._counts(self._reading[self.observed.phase == number])

    @property
    def strengths(self) -> Counter[str]:
        """How many explained calls prove much ("strong") and little ("weak")."""
        calls = np.bincount(self._reading, minlength=len(self.readings)).tolist()
        found: Counter[str] = Counter()
        for reading, number in zip(self.readings, calls, strict=True):
            if reading.verdict is Verdict.EXPLAINED and reading.share is not None:
                found[strength(reading.share)] += number
        return +found

    def _counts(self, readings: Int64) -> Counter[Verdict]:
        calls = np.bincount(readings, minlength=len(self.readings)).tolist()
        counts: Counter[Verdict] = Counter()
        for (verdict, *_), number in zip(self.readings, calls, strict=True):
            counts[verdict] += number
        return +counts

    @property
    def owners(self) -> Counter[str]:
        """How many calls are of each ``whose``."""
        calls = np.bincount(self._reading, minlength=len(self.readings)).tolist()
        found: Counter[str] = Counter()
        for reading, number in zip(self.readings, calls, strict=True):
            found[reading.whose] += number if reading.whose else 0
        return +found

    def details(self, verdict: Verdict) -> Counter[str]:
        """How many calls got the verdict for each reason, in order of the first of them."""
        wanted = np.array([reading.verdict is verdict for reading in self.readings], np.bool_)
        found: Counter[str] = Counter()
        if wanted.any():
            mine = self._reading[wanted[self._reading]]
            codes, first, calls = np.unique(mine, return_index=True, return_counts=True)
            for at in np.argsort(first).tolist():
                found[self.readings[codes[at]].detail] += int(calls[at])
        return found

    def having(self, verdicts: frozenset[Verdict]) -> list[CheckedCall]:
        """The calls with one of these verdicts."""
        wanted = [verdict in verdicts for verdict, *_ in self.readings]
        if not any(wanted):
            return []
        return list(self._made(np.flatnonzero(np.array(wanted)[self._reading])))

    def __iter__(self) -> Iterator[CheckedCall]:
        return self._made(slice(None))

    def __reversed__(self) -> Iterator[CheckedCall]:
        return self._made(slice(None, None, -1))

    @overload
    def __getitem__(self, rows: int) -> CheckedCall: ...
    @overload
    def __getitem__(self, rows: slice) -> tuple[CheckedCall, ...]: ...
    def __getitem__(self, rows: int | slice) -> CheckedCall | tuple[CheckedCall, ...]:
        if isinstance(rows, slice):
            return tuple(self._made(rows))
        at = range(len(self))[rows]
        return next(self._made(slice(at, at + 1)))

    def _made(self, rows: slice | np.typing.NDArray[np.intp]) -> Iterator[CheckedCall]:
        o = self.observed
        columns = (self._reading, o.shape, o.seq, o.step, o.phase, o.layer, o.duration, o.num_kernels)
        for reading, shape, seq, step, phase, layer, duration, kernels in zip(
            *(column[rows].tolist() for column in columns), strict=True
        ):
            verdict, detail, inferred, share, _ = self.readings[reading]
            yield CheckedCall(
                verdict,
                detail,
                None if seq < 0 else seq,
                None if step < 0 else step,
                PHASE_NAMES[phase],
                None if layer < 0 else layer,
                observed=o.shapes[shape],
                inferred=inferred,
                share=share,
                duration_ns=duration,
                num_kernels=kernels,
            )
