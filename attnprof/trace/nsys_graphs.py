"""The nodes of CUDA graphs in an nsys export, with the moment each was captured."""

from __future__ import annotations

import numpy as np

from attnprof.trace.nsys_tables import GRAPH_NODES
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.tables import GraphNodes, Int64

_NODE = {"start": None, "end": 0, "globalTid": 0, "graphNodeId": 0, "originalGraphNodeId": 0}


def read_graph_nodes(db: Database) -> GraphNodes | None:
    """The nodes, None where the export has none.

    Instantiating a graph clones its nodes; a clone has the moment and thread of its original.
    """
    table = next((name for name in GRAPH_NODES if "graphNodeId" in db.columns(name)), None)
    if table is None:
        return None
    c = {name: values.astype(np.int64) for name, values in db.integers(table, _NODE).items()}
    pid = c["globalTid"] >> 24 & 0xFFFFFF
    source = np.arange(len(pid))
    cloned = np.flatnonzero((c["originalGraphNodeId"] != 0) & (c["originalGraphNodeId"] != c["graphNodeId"]))
    if len(cloned):
        first = {key: row for row, key in reversed([*enumerate(_keys(pid, c["graphNodeId"]))])}
        originals = _keys(pid[cloned], c["originalGraphNodeId"][cloned])
        source[cloned] = [first.get(key, row) for key, row in zip(originals, cloned.tolist(), strict=True)]
    return GraphNodes(
        node=c["graphNodeId"],
        pid=pid.astype(np.int32),
        start=c["start"][source],
        end=np.maximum(c["start"], c["end"])[source],
        thread=c["globalTid"][source],
    )


def _keys(pid: Int64, node: Int64) -> list[tuple[int, int]]:
    return list(zip(pid.tolist(), node.tolist(), strict=True))
