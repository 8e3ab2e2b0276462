"""num_splits over ranges of calls: where it changes, and for which batch sizes it does not.

A sweep is a table: one row per setting (library, version, GPU, entry, heads, …), one column per value of one
swept length, ``along``. Libraries whose rules have an array form are evaluated over arrays, others
call by call. Neighbouring KV lengths between which such rules see no difference are one run, evaluated once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attnprof.analysis.sum_order import SumOrder, sum_order
from attnprof.dispatch.heuristic import MAX_SPLITS
from attnprof.dispatch.libraries import library, predict
from attnprof.dispatch.library import NO_PREDICTION, KeyEdges, SplitCounter
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction

Along = Literal["seqlen_k", "batch", "seqlen_q"]
ALONG: tuple[Along, ...] = ("seqlen_k", "batch", "seqlen_q")
_NOTHING = SumOrder("", "")
_KINDS = 16  # of SplitCounts
_PIECE = 1 << 20  # calls evaluated at once, which bounds the memory taken
_SCALAR_LIMIT = 300_000

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that is predicted for but the swept field, whose value in ``call`` means nothing.

    ``max_splits``: the most splits the heuristic may choose, 128 in every release.
    """

    call: AttentionCall
    gpu: Gpu
    version: str
    max_splits: int = MAX_SPLITS


