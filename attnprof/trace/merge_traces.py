"""Traces of several processes of one job as one trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from attnprof.trace.tables import (
    ApiCalls,
    AttentionOps,
    Copies,
    Kernels,
    ModuleCalls,
    NodeNames,
    Ranges,
    Rows,
    Trace,
    TraceInfo,
    rows_in_order,
    time_order,
)

_TEXTS = ("name", "domain")  # columns that index the trace's strings


def merged(traces: Sequence[Trace]) -> Trace:
    """All rows of all traces, which are of one clock, on one timeline; itself where there is one.

    Rows keep their process, by which a kernel finds its launch. What only nsys tells is left out.
    """
    if len(traces) == 1:
        return traces[0]
    texts: dict[str, int] = {"": 0}
    renumbered = [
        np.array([texts.setdefault(text, len(texts)) for text in trace.strings] or [0], np.int32)
        for trace in traces
    ]
    ops = [trace.attention_ops for trace in traces]
    modules = [trace.modules for trace in traces if trace.modules is not None]
    named = [(trace.node_names, texts) for trace, texts in zip(traces, renumbered, strict=True)]
    return Trace(
        info=_info([trace.info for trace in traces]),
        kernels=_kernels([trace.kernels for trace in traces], renumbered),
        api_calls=_rows([trace.api_calls for trace in traces], renumbered, ApiCalls),
        ranges=_rows([trace.ranges for trace in traces], renumbered, Ranges),
        strings=list(texts),
        copies=_rows([trace.copies for trace in traces], renumbered, Copies),
        attention_ops=_ops([one for one in ops if one is not None], renumbered),
        modules=_rows(modules, renumbered, ModuleCalls) if modules else None,
        node_names=_node_names([(names, texts) for names, texts in named if names is not None]),
    )


def _info(infos: Sequence[TraceInfo]) -> TraceInfo:
    devices = {device.index: device for info in reversed(infos) for device in info.devices}
    notes = [note for info in infos for note in info.notes]
    alike = [note for note in dict.fromkeys(notes) if notes.count(note) == len(infos)]
    told = [f"{info.path.rpartition('/')[2]}: {n}" for info in infos for n in info.notes if n not in alike]
    return replace(
        infos[0],
        devices=tuple(devices[index] for index in sorted(devices)),
        whole_graph_launches=sum(info.whole_graph_launches for info in infos),
        nvtx_domains=tuple(dict.fromkeys(domain for info in infos for domain in info.nvtx_domains)),
        notes=(*alike, *told),
    )


def _columns(tables: Sequence[Any], renumbered: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """The columns one after another, each text by its number among all texts."""
    found = {}
    for name in names:
        columns = [np.asarray(getattr(table, name)) for table in tables]
        if name in _TEXTS:
            columns = [numbers[column] for numbers, column in zip(renumbered, columns, strict=True)]
        found[name] = np.concatenate(columns)
    return found


def _rows(tables: Sequence[Rows], renumbered: Sequence[Any], kind: type[Rows]) -> Rows:
    names = [one.name for one in fields(kind)]
    return rows_in_order(kind(**_columns(tables, renumbered, names)))


def _kernels(tables: Sequence[Kernels], renumbered: Sequence[Any]) -> Kernels:
    names = [one.name for one in fields(Kernels) if one.name not in ("shape", "shapes")]
    before = np.cumsum([0, *(len(table.shapes) for table in tables)])
    shape = [np.asarray(table.shape, np.int64) + before[n] for n, table in enumerate(tables)]
    shapes = np.concatenate([table.shapes for table in tables])
    distinct, place = np.unique(shapes, axis=0, return_inverse=True)
    place = place.reshape(-1)
    columns = _columns(tables, renumbered, names)
    return rows_in_order(
        Kernels(
            **columns,
            shape=place[np.concatenate(shape)].astype(np.int32) if len(shapes) else np.concatenate(shape),
            shapes=distinct.astype(np.int32),
        )
    )


def _node_names(named: Sequence[tuple[NodeNames, Any]]) -> NodeNames | None:
    if not named:
        return None
    columns = [one.name for one in fields(NodeNames)]
    tables, renumbered = zip(*named, strict=True)
    return NodeNames(**_columns(tables, renumbered, columns))


def _ops(tables: Sequence[AttentionOps], renumbered: Sequence[Any]) -> AttentionOps | None:
    if len(tables) != len(renumbered):
        return None
    arrays = [one.name for one in fields(AttentionOps)][:5]
    columns = _columns(tables, renumbered, arrays)
    order = time_order(columns["start"], columns["end"])
    places = range(len(columns["start"])) if order is None else order.tolist()
    lists = [one.name for one in fields(AttentionOps)][5:]
    for name in lists:
        values = [value for table in tables for value in getattr(table, name)]
        columns[name] = tuple(values[place] for place in places)
    if order is not None:
        columns |= {name: columns[name][order] for name in arrays}
    return AttentionOps(**columns)
