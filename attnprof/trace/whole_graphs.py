"""CUDA graphs that were recorded whole: a row among the kernels for each launch, with the time it took.

So every sum of GPU time counts them, under a name of their own; what ran inside is not known. nsys's own
reports know kernels alone.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from attnprof.arrays import Narrow, narrowest
from attnprof.trace.tables import WHOLE_GRAPH, Bool, Copies, Kernels, Trace, in_time_order


def are_whole_graphs(trace: Trace, rows: slice = slice(None)) -> Bool:
    """Which of the kernels, all or those of ``rows``, are such graphs."""
    name = trace.kernels.name[rows]
    if not trace.info.whole_graph_launches:
        return np.broadcast_to(np.False_, name.shape)
    return np.isin(name, [index for index, text in enumerate(trace.strings) if text == WHOLE_GRAPH])


def with_whole_graphs(
    kernels: Kernels, more: dict[str, Narrow], graphs: Copies, name: int
) -> tuple[Kernels, dict[str, Narrow]]:
    """The kernels and further columns of theirs with a row per graph, called by string ``name``."""
    if not len(graphs):
        return kernels, more
    columns: dict[str, Any] = {
        f.name: getattr(kernels, f.name) for f in fields(kernels) if f.name != "shapes"
    }
    none = np.zeros(len(graphs), np.int64)
    added = {f.name: getattr(graphs, f.name) for f in fields(graphs)}
    added |= {"name": none + name, "shape": none + len(kernels.shapes), "graph_node": none}
    every = {key: _narrow(np.concatenate([values, added[key]])) for key, values in columns.items()}
    every |= {key: _narrow(np.concatenate([values, none])) for key, values in more.items()}
    every = in_time_order(every | {time: every[time].astype(np.int64) for time in ("start", "end")})
    unknown = np.zeros((1, 6), kernels.shapes.dtype)
    whole = Kernels(**{key: every[key] for key in columns}, shapes=np.concatenate([kernels.shapes, unknown]))
    return whole, {key: every[key] for key in more}


def _narrow(values: Any) -> Any:
    return values.astype(narrowest(int(values.min()), int(values.max())))


def without_whole_graphs(trace: Trace) -> Trace:
    """The trace with its kernels alone; itself where no graph was recorded whole."""
    graphs = are_whole_graphs(trace)
    if not graphs.any():
        return trace
    kept = np.flatnonzero(~graphs)
    columns = {f.name: getattr(trace.kernels, f.name)[kept] for f in fields(Kernels) if f.name != "shapes"}
    details = trace.details
    if details is not None:
        of_kernels = ("context", "registers", "static_smem", "dynamic_smem")
        details = replace(details, **{key: getattr(details, key)[kept] for key in of_kernels})
    return replace(trace, kernels=Kernels(**columns, shapes=trace.kernels.shapes), details=details)