@dataclass(frozen=True)
class Sweep:
    """``num_splits`` and ``waves`` have a row per setting and a column per value; values ascend.

    Kept are a column per run of values that nothing tells apart, ``firsts`` the index of each run's first.

    ``num_splits`` is 0 where the call is refused or launches nothing. ``waves``: thread blocks (of 64
    queries, all splits) / slots, as the heuristic counts them; 0 for libraries without array rules.
    ``order`` indexes ``orders``, what besides the split count settles the order of the sums.
    """

    along: Along
    values: Ints
    settings: tuple[Setting, ...]
    firsts: npt.NDArray[np.intp]
    run_splits: npt.NDArray[np.int16]
    run_waves: npt.NDArray[np.float32]
    run_order: npt.NDArray[np.int16]
    orders: tuple[SumOrder, ...]

    @property
    def size(self) -> int:
        """How many calls were predicted."""
        return len(self.settings) * len(self.values)

    @cached_property
    def num_splits(self) -> npt.NDArray[np.int16]:
        """The split count of each call."""
        return self._of_values(self.run_splits)

    @cached_property
    def waves(self) -> npt.NDArray[np.float32]:
        """Waves of thread blocks of each call."""
        return self._of_values(self.run_waves)

    @cached_property
    def order(self) -> npt.NDArray[np.int16]:
        """The index into ``orders`` of each call."""
        return self._of_values(self.run_order)

    def _of_values(self, runs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if len(self.firsts) == len(self.values):
            return runs
        return np.repeat(runs, np.diff(self.firsts, append=len(self.values)), axis=1)

    @property
    def arithmetic(self) -> Ints:
        """A number per call, equal where split count, kernels and tiles are: the keys are summed alike."""
        return self.num_splits.astype(np.int64) * max(1, len(self.orders)) + self.order

    def refusal(self, row: int, column: int) -> str | None:
        """Why the library refuses a call; None where it does not."""
        return _predict(self.settings[row], self.along, int(self.values[column])).error


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring values, both ends included, with one num_splits, kernel, tile and number of whole waves.

    ``num_splits`` is None where nothing is launched, and ``error`` the library's refusal if that is why.
    ``waves`` are those at both ends.
    """

    setting: Setting
    low: int
    high: int
    num_splits: int | None
    kernels: str
    tile: str
    error: str | None
    waves: tuple[float, float]


def sweep(settings: Sequence[Setting], along: Along, values: Any) -> Sweep:
    """num_splits of every setting at every value of the field ``along``.

    values: ascending integers.  Raises UsageError for an unknown library or version, and where a library
    without array rules would take minutes.
    """
    every = _as_array(values)
    firsts = _firsts(settings, along, every)
    columns = every[firsts]
    num_splits = np.zeros((len(settings), len(columns)), dtype=np.int16)
    waves = np.zeros(num_splits.shape, dtype=np.float32)
    order, known = np.zeros(num_splits.shape, dtype=np.int16), {_NOTHING: 0}
    for rows, counter in _alike(settings):
        if counter is None:
            _count_one_by_one(settings, rows, along, columns, num_splits, order, known)
            continue
        per_piece = max(1, _PIECE // max(1, len(columns)))
        for at in range(0, len(rows), per_piece):
            for first in range(0, len(columns), _PIECE):
                piece = rows[at : at + per_piece], slice(first, first + _PIECE)
                kinds = _count(settings, along, columns, counter, piece, num_splits, waves)
                _order(settings, along, columns, piece, num_splits, kinds, order, known)
    return Sweep(along, every, tuple(settings), firsts, num_splits, waves, order, tuple(known))


def _as_array(values: Any) -> Ints:
    if isinstance(values, range):
        return np.arange(values.start, values.stop, values.step, dtype=np.int64)
    return np.asarray(values, dtype=np.int64)


def _firsts(settings: Sequence[Setting], along: Along, values: Ints) -> npt.NDArray[np.intp]:
    """The index of each value that may differ from the one before in what is predicted."""
    edges: set[KeyEdges | None] = {None}
    if along == "seqlen_k" and len(values) and len(settings):
        alike = {replace(setting.call, batch=1) for setting in settings}
        edges = {library(call.library).key_edges(call) for call in alike}
    blocks = {each.block for each in edges if each is not None}
    if None in edges:
        return np.arange(len(values))
    lengths = np.array(sorted(set().union(*(each.lengths for each in edges if each is not None))))
    begins = np.zeros(len(values), dtype=np.bool_)
    begins[0] = True
    for block in blocks:
        number = (values - 1) // block
        begins[1:] |= number[1:] != number[:-1]
    begins[np.minimum(np.searchsorted(values, lengths), len(values) - 1)] = True
    return np.flatnonzero(begins)


_VARY = ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k", "head_dim")


def _alike(settings: Sequence[Setting]) -> Iterator[tuple[list[int], SplitCounter | None]]:
    """Rows that differ in sizes alone, and what counts their splits; None where there is no array form."""
    groups: dict[Any, list[int]] = {}
    sizes: dict[str, Any] = dict.fromkeys(_VARY, 1)
    for index, setting in enumerate(settings):
        groups.setdefault((setting.version, setting.gpu, replace(setting.call, **sizes)), []).append(index)
    for (version, _, call), rows in groups.items():
        yield rows, library(call.library).split_counter(version)


def _count(
    settings: Sequence[Setting], along: Along, columns: Ints, counter: SplitCounter,
    piece: tuple[list[int], slice], num_splits: npt.NDArray[np.int16], waves: npt.NDArray[np.float32],
) -> npt.NDArray[np.int8]:  # fmt: skip
    """Fills one piece of the two tables; the kinds of its calls."""
    rows, span = piece
    chosen = [settings[row] for row in rows]
    varied: dict[str, Any] = {
        name: np.array([getattr(s.call, name) for s in chosen])[:, None] for name in _VARY
    }
    varied[along] = columns[span][None, :]
    caps = np.array([s.max_splits for s in chosen])[:, None]
    first = chosen[0]
    counts = counter(first.call, first.gpu, varied, caps)
    shape = len(rows), len(columns[span])
    num_splits[rows, span] = np.broadcast_to(counts.num_splits, shape)
    waves[rows, span] = np.broadcast_to(counts.thread_blocks * counts.num_splits / counts.slots, shape)
    return np.broadcast_to(counts.kind, shape)


def _order(
    settings: Sequence[Setting], along: Along, columns: Ints, piece: tuple[list[int], slice],
    num_splits: npt.NDArray[np.int16], kinds: npt.NDArray[np.int8], order: npt.NDArray[np.int16],
    known: dict[SumOrder, int],
) -> None:  # fmt: skip
    """Fills one piece of ``order``: one prediction for all calls that launch the same kernels."""
    rows, span = piece
    dims = [settings[row].call.head_dim for row in rows]
    every = {dim: number for number, dim in enumerate(dict.fromkeys(dims))}
    counts = num_splits[rows, span]
    groups = np.array([every[dim] for dim in dims])[:, None] * (3 * _KINDS)
    groups = groups + np.minimum(counts, 2) * _KINDS + kinds
    found = np.zeros(len(every) * 3 * _KINDS, np.int16)
    for group in np.flatnonzero(np.bincount(groups.ravel())).tolist():
        row, column = divmod(int(np.argmax(groups == group)), groups.shape[1])
        count = int(counts[row, column])
        if count != NO_PREDICTION:
            value = int(columns[span][column])
            ran = sum_order(_launches(settings[rows[row]], along, value, count))
            found[group] = known.setdefault(ran, len(known))
    order[rows, span] = found[groups]


def _count_one_by_one(
    settings: Sequence[Setting], rows: list[int], along: Along, columns: Ints,
    num_splits: npt.NDArray[np.int16], order: npt.NDArray[np.int16], known: dict[SumOrder, int],
) -> None:  # fmt: skip
    """Fills the rows of a library that has no array form."""
    first = settings[rows[0]]
    if len(rows) * len(columns) > _SCALAR_LIMIT:
        raise UsageError(
            f"{len(rows) * len(columns):,} predictions of {first.call.library} would take minutes",
            hint=f"widen the steps until at most {_SCALAR_LIMIT:,} are left, e.g. --seqlen-k 1:8192:64",
        )
    for row in rows:
        setting = settings[row]
        if setting.max_splits != MAX_SPLITS:
            raise UsageError(f"--max-splits cannot be changed for {setting.call.library}")
        for column, value in enumerate(columns.tolist()):
            call = replace(setting.call, **{along: value})
            prediction = predict(call, setting.gpu, setting.version)
            num_splits[row, column] = prediction.num_splits or 0
            order[row, column] = known.setdefault(sum_order(prediction.launches), len(known))


def stretches(result: Sweep) -> Iterator[Stretch]:
    """Every setting's runs of equal splits, kernels, tiles and whole waves; changes are where one ends."""
    for row, setting in enumerate(result.settings):
        runs = result.run_splits[row], result.run_waves[row], result.run_order[row]
        splits, waves_of, order = runs
        changes = (np.diff(splits) != 0) | (np.diff(np.ceil(waves_of)) != 0) | (np.diff(order) != 0)
        firsts = [0, *(np.flatnonzero(changes) + 1).tolist()]
        for first, after in zip(firsts, [*firsts[1:], len(result.firsts)], strict=True):
            last = result.firsts[after] if after < len(result.firsts) else len(result.values)
            low, high = int(result.values[result.firsts[first]]), int(result.values[last - 1])
            waves = float(waves_of[first]), float(waves_of[after - 1])
            count = int(splits[first])
            ran = result.orders[order[first]]
            error = None if count else _predict(setting, result.along, low).error
            yield Stretch(setting, low, high, count or None, ran.kernels, ran.tile, error, waves)


def _predict(setting: Setting, along: Along, value: int) -> Prediction:
    swept: dict[str, Any] = {along: value}
    return predict(replace(setting.call, **swept), setting.gpu, setting.version)


def _launches(setting: Setting, along: Along, value: int, count: int) -> Sequence[KernelLaunch]:
    """The launches of a setting at one value, for which ``count`` splits were found."""
    prediction = _predict(setting, along, value)
    if count == 1 != prediction.num_splits:
        # Capped by max_splits: the kernels are those of a call that has nothing to split.
        call = setting.call
        alone: dict[str, Any] = {"num_splits": 1} if call.entry == "fwd_kvcache" else {"seqlen_k": 1}
        swept: dict[str, Any] = {along: value}
        prediction = predict(replace(call, **(swept | alone)), setting.gpu, setting.version)
    return prediction.launches
