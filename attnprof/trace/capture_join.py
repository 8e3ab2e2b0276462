"""Replays of CUDA graphs joined with the capture that another trace recorded.

Under nsys a node has the same number in both. In torch's traces nothing is in both but the order: a replay is
of a capture that launched as many kernels, of the same names where the profiler says these at the launch.
Where it does not, attention operators and modules hold all attention kernels, and beside these only helpers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attnprof.arrays import coded_rows
from attnprof.errors import TraceError
from attnprof.trace.graph_annotations import node_names
from attnprof.trace.graph_capture import NO_SHAPE, Capture, read_captures
from attnprof.trace.open_trace import open_trace
from attnprof.trace.range_contents import calls_inside, latest
from attnprof.trace.range_nesting import lanes
from attnprof.trace.tables import Int64, Kernels, NodeNames, Trace
from attnprof.trace.timeline import build_timeline
from attnprof.trace.torch_json import gridless, is_gridless

Role = Literal["attention", "helper", "other"]
_HALF = 32  # bits of a node's number within its graph


@dataclass(frozen=True, slots=True)
class _Graph:
    """Replays with the same kernels: their rows in order, and what the captures that they fit agree on."""

    replays: list[Int64]
    captures: list[Capture]
    layers: list[int]
    names: list[str]
    shapes: list[tuple[int, ...]]


def with_captures(
    replays: Trace, paths: Sequence[Path], role_of: Callable[[str], Role], *, nsys: str | None = None
) -> Trace:
    """The trace with the layer and name of what its graphs replay, and a note that says how many do.

    ``role_of`` says what a kernel is by its name. Raises TraceError where nothing fits.
    """
    traces = [open_trace(path, nsys=nsys) for path in paths]
    of_nsys = [trace for trace in traces if trace.info.format != "torch-json"]
    if of_nsys:
        return _by_number(replays, of_nsys[0], paths[traces.index(of_nsys[0])])
    captures = [capture for path in paths for capture in read_captures(path)]
    return _by_order(replays, captures, paths[0], role_of)


def _by_number(replays: Trace, capture: Trace, path: Path) -> Trace:
    """By the numbers that nsys gives nodes: all of a process's or none, another may have had its id."""
    nodes, timeline = capture.graph_nodes, build_timeline(capture)
    if nodes is None:
        raise TraceError(f"{path} holds no capture of a CUDA graph", hint="record it from before the capture")
    kernels = replays.kernels
    known = set(zip(nodes.pid.tolist(), nodes.node.tolist(), strict=True))
    rows = np.flatnonzero(kernels.graph_node)
    replayed = list(zip(kernels.pid[rows].tolist(), kernels.graph_node[rows].tolist(), strict=True))
    strange = {pid for pid, node in replayed if (pid, node) not in known}
    joined = sum(pid not in strange for pid, _ in replayed)
    if not joined:
        raise TraceError(
            f"no kernel that a CUDA graph replays in {replays.info.path} was captured in {path}",
            hint="give the trace of the same process from before its graphs were captured",
        )
    held = calls_inside(lanes(capture.ranges), nodes, np.arange(len(nodes)))
    innermost = latest(held, len(nodes))
    kept = np.flatnonzero((innermost >= 0) & ~np.isin(nodes.pid, list(strange)))
    around = innermost[kept]
    strings, name = _with_texts(replays, [capture.strings[at] for at in capture.ranges.name[around].tolist()])
    made = node_names(nodes.node[kept], nodes.pid[kept], name, strings)
    said = timeline.of_range.layer[around]  # what the ranges around the innermost say too
    made = replace(made, layer=np.where(said >= 0, said, made.layer).astype(np.int32))
    note = f"{joined:,} of {len(rows):,} kernels of CUDA graphs are named by their capture in {path.name}"
    return _joined(replays, kernels, strings, made, note)


def _by_order(replays: Trace, captures: list[Capture], path: Path, role_of: Callable[[str], Role]) -> Trace:
    kernels, found = replays.kernels, _replays(replays)
    if not captures:
        raise TraceError(
            f"{path} holds no capture of a CUDA graph", hint="profile from before the capture's beginning"
        )
    roles = [role_of(text) for text in replays.strings]
    graphs = []
    for rows in found.values():
        one = kernels.name[rows[0]].tolist()
        texts, parts = [replays.strings[name] for name in one], [roles[name] for name in one]
        fit = [capture for capture in captures if _fits(capture, texts, parts)]
        if fit:
            graphs.append(_Graph(rows, fit, *(_agreed(fit, key) for key in ("layers", "names", "shapes"))))
    total = sum(map(len, found.values()))
    if not graphs:
        raise TraceError(
            f"none of {total} replays is of a graph captured in {path}: {_unlike(found, captures)}"
        )
    joined = sum(len(graph.replays) for graph in graphs)
    labels = dict.fromkeys(capture.label for graph in graphs for capture in graph.captures if capture.label)
    of = f" ({', '.join([*labels][:3])}{', …' if len(labels) > 3 else ''})" if labels else ""
    by = "the same kernels in order"
    if not any(any(capture.kernels) for graph in graphs for capture in graph.captures):
        by = "as many launches, with attention in the same places"
    note = f"{joined} of {total} replays of CUDA graphs are of captures in {path.name}{of}: {by}"
    return _named_in_order(replays, graphs, note)


