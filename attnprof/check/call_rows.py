"""Checked calls as rows of plain values: what ``check --format``, exports and the table ``calls`` hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, overload

from attnprof.check.verdicts import CheckedCall
from attnprof.dispatch.explanation import strength
from attnprof.dispatch.intervals import InferredCall
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.requests import split_range
from attnprof.model import KernelLaunch

_SHAPE: dict[str, type] = {
    "library": str, "entry": str, "batch": int, "seqlen_q": int, "seqlen_k": int, "num_heads": int,
    "num_heads_k": int, "head_dim": int, "causal": bool,
}  # fmt: skip
CALL_COLUMNS: dict[str, type] = {
    "seq": int, "step": int, "phase": str, "layer": int, "verdict": str, "detail": str, **_SHAPE,
    "predicted_kernel": str, "predicted_grid": str, "predicted_num_splits": int, "observed_kernel": str,
    "observed_grid": str, "observed_num_splits": int, "inferred_seqlen_k": str, "duration_ns": int,
    "process": int, "strength": str, "share": float, "seqlens_q": str, "seqlens_k": str, "lengths": str,
    "predicted_splits": str,
}  # fmt: skip
EACH, ONLY_MAXIMA = "each request's", "only the maxima"  # of ``lengths``
_Row = tuple[Any, ...]


class CallRows(Sequence[_Row]):
    """The rows of calls, each made when it is asked for: a trace has millions."""

    def __init__(self, calls: Sequence[CheckedCall]) -> None:
        self._calls = calls

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[_Row]:
        return map(call_row, self._calls)

    @overload
    def __getitem__(self, at: int) -> _Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[_Row]: ...
    def __getitem__(self, at: int | slice) -> _Row | list[_Row]:
        return list(map(call_row, self._calls[at])) if isinstance(at, slice) else call_row(self._calls[at])


def call_row(call: CheckedCall) -> _Row:
    """The values of CALL_COLUMNS, None where unknown; ``share`` and ``strength`` are of explained calls.

    ``seqlens_q`` and ``seqlens_k`` are each request's own, ``predicted_splits`` the fewest and most that one
    gets where they may differ.
    """
    asked, predicted, observed = call.call, call.predicted, call.observed
    shape = (None,) * len(_SHAPE) if asked is None else tuple(getattr(asked, name) for name in _SHAPE)
    ours = (None, None, None) if predicted is None else (*_told(predicted.launches), predicted.num_splits)
    theirs = (None, None, None) if observed is None else (*_told(observed.launches), observed.num_splits)
    where = (call.seq, call.step, call.phase, call.layer, call.verdict.value, call.detail)
    lengths = None if call.inferred is None else _lengths(call.inferred)
    proof = (strength(call.share) or None, call.share)
    last = (*proof, *_requests(call))
    return (*where, *shape, *ours, *theirs, lengths, call.duration_ns, call.process, *last)


def _requests(call: CheckedCall) -> tuple[str | None, ...]:
    """Each request's queries, keys, which of its lengths are known, and its splits as a range."""
    asked, predicted = call.call, call.predicted
    if asked is None:
        return None, None, None, None
    queries, keys = (" ".join(map(str, each)) for each in (asked.seqlens_q, asked.seqlens_k))
    known = EACH if asked.seqlens_k or asked.entry == "fwd" or asked.batch <= 1 else ONLY_MAXIMA
    splits = split_range(predicted.splits_of_requests) if predicted else ""
    return queries or None, keys or None, known, splits or None


@lru_cache(maxsize=1 << 14)
def _told(launches: tuple[KernelLaunch, ...]) -> tuple[str, str]:
    """The kernels' names and their grids."""
    names = " + ".join(parse_kernel_name(launch.kernel).kernel for launch in launches)
    return names, " + ".join("x".join(map(str, launch.grid)) for launch in launches)


def _lengths(inferred: InferredCall) -> str:
    return ", ".join(map(str, inferred.seqlen_k))
