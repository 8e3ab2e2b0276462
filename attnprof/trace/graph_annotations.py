"""What torch names the kernels of CUDA graphs in a profiler's trace.

``torch.cuda.graph(enable_annotations=True)`` and ``mark_kernels`` of torch 2.12 keep a name per node.
It lands among the arguments of the node's kernel events in each replay. torch's _annotate_cuda_graph_trace
writes each field as text, a bare name as "str" (2.12, 2.13) or "name" (2.14), as "annotation" where it was no
dictionary. The profiler's cupti_monitor writes the fields of one, several as JSON in "annotation"; from 2.14
on it gives the lower half of the node's id, the other half being "graph id". Only read, in 2.13.0 and 2.14.1:
no public trace has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from attnprof.arrays import Narrow
from attnprof.trace.range_names import NONE, said_by
from attnprof.trace.tables import NodeNames

_NAMES = ("name", "str", "annotation")
_NUMBERED = ("layer", "phase")  # fields that say by their own name what they are
_LONGEST = 4096  # characters of the JSON of several
_HALF = 32  # bits of a node's number within its graph


def graph_node(arguments: Mapping[str, Any]) -> int:
    """A kernel's node, with its graph in the upper half; 0 for none."""
    node, graph = (_number(arguments.get(key)) for key in ("graph node id", "graph id"))
    return node if not 0 < node < 1 << _HALF or graph >= 1 << _HALF - 1 else graph << _HALF | node


def _number(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def annotation(arguments: Mapping[str, Any]) -> str:
    """What the node was called, "" for nothing."""
    return " / ".join(dict.fromkeys(_texts(arguments)))


def _texts(fields: Mapping[str, Any]) -> Iterator[str]:
    for key in _NAMES:
        value = fields.get(key)
        several = _several(value) if key == "annotation" else []
        if several:
            for one in several:
                yield from _texts({k: v for k, v in one.items() if k != "annotation"})
        elif isinstance(value, str) and value:
            yield value
    for key in _NUMBERED:
        value = fields.get(key)
        if isinstance(value, str | int) and type(value) is not bool and value != "":
            yield f"{key} {value}" if key == "layer" else str(value)


def _several(value: object) -> list[dict[str, Any]]:
    """The annotations of a node that has a list of them."""
    if not isinstance(value, str) or not value.startswith("[") or len(value) > _LONGEST:
        return []
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return [one if isinstance(one, dict) else {"name": one} for one in read]


def node_names(node: Narrow, pid: Narrow, name: Narrow, strings: Sequence[str]) -> NodeNames:
    """Nodes of these names, with what the names say."""
    said = [said_by(strings[index]) for index in name.tolist()]
    layer, phase = (
        np.array([one.get(key, NONE[key]) for one in said], np.int32) for key in ("layer", "phase")
    )
    return NodeNames(node, pid.astype(np.int32), name.astype(np.int32), layer, phase)
