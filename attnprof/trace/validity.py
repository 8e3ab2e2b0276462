"""What holds of every trace that is used: times that can be subtracted, indices of rows that exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.errors import TraceError
from attnprof.model import MODULE_KINDS, PHASES
from attnprof.nouns import count_of
from attnprof.trace.tables import AttentionOps, Trace

_LATEST = 1 << 62  # ns: as an epoch's nanoseconds, the year 2116
_LONGEST = 10 * 366 * 86_400 * 10**9  # ns from the first to the last event
_MOST_NAMES = 1 << 17  # of kernels; PyTorch has some ten thousand, compilers add a few per model
_TYPES = {"Int64": np.dtype(np.int64), "Int32": np.dtype(np.int32), "Bool": np.dtype(np.bool_)}
_MOST = np.iinfo(np.int32).max
_NARROW = {np.dtype(kind) for kind in (np.int8, np.int16, np.int32, np.int64)}


def in_time(trace: Trace) -> Trace:
    """The trace with what ends before it begins taken as of no length, which a note tells.

    Raises TraceError for times that no clock shows and more kernels by name than any program has.
    """
    named = ("kernels", "copies", "api_calls", "ranges", "modules")
    tables = {name: table for name in named if (table := getattr(trace, name)) is not None}
    _require_times(trace.info.path, list(tables.values()))
    _require_names(trace)
    reversed_rows = {name: int(np.count_nonzero(t.end < t.start)) for name, t in tables.items()}
    if not any(reversed_rows.values()):
        return trace
    mended = {
        name: replace(table, end=np.maximum(table.end, table.start))
        for name, table in tables.items()
        if reversed_rows[name]
    }
    counts = ", ".join(
        count_of(count, name.replace("_", " ").removesuffix("s"))
        for name, count in reversed_rows.items()
        if count
    )
    end = "ends before it begins" if sum(reversed_rows.values()) == 1 else "end before they begin"
    note = f"{counts} {end}: taken as of no length"
    return replace(trace, info=replace(trace.info, notes=(*trace.info.notes, note)), **mended)


def _require_times(path: str, tables: list[Any]) -> None:
    filled = [table for table in tables if len(table)]
    if not filled:
        return
    first = min(int(min(table.start.min(), table.end.min())) for table in filled)
    last = max(int(max(table.start.max(), table.end.max())) for table in filled)
    if first < -_LATEST or last > _LATEST or last - first > _LONGEST:
        raise TraceError(
            f"{path}: its events lie between {first} and {last} ns, which no recording does",
            hint="the file is damaged or was edited: export the report again",
        )


def _require_names(trace: Trace) -> None:
    """Kernels are compiled code: a trace whose every kernel has another name was not recorded."""
    if len(trace.strings) <= _MOST_NAMES:
        return
    names = len(np.unique(trace.kernels.name))
    if names > _MOST_NAMES:
        raise TraceError(
            f"{trace.info.path}: its kernels have {names:,} different names, as those of no program have",
            hint="the file is damaged or was edited: export the report again",
        )


def require_sound(trace: Trace, derived: Mapping[str, npt.NDArray[Any]], most_rows: int) -> None:
    """Raises ValueError where columns of a stored trace do not fit each other, their types or the texts.

    ``derived`` are the columns of its timeline, ``most_rows`` what a table may have.
    """
    texts, rows = trace.strings, {}
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("its texts are none")
    for name in ("kernels", "api_calls", "ranges", "copies", "graph_nodes", "modules", "node_names"):
        table = getattr(trace, name)
        if table is not None:
            rows[name] = _require_columns(name, table, most_rows)
    for name, column, length in (
        ("kernels", "name", len(texts)),
        ("kernels", "shape", len(trace.kernels.shapes)),
        ("api_calls", "name", len(texts)),
        ("ranges", "name", len(texts)),
        ("ranges", "domain", len(texts)),
    ):
        _require_within(f"{name}.{column}", getattr(getattr(trace, name), column), 0, length)
    if trace.modules is not None:
        _require_within("modules.kind", trace.modules.kind, 0, len(MODULE_KINDS))
    if trace.node_names is not None:
        _require_within("node_names.name", trace.node_names.name, 0, len(texts))
        _require_within("node_names.layer", trace.node_names.layer, -1, _MOST + 1)
        _require_within("node_names.phase", trace.node_names.phase, 0, len(PHASES))
    if trace.attention_ops is not None:
        _require_ops(trace.attention_ops, len(texts))
    if trace.details is not None:
        for field in fields(trace.details):
            _require_column(f"details.{field.name}", getattr(trace.details, field.name), field.type, None)
    if derived:
        _require_derived(derived, rows)


def _require_columns(name: str, table: Any, most_rows: int) -> int:
    """The number of rows, which every column has, in the type that the model states."""
    rows = len(getattr(table, fields(table)[0].name))
    if rows > most_rows:
        raise ValueError(f"{name} has {rows:,} rows, more than the file has room for")
    for field in fields(table):
        if field.name == "shapes":
            _require_column("kernels.shapes", table.shapes, field.type, None, (6,))
        else:
            _require_column(f"{name}.{field.name}", getattr(table, field.name), field.type, rows)
    return rows


def _require_column(name: str, values: Any, kind: Any, rows: int | None, row: tuple[int, ...] = ()) -> None:
    """``row`` is the shape of one row, ``rows`` None where any number will do."""
    typed = values.dtype in _NARROW if kind == "Narrow" else values.dtype == _TYPES[kind]
    fits = len(values.shape) == 1 + len(row) and rows in (None, values.shape[0]) and values.shape[1:] == row
    if not (typed and fits):
        raise ValueError(f"{name} is {values.dtype} of the shape {values.shape}")


def _require_within(name: str, index: npt.NDArray[Any], least: int, length: int) -> None:
    if len(index) and not least <= int(index.min()) <= int(index.max()) < length:
        raise ValueError(f"{name} names rows that are not there")


def _require_ops(ops: AttentionOps, texts: int) -> None:
    if len({len(getattr(ops, field.name)) for field in fields(ops)}) != 1:
        raise ValueError("the columns of attention_ops differ in length")
    _require_within("attention_ops.name", ops.name, 0, texts)
    for inner, kind in ((ops.dtypes, str), (ops.inputs, str), (ops.correlations, int)):
        if not all(isinstance(row, tuple) and all(isinstance(item, kind) for item in row) for row in inner):
            raise ValueError("attention_ops holds something else than arguments")
    for row in ops.dims:
        if not isinstance(row, tuple) or not all(isinstance(dims, tuple) for dims in row):
            raise ValueError("attention_ops holds something else than shapes")
        if not all(isinstance(size, int) for dims in row for size in dims):
            raise ValueError("attention_ops holds something else than sizes")


_DERIVED = {  # a column: which table its rows are of, the least value, which table it names rows of
    "launch": ("kernels", -1, "api_calls"),
    "range": ("kernels", -1, "ranges"),
    "parent": ("ranges", -1, "ranges"),
    "level": ("ranges", 0, "ranges"),
    "phase": ("kernels", 0, None),
    "of_range.phase": ("ranges", 0, None),
    **dict.fromkeys(("step", "layer", "call"), ("kernels", -1, "")),
    **{f"of_range.{name}": ("ranges", -1, "") for name in ("step", "layer", "call")},
}


def _require_derived(derived: Mapping[str, npt.NDArray[Any]], rows: Mapping[str, int]) -> None:
    for name, (table, least, named) in _DERIVED.items():
        values = derived[name]
        _require_column(f"derived.{name}", values, "Narrow", rows[table])
        most = len(PHASES) if named is None else rows[named] if named else _MOST + 1
        _require_within(f"derived.{name}", values, least, most)
    parent = derived["parent"]
    if np.any(parent >= np.arange(len(parent), dtype=np.int32)):
        raise ValueError("derived.parent: a range lies inside a later one")