def _replays(trace: Trace) -> dict[bytes, list[Int64]]:
    """The kernels' rows of each replay, in order of their nodes, else of time, by the names in that order."""
    timeline = build_timeline(trace)
    rows = np.flatnonzero(timeline.replayed() & (timeline.launch >= 0))
    if not len(rows):
        raise TraceError(
            f"{trace.info.path} holds no replay of a CUDA graph", hint="nothing is there to join"
        )
    node = trace.kernels.graph_node[rows].astype(np.int64)
    rows = rows[np.lexsort((rows, node, timeline.launch[rows]))]
    found: dict[bytes, list[Int64]] = {}
    for one in np.split(rows, np.flatnonzero(np.diff(timeline.launch[rows])) + 1):
        key = np.ascontiguousarray(trace.kernels.name[one], np.int64).tobytes()
        found.setdefault(key, []).append(one)
    return found


def _fits(capture: Capture, names: list[str], roles: list[Role]) -> bool:
    if len(capture.kernels) != len(names):
        return False
    if any(capture.kernels):
        return all(said == name for said, name in zip(capture.kernels, names, strict=True) if said)
    inside: dict[int, set[Role]] = {}
    for number, role in zip(capture.attention, roles, strict=True):
        inside.setdefault(number, set()).add(role)
    held = {number for number, found in inside.items() if "attention" in found}
    around = set(held)
    for number in held:
        while number >= 0:
            around.add(number)
            number = capture.parents[number]
    return (
        bool(held)
        and -1 not in held
        and all("other" not in inside[number] for number in held)
        and set(inside) - {-1} <= around
    )


def _agreed(captures: list[Capture], key: str) -> list[Any]:
    """What all captures say of each launch, nothing where they differ."""
    nothing = {"layers": -1, "names": "", "shapes": NO_SHAPE}[key]
    columns = zip(*(getattr(capture, key) for capture in captures), strict=True)
    return [said[0] if len(set(said)) == 1 else nothing for said in columns]


def _unlike(found: dict[bytes, list[Int64]], captures: list[Capture]) -> str:
    replayed = sorted({len(rows[0]) for rows in found.values()})
    captured = sorted({len(capture.kernels) for capture in captures})
    if not set(replayed) & set(captured):
        return f"they run {_counts(replayed)} kernels, the captures launched {_counts(captured)}"
    return "they run as many kernels as a capture launched, but others, or attention in other places"


def _counts(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")


def _named_in_order(replays: Trace, graphs: Sequence[_Graph], note: str) -> Trace:
    """Kernels without a node get one, the same in all replays of the graph; those without a grid get it."""
    kernels = replays.kernels
    node, shape = kernels.graph_node.astype(np.int64), kernels.shapes[kernels.shape]
    strings, texts = _with_texts(replays, [name for graph in graphs for name in graph.names])
    parts: list[tuple[Int64, Int64, Int64, Int64]] = []
    at = 0
    for number, graph in enumerate(graphs, 1):
        count = len(graph.names)
        rows = np.concatenate(graph.replays)
        place = np.tile(np.arange(count), len(graph.replays))
        node[rows] = np.where(node[rows] == 0, number << _HALF | place + 1, node[rows])
        bare = rows[shape[rows, 0] == 0]
        shape[bare] = np.array(graph.shapes, np.int32)[place[shape[rows, 0] == 0]]
        named = (node[rows], kernels.pid[rows].astype(np.int64), texts[at + place])
        parts.append((*named, np.array(graph.layers, np.int64)[place]))
        at += count
    nodes, pids, names, layers = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, once = np.unique(np.stack([pids, nodes]), axis=1, return_index=True)
    made = node_names(nodes[once], pids[once], names[once], strings)
    made = replace(made, layer=np.where(layers[once] >= 0, layers[once], made.layer).astype(np.int32))
    distinct, codes = coded_rows(list(shape.T))
    shapes = np.stack(distinct, axis=1).astype(np.int32)
    kernels = replace(kernels, graph_node=node, shape=codes, shapes=shapes)
    return _joined(replays, kernels, strings, made, note)


def _with_texts(trace: Trace, more: Sequence[str]) -> tuple[list[str], Int64]:
    """The trace's texts with further ones behind them, and where these lie."""
    places = {text: place for place, text in reversed([*enumerate(trace.strings)])}
    strings = list(trace.strings)
    found = []
    for text in more:
        if text not in places:
            places[text] = len(strings)
            strings.append(text)
        found.append(places[text])
    return strings, np.array(found, np.int64)


def _joined(trace: Trace, kernels: Kernels, strings: list[str], made: NodeNames, note: str) -> Trace:
    """An annotation of the program's that names a layer is kept before what the capture tells."""
    own = trace.node_names
    if own is not None:
        told = np.flatnonzero(own.layer >= 0)
        kept = set(zip(own.pid[told].tolist(), own.node[told].tolist(), strict=True))
        keys = zip(made.pid.tolist(), made.node.tolist(), strict=True)
        rest = np.array([at for at, key in enumerate(keys) if key not in kept], np.int64)
        columns = ("node", "pid", "name", "layer", "phase")
        made = NodeNames(*(np.append(getattr(own, c)[told], getattr(made, c)[rest]) for c in columns))
    bare = int(np.count_nonzero(kernels.shapes[kernels.shape, 0] == 0))
    notes = [one for one in trace.info.notes if not is_gridless(one)]
    notes += gridless(bare, len(kernels)) if len(notes) < len(trace.info.notes) else []
    info = replace(trace.info, notes=(*notes, note))
    return replace(trace, info=info, kernels=kernels, strings=strings, node_names=made)
