"""Results as pandas DataFrames: what ``attnprof.load()`` hands to notebooks and the database is written from.

kernels: start_ns, duration_ns, name, short_name, family, device, stream, grid_x … block_z, phase, step,
layer, call, range.  ranges: start_ns, end_ns, name, domain, payload, thread, level, parent, phase, step,
layer, call.  calls: ``attnprof.check.call_rows`` and layer_kind, the kind of layer that made the call as
a report names it ("20 sliding layers (1,024 keys)"), nothing where all are of one kind or it is not known.
Unknown numbers are <NA>.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from attnprof.analysis.kv_cache import step_reads
from attnprof.analysis.layer_kinds import kinds_of_calls, layer_kinds
from attnprof.analysis.splits import split_rows
from attnprof.analysis.work_kinds import work_totals
from attnprof.arrays import Narrow, occurring
from attnprof.check.call_rows import CALL_COLUMNS, call_row
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.report.kv_cache import cache_table
from attnprof.report.layer_words import kind_titles
from attnprof.report.work import work_table
from attnprof.runs.schema import PROCESS
from attnprof.trace.timeline import PHASE_NAMES

if TYPE_CHECKING:
    from attnprof.check.check_run import CheckResult
    from attnprof.check.recording import Recording
    from attnprof.report.tables import Table
    from attnprof.trace.timeline import Timeline

_PHASES = [PHASE_NAMES[code] for code in range(len(PHASE_NAMES))]
_EVERY = slice(None)
LAYER_KIND = "layer_kind"  # the last column of calls
_SHAPE = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")


@dataclass(frozen=True, slots=True)
class Column:
    """Some rows of a column: integers, or indices into ``texts``; ``known`` is None where all are known."""

    values: npt.NDArray[np.integer[Any]]
    known: npt.NDArray[np.bool_] | None = None
    texts: Sequence[str] | None = None

    def of_frame(self) -> Any:
        """As a column of a DataFrame."""
        if self.texts is not None:
            return np.array(self.texts, dtype=object)[self.values] if len(self.values) else _NO_TEXTS
        if self.known is not None:
            return pd.arrays.IntegerArray(self.values.astype(np.int64), ~self.known)
        return self.values

    def plain(self) -> list[Any]:
        """As plain values, None where unknown."""
        values: list[Any] = self.values.tolist()
        if self.texts is not None:
            texts = self.texts
            return [texts[index] for index in values]
        if self.known is None or self.known.all():
            return values
        return [value if known else None for value, known in zip(values, self.known.tolist(), strict=True)]


_NO_TEXTS = np.array([], dtype=object)


def _known(values: npt.NDArray[np.integer[Any]]) -> Column:
    """Integers with -1 for unknown."""
    return Column(values, values >= 0)


def kernel_columns(timeline: Timeline, rows: slice = _EVERY) -> dict[str, Column]:
    """The GPU kernels, in order of start; only those of ``rows`` where given."""
    trace, kernels = timeline.trace, timeline.trace.kernels
    used = occurring(kernels.name[rows], len(trace.strings))
    which = np.searchsorted(used, kernels.name[rows])
    names = [trace.strings[index] for index in used.tolist()]
    signatures = [parse_kernel_name(text) for text in names]
    families = [one.family if one.library else "" for one in signatures]
    shapes = kernels.shapes[kernels.shape[rows]]
    return {
        "start_ns": Column(kernels.start[rows]),
        "duration_ns": Column(kernels.end[rows] - kernels.start[rows]),
        "name": Column(which, texts=names),
        "short_name": Column(which, texts=[one.kernel for one in signatures]),
        "family": Column(which, texts=families),
        "device": Column(kernels.device[rows].astype(np.int32)),
        "stream": Column(kernels.stream[rows].astype(np.int32)),
        **{name: Column(shapes[:, axis]) for axis, name in enumerate(_SHAPE)},
        "phase": Column(timeline.phase[rows], texts=_PHASES),
        **{name: _known(getattr(timeline, name)[rows]) for name in ("step", "layer", "call", "range")},
    }


def range_columns(timeline: Timeline, rows: slice = _EVERY) -> dict[str, Column]:
    """The annotated ranges, in order of start; only those of ``rows`` where given."""
    trace, ranges, of_range = timeline.trace, timeline.trace.ranges, timeline.of_range
    return {
        "start_ns": Column(ranges.start[rows]),
        "end_ns": Column(ranges.end[rows]),
        "name": _texts(trace.strings, ranges.name[rows]),
        "domain": _texts(trace.strings, ranges.domain[rows]),
        "payload": Column(ranges.payload[rows], ranges.has_payload[rows]),
        "thread": Column(ranges.thread[rows]),
        "level": Column(timeline.level[rows]),
        "parent": _known(timeline.parent[rows]),
        "phase": Column(of_range.phase[rows], texts=_PHASES),
        **{name: _known(getattr(of_range, name)[rows]) for name in ("step", "layer", "call")},
    }


def _texts(strings: list[str], index: Narrow) -> Column:
    used = occurring(index, len(strings))
    return Column(np.searchsorted(used, index), texts=[strings[one] for one in used.tolist()])


def kernels_frame(timeline: Timeline, rows: slice = _EVERY) -> pd.DataFrame:
    """One row per GPU kernel, in order of start; only those of ``rows`` where given."""
    return _frame(kernel_columns(timeline, rows))


def ranges_frame(timeline: Timeline, rows: slice = _EVERY) -> pd.DataFrame:
    """One row per annotated range, in order of start; only those of ``rows`` where given."""
    return _frame(range_columns(timeline, rows))


def _frame(columns: dict[str, Column]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame({name: column.of_frame() for name, column in columns.items()})
    return frame


def modules_frame(timeline: Timeline) -> pd.DataFrame:
    """What GPU time went to: a row per phase and kind of module; columns as ``report --table modules``."""
    return _table_frame(work_table(work_totals(timeline)))


def cache_frame(run: Recording) -> pd.DataFrame:
    """K and V that attention reads: a row per step; columns as ``report --table cache_steps``."""
    return _table_frame(cache_table([] if run.disbelief else step_reads(run.records)))


def _table_frame(table: Table) -> pd.DataFrame:
    frame = pd.DataFrame([list(row) for row in table.rows], columns=[column.key for column in table.columns])
    typed: pd.DataFrame = frame.convert_dtypes()
    return typed


def processes_frame(processes: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per process as run.json lists them; columns as ``attnprof.runs.schema.PROCESS`` has them."""
    rows = [[one.get(name) for name in PROCESS] for one in processes]
    frame = pd.DataFrame(rows, columns=list(PROCESS))
    typed: pd.DataFrame = frame.astype({name: "Int64" for name, kind in PROCESS.items() if kind is int})
    return typed


class CallKinds:
    """The kind of layer of each call, in words."""

    def __init__(self, result: CheckResult) -> None:
        kinds = layer_kinds(split_rows(result.calls))
        self._numbers = kinds_of_calls(result.calls, kinds)
        self._titles = [*kind_titles(kinds), None]  # of -1

    def __call__(self, rows: slice = _EVERY) -> list[str | None]:
        return [self._titles[number] for number in self._numbers[rows].tolist()]


def calls_frame(result: CheckResult, rows: slice = _EVERY, kinds: CallKinds | None = None) -> pd.DataFrame:
    """One row per attention call, in order of the check; only those of ``rows`` where given."""
    frame = pd.DataFrame(list(map(call_row, result.calls[rows])), columns=list(CALL_COLUMNS))
    frame[LAYER_KIND] = pd.Series((kinds or CallKinds(result))(rows), dtype=object)
    types = {int: "Int64", float: "float64"}
    numbers = {name: types[kind] for name, kind in CALL_COLUMNS.items() if kind in types}
    typed: pd.DataFrame = frame.astype(numbers)
    return typed
