"""Names that torch gives the kernels of CUDA graphs, written into traces by torch's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnprof.model import PHASES
from attnprof.trace.graph_annotations import annotation, graph_node
from attnprof.trace.open_trace import open_trace
from attnprof.trace.saved_trace import load_trace, save_trace
from attnprof.trace.timeline import Timeline, build_timeline

GRAPH, OTHER = 5 << 32, 6 << 32
STEP = "execute_context_0(0)_generation_2(2)"


def event(cat: str, name: str, ts: int, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 9, "tid": 9, "ts": ts, "dur": 5, "args": args}


def replays(nodes: list[int], times: int = 2) -> dict[str, Any]:
    """A trace of as many replays of a graph with these nodes, and a kernel beside each."""
    events = []
    for replay in range(times):
        at, launch = 1000 * replay, 70 + replay
        events.append(event("user_annotation", STEP, at, **{"External id": 1}) | {"dur": 500})
        events.append(event("cuda_runtime", "cudaGraphLaunch", at + 1, correlation=launch))
        for number, node in enumerate(nodes):
            gpu = {"device": 0, "stream": 60 + number, "correlation": launch, "graph node id": node}
            events.append(event("kernel", f"kernel_{number}", at + 20 + 10 * number, **gpu))
        events.append(event("cuda_runtime", "cudaLaunchKernel", at + 9, correlation=90 + replay))
        events.append(event("kernel", "beside", at + 300, device=0, stream=7, correlation=90 + replay))
    return {"schemaVersion": 1, "traceEvents": events}


def read(trace: dict[str, Any], folder: Path) -> Timeline:
    path = folder / "t.json"
    path.write_text(json.dumps(trace))
    return build_timeline(open_trace(path))


def told(timeline: Timeline, key: str) -> list[int]:
    """An attribute of the first replay's kernels and that beside them; the second has the same."""
    values = getattr(timeline, key).tolist()
    half = len(values) // 2
    assert values[:half] == values[half:]
    return values[:half]


def annotated(trace: dict[str, Any], annotations: dict[int, list[Any]]) -> dict[str, Any]:
    """As ``python -m torch.cuda._annotate_cuda_graph_trace`` writes it."""
    torchs = pytest.importorskip("torch.cuda._annotate_cuda_graph_trace")
    assert torchs.annotate_trace(trace, annotations) == 2 * len(annotations)
    return trace


def test_layers_of_every_replay_are_those_of_the_marks_at_capture(tmp_path: Path) -> None:
    marks = {GRAPH | n: [{"str": f"model.layers.{n}.self_attn"}] for n in (1, 2)}
    timeline = read(annotated(replays([GRAPH | 1, GRAPH | 2, GRAPH | 3]), marks), tmp_path)
    assert told(timeline, "layer") == [1, 2, -1, -1]
    assert timeline.step.tolist() == [1] * 4 + [2] * 4
    assert {PHASES[phase] for phase in told(timeline, "phase")} == {"decode"}  # of the step's own name
    names = timeline.trace.node_names
    assert names is not None
    assert names.node.tolist() == [GRAPH | 1, GRAPH | 2]
    assert [timeline.trace.strings[name] for name in names.name] == [marks[n][0]["str"] for n in marks]


@pytest.mark.parametrize(
    ("marks", "layer"),
    [
        ([{"name": "attention", "layer": 4}], 4),
        ([{"name": "attention", "layer": "4"}], 4),
        (["layers.4"], 4),  # a legacy pickle's bare text
        ([{"str": "attention"}, {"str": "layer 4"}], 4),  # two captures' ids that met: the later overwrites
        ([{"name": "attention", "layer": True}], -1),
        ([{"str": "the player 4"}], -1),
    ],
)
def test_the_fields_of_a_mark(marks: list[Any], layer: int, tmp_path: Path) -> None:
    timeline = read(annotated(replays([GRAPH | 1]), {GRAPH | 1: marks}), tmp_path)
    assert told(timeline, "layer") == [layer, -1]


def test_a_node_of_another_graph_is_another_node(tmp_path: Path) -> None:
    marks = {GRAPH | 1: [{"str": "layer 1"}], OTHER | 1: [{"str": "layer 2"}]}
    timeline = read(annotated(replays([GRAPH | 1, OTHER | 1]), marks), tmp_path)
    assert told(timeline, "layer") == [1, 2, -1]


def test_a_mark_names_no_step_of_a_replay_and_a_phase_only_where_the_step_does_not(tmp_path: Path) -> None:
    marks = {GRAPH | 1: [{"str": "prefill step 3"}]}
    timeline = read(annotated(replays([GRAPH | 1]), marks), tmp_path)
    assert timeline.step.tolist() == [1, 1, 2, 2]
    assert [PHASES[phase] for phase in told(timeline, "phase")] == ["decode", "decode"]
    trace = annotated(replays([GRAPH | 1]), marks)
    trace["traceEvents"] = [e for e in trace["traceEvents"] if e.get("cat") != "user_annotation"]
    assert [PHASES[phase] for phase in told(read(trace, tmp_path), "phase")] == ["prefill", "other"]


def test_without_a_graph_node_nothing_is_an_annotation(tmp_path: Path) -> None:
    trace = replays([0])
    for one in trace["traceEvents"]:
        one["args"]["name"] = "layer 3"
    timeline = read(trace, tmp_path)
    assert told(timeline, "layer") == [-1, -1]
    assert timeline.trace.node_names is None


def test_a_stored_trace_keeps_the_names(tmp_path: Path) -> None:
    timeline = read(annotated(replays([GRAPH | 1]), {GRAPH | 1: [{"str": "layer 1"}]}), tmp_path)
    save_trace(timeline.trace, tmp_path / "t.npz")
    kept, _ = load_trace(tmp_path / "t.npz")
    assert told(build_timeline(kept), "layer") == [1, -1]


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"name": "attention", "layer": 4}, "attention / layer 4"),
        ([{"name": "attention"}, {"layer": 4}], "attention / layer 4"),
        ([{"name": "a"}, {"name": "a"}, "b"], "a / b"),
        ("layer 4", "layer 4"),
        ("[not JSON", "[not JSON"),
        (None, ""),
        ([], "[]"),
    ],
)
def test_what_the_profilers_cupti_monitor_writes(marks: Any, said: str) -> None:
    torchs = pytest.importorskip("torch.profiler._cupti_monitor_trace")
    arguments: dict[str, Any] = {"device": 0}
    torchs._annotation_to_args(arguments, marks)
    assert annotation(arguments) == said


@pytest.mark.parametrize(
    ("arguments", "node"),
    [
        ({"graph node id": GRAPH | 7}, GRAPH | 7),
        ({"graph node id": GRAPH | 7, "graph id": 5}, GRAPH | 7),  # torch 2.13
        ({"graph node id": 7, "graph id": 5}, GRAPH | 7),  # torch 2.14
        ({"graph node id": 7}, 7),
        ({"graph node id": 0, "graph id": 5}, 0),
        ({"graph node id": 7, "graph id": 1 << 40}, 7),
        ({"graph node id": "7"}, 0),
        ({}, 0),
    ],
)
def test_a_nodes_id_is_whole_in_every_spelling(arguments: dict[str, Any], node: int) -> None:
    assert graph_node(arguments) == node
