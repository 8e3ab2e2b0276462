"""Which kind of module launched each kernel, where the trace names modules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attnprof.arrays import blocks, distinct_rows, occurring
from attnprof.model import MODULE_KINDS
from attnprof.trace.module_names import kind_of_range
from attnprof.trace.range_contents import calls_inside, latest, moments_inside
from attnprof.trace.range_names import OWN_DOMAIN
from attnprof.trace.range_nesting import Lane, lanes
from attnprof.trace.tables import Int64, Ranges, Trace
from attnprof.trace.timeline import Timeline

OWN_RANGE = "module"  # attnprof's own; the payload is a place in MODULE_KINDS
Kinds = npt.NDArray[np.int8]


def launching_modules(timeline: Timeline) -> Kinds | None:
    """Per kernel, the innermost module of a known kind around its launch, a place in MODULE_KINDS.

    0 where none is; of a graph's kernel, around its capture. None where the trace names no module: neither
    attnprof's ranges do, nor the profiler's module calls, nor anybody's ranges.
    """
    trace = timeline.trace
    ranges, kind = _named(trace)
    if not len(ranges):
        return None
    nested = lanes(ranges)
    of_range = np.append(kind, 0).astype(np.int8)  # the last one is what -1 finds
    calls, launch = trace.api_calls, timeline.launch
    found = np.zeros(len(launch), np.int8)
    for rows in blocks(len(launch) if len(calls) else 0):
        known = np.flatnonzero(launch[rows] >= 0)
        at = launch[rows][known]
        held = moments_inside(nested, calls.thread[at], calls.start[at], calls.end[at])
        found[known + rows.start] = of_range[latest(held, len(at))]
    if trace.graph_nodes is not None:
        _add_captured(timeline, nested, of_range, found)
    return found


def _named(trace: Trace) -> tuple[Ranges, Int64]:
    """The ranges that name a kind of module, and the kinds: attnprof's own, else the profiler's, else any."""
    ranges, strings = trace.ranges, trace.strings
    domain = [n for n, text in enumerate(strings) if text == OWN_DOMAIN]
    name = [n for n, text in enumerate(strings) if text == OWN_RANGE]
    own = ranges.has_payload & np.isin(ranges.domain, domain) & np.isin(ranges.name, name)
    own = own & (ranges.payload > 0) & (ranges.payload < len(MODULE_KINDS))
    if own.any():
        return _rows(ranges, own), ranges.payload[own]
    if trace.modules is not None:
        m = trace.modules
        none = np.zeros(len(m), np.int32)
        as_ranges = Ranges(
            m.start, m.end, none, none, m.thread, m.pid, np.zeros(len(m), np.int64), none > 0, none == 0
        )
        return as_ranges, m.kind.astype(np.int64)
    by_text = np.zeros(len(strings) + 1, np.int8)
    for n in occurring(ranges.name, len(strings)).tolist():
        by_text[n] = kind_of_range(strings[n])
    kind = by_text[ranges.name].astype(np.int64)
    return _rows(ranges, kind > 0), kind[kind > 0]


def _rows(ranges: Ranges, mine: npt.NDArray[np.bool_]) -> Ranges:
    columns = (getattr(ranges, name) for name in Ranges.__slots__)
    return Ranges(*(column[mine] for column in columns))


def _add_captured(timeline: Timeline, nested: list[Lane], of_range: Kinds, found: Kinds) -> None:
    """Gives a graph's kernels the modules that were captured, where their launch tells none."""
    trace, nodes = timeline.trace, timeline.trace.graph_nodes
    assert nodes is not None
    held = calls_inside(nested, nodes, np.arange(len(nodes)))
    of_node = of_range[latest(held, len(nodes))]
    kernels = trace.kernels
    for rows in blocks(len(found) if len(nodes) else 0):
        mine = rows.start + np.flatnonzero((found[rows] == 0) & (kernels.graph_node[rows] != 0))
        pids = np.concatenate([nodes.pid, kernels.pid[mine]])
        _, node = distinct_rows([pids, np.concatenate([nodes.node, kernels.graph_node[mine]])])
        captured = np.zeros(int(node.max()) + 1, np.int8)
        captured[node[: len(nodes)]] = of_node
        found[mine] = captured[node[len(nodes) :]]
