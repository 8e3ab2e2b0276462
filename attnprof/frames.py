"""Results as pandas DataFrames: what ``attnprof.load()`` hands to notebooks and the database is written from.

kernels: start_ns, duration_ns, name, short_name, family, device, stream, grid_x … block_z, phase, step,
layer, call, range.  ranges: start_ns, end_ns, name, domain, payload, thread, level, parent, phase, step,
layer, call.
calls: seq, step, phase, layer, verdict, detail, library, entry, batch, seqlen_q, seqlen_k, num_heads,
num_heads_k, head_dim, causal, predicted_kernel, predicted_grid, predicted_num_splits, observed_kernel,
observed_grid, observed_num_splits, inferred_seqlen_k, duration_ns.  Unknown numbers are <NA>.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attnprof.dispatch.names import parse_kernel_name
from attnprof.timeline import PHASE_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnprof.check import CheckedCall, CheckResult
    from attnprof.model import KernelLaunch
    from attnprof.timeline import Timeline

_PHASES = np.array([PHASE_NAMES[code] for code in range(len(PHASE_NAMES))], dtype=object)


def _known(values: Any) -> Any:
    """Integers with -1 for unknown as a nullable column."""
    array = np.asarray(values)
    return pd.arrays.IntegerArray(array.astype(np.int64), array < 0)


def _texts(strings: list[str], index: Any) -> Any:
    return np.array(strings, dtype=object)[index] if len(index) else np.array([], dtype=object)


_EVERY = slice(None)
_SHAPE = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")


def kernels_frame(timeline: Timeline, rows: slice = _EVERY) -> pd.DataFrame:
    """One row per GPU kernel, in order of start; only those of ``rows`` where given."""
    trace, kernels = timeline.trace, timeline.trace.kernels
    used, which = np.unique(kernels.name[rows], return_inverse=True)
    names = [trace.strings[index] for index in used.tolist()]
    signatures = [parse_kernel_name(text) for text in names]
    families = [one.family if one.is_attention else "" for one in signatures]
    columns: dict[str, Any] = {
        "start_ns": kernels.start[rows],
        "duration_ns": kernels.end[rows] - kernels.start[rows],
        "name": _texts(names, which),
        "short_name": _texts([one.kernel for one in signatures], which),
        "family": _texts(families, which),
        "device": kernels.device[rows].astype(np.int32),
        "stream": kernels.stream[rows].astype(np.int32),
    }
    columns |= dict(zip(_SHAPE, kernels.shapes[kernels.shape[rows]].T, strict=True))
    columns["phase"] = _PHASES[timeline.phase[rows]]
    for name in ("step", "layer", "call", "range"):
        columns[name] = _known(getattr(timeline, name)[rows])
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def ranges_frame(timeline: Timeline, rows: slice = _EVERY) -> pd.DataFrame:
    """One row per annotated range, in order of start; only those of ``rows`` where given."""
    trace, ranges = timeline.trace, timeline.trace.ranges
    columns: dict[str, Any] = {
        "start_ns": ranges.start[rows],
        "end_ns": ranges.end[rows],
        "name": _texts(trace.strings, ranges.name[rows]),
        "domain": _texts(trace.strings, ranges.domain[rows]),
        "payload": pd.arrays.IntegerArray(ranges.payload[rows].astype(np.int64), ~ranges.has_payload[rows]),
        "thread": ranges.thread[rows],
        "level": timeline.level[rows],
        "parent": _known(timeline.parent[rows]),
        "phase": _PHASES[timeline.of_range.phase[rows]],
    }
    for name in ("step", "layer", "call"):
        columns[name] = _known(getattr(timeline.of_range, name)[rows])
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def calls_frame(result: CheckResult, rows: slice = _EVERY) -> pd.DataFrame:
    """One row per attention call, in order of the check; only those of ``rows`` where given."""
    values = [call_row(call) for call in result.calls[rows]]
    frame = pd.DataFrame(values, columns=list(_CALL_COLUMNS))
    integers = {name: "Int64" for name, kind in _CALL_COLUMNS.items() if kind is int}
    typed: pd.DataFrame = frame.astype(integers)
    return typed


_CALL_COLUMNS: dict[str, type] = {
    "seq": int, "step": int, "phase": str, "layer": int, "verdict": str, "detail": str, "library": str,
    "entry": str, "batch": int, "seqlen_q": int, "seqlen_k": int, "num_heads": int, "num_heads_k": int,
    "head_dim": int, "causal": bool, "predicted_kernel": str, "predicted_grid": str,
    "predicted_num_splits": int, "observed_kernel": str, "observed_grid": str, "observed_num_splits": int,
    "inferred_seqlen_k": str, "duration_ns": int,
}  # fmt: skip


def call_row(call: CheckedCall) -> dict[str, Any]:
    """One checked call as plain values, None where unknown; the columns of ``calls``."""
    asked, predicted, observed = call.call, call.predicted, call.observed
    shapes = (
        "library",
        "entry",
        "batch",
        "seqlen_q",
        "seqlen_k",
        "num_heads",
        "num_heads_k",
        "head_dim",
        "causal",
    )
    return {
        "seq": call.seq,
        "step": call.step,
        "phase": call.phase,
        "layer": call.layer,
        "verdict": call.verdict.value,
        "detail": call.detail,
        **{name: getattr(asked, name) if asked else None for name in shapes},
        "predicted_kernel": _names(predicted.launches) if predicted else None,
        "predicted_grid": _grids(predicted.launches) if predicted else None,
        "predicted_num_splits": predicted.num_splits if predicted else None,
        "observed_kernel": _names(observed.launches) if observed else None,
        "observed_grid": _grids(observed.launches) if observed else None,
        "observed_num_splits": observed.num_splits if observed else None,
        "inferred_seqlen_k": ", ".join(map(str, call.inferred.seqlen_k)) if call.inferred else None,
        "duration_ns": call.duration_ns,
    }


def _names(launches: Sequence[KernelLaunch]) -> str:
    return " + ".join(parse_kernel_name(launch.kernel).kernel for launch in launches)


def _grids(launches: Sequence[KernelLaunch]) -> str:
    return " + ".join("x".join(map(str, launch.grid)) for launch in launches)
