"""Replays of CUDA graphs joined with captures of other traces: SGLang's and vLLM's, and nsys exports."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnprof import load
from attnprof.check.observed_calls import role_in_capture
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import TraceError
from attnprof.trace.capture_join import with_captures
from attnprof.trace.graph_capture import read_captures
from attnprof.trace.open_trace import open_trace
from attnprof.trace.tables import Trace
from attnprof.trace.timeline import Timeline, build_timeline
from tests.conftest import TESTS
from tests.support.command import attnprof
from tests.support.graph_trace import LAYERS, GraphTrace

TRACES = TESTS / "data" / "traces"
SGLANG = (TRACES / "torch_mi300x_sglang_qwen3-8b_decode.json.gz",
          TRACES / "torch_mi300x_sglang_qwen3-8b_capture.json.gz")  # fmt: skip
VLLM = (TRACES / "torch_mi300x_vllm_gpt-oss_replay.json.gz",
        TRACES / "torch_mi300x_vllm_gpt-oss_capture.json.gz")  # fmt: skip
PIECES = (TRACES / "torch_mi300x_vllm_gpt-oss_piecewise_replay.json.gz",
          TRACES / "torch_mi300x_vllm_gpt-oss_piecewise_capture.json.gz")  # fmt: skip
SGLANGS_ATTENTION = "sglang_profiler::attention_paged_attention_ragged_100"


def is_attention(name: str) -> bool:
    return parse_kernel_name(name).is_attention


def joined(replays: Path, *captures: Path) -> Trace:
    return with_captures(open_trace(replays), captures, role_in_capture)


def changed(path: Path, folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    """The trace with its events changed."""
    read = json.loads(gzip.decompress(path.read_bytes()))
    change(read["traceEvents"])
    written = folder / f"{path.name.split('.')[0]}.json"
    written.write_text(json.dumps(read))
    return written


def launches(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The captured launches of an event list, in order."""
    found = sorted((e for e in events if e["cat"] == "cuda_runtime"), key=lambda e: e["ts"])
    ends = [n for n, e in enumerate(found) if "Capture" in e["name"]]
    return [e for e in found[ends[0] : ends[1]] if "Launch" in e["name"]]


def names_of(timeline: Timeline) -> dict[str, set[str]]:
    """By the name of the capture's operator, the kernels that it launched."""
    trace, named = timeline.trace, timeline.trace.node_names
    assert named is not None
    said = dict(zip(zip(named.pid.tolist(), named.node.tolist(), strict=True), named.name, strict=True))
    found: dict[str, set[str]] = {}
    kernels = trace.kernels
    for pid, node, name in zip(kernels.pid.tolist(), kernels.graph_node.tolist(), kernels.name, strict=True):
        if (pid, node) in said:
            found.setdefault(trace.strings[said[pid, node]], set()).add(trace.strings[name])
    return found


def test_sglangs_replay_has_the_layers_operators_and_grids_of_its_capture() -> None:
    timeline = build_timeline(joined(*SGLANG))
    replayed = timeline.replayed()
    layers = timeline.layer[replayed]
    assert int(replayed.sum()) == 544
    assert layers.tolist() == [-1] + [n for n in range(36) for _ in range(15)] + [-1] * 3  # embedding, head
    attention = np.array([is_attention(t) for t in timeline.trace.strings])[timeline.trace.kernels.name]
    assert timeline.layer[attention & replayed].tolist() == [n for n in range(36) for _ in range(2)]
    by_name = names_of(timeline)
    assert {parse_kernel_name(k).kernel for k in by_name[SGLANGS_ATTENTION]} == {
        "paged_attention_ll4mi_QKV_mfma16_kernel", "paged_attention_ll4mi_reduce_kernel",
    }  # fmt: skip
    assert all("rotary_embedding_kernel" in kernel for kernel in by_name["sgl_kernel::rotary_embedding"])
    kernels = timeline.trace.kernels
    shapes = kernels.shapes[kernels.shape[replayed]].tolist()
    assert shapes == [e["args"]["grid"] + e["args"]["block"] for e in launches(_events(SGLANG[1]))]
    assert not any("no grid" in note for note in timeline.trace.info.notes)
    assert "1 of 1 replays of CUDA graphs" in timeline.trace.info.notes[-1]
    assert "(capture_32_DECODE): the same kernels in order" in timeline.trace.info.notes[-1]


def _events(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return events


def test_without_the_join_neither_layers_nor_grids_are_known() -> None:
    timeline = build_timeline(open_trace(SGLANG[0]))
    assert set(timeline.layer[timeline.replayed()].tolist()) == {-1}
    assert not timeline.trace.kernels.grid[timeline.replayed()].any()


def test_vllms_compiled_layers_have_no_module_and_get_no_number() -> None:
    timeline = build_timeline(joined(*VLLM))
    assert set(timeline.layer.tolist()) == {-1}
    by_name = names_of(timeline)
    attention = {
        parse_kernel_name(kernel).kernel for kernel in by_name["vllm::unified_attention_with_output"]
    }
    assert attention == {"kernel_unified_attention_2d", "kernel_unified_attention_3d", "reduce_segments"}
    assert timeline.trace.kernels.grid[timeline.replayed()].all()


def test_every_piece_of_a_piecewise_graph_is_found() -> None:
    trace = joined(*PIECES)
    assert "25 of 25 replays" in trace.info.notes[-1]
    assert names_of(build_timeline(trace)).keys() >= {"aten::addmm", "vllm::moe_forward"}


@pytest.mark.parametrize("at", [0, 270, 543])
def test_one_kernel_of_another_name_makes_it_another_graph(at: int, tmp_path: Path) -> None:
    other = changed(SGLANG[1], tmp_path, lambda events: launches(events)[at]["args"].update(kernel="other"))
    with pytest.raises(TraceError, match=r"none of 1 replays .* as many kernels as a capture launched, but"):
        joined(SGLANG[0], other)


def test_a_launch_more_or_another_models_capture_is_none(tmp_path: Path) -> None:
    fewer = changed(SGLANG[1], tmp_path, lambda events: events.remove(launches(events)[5]))
    with pytest.raises(TraceError, match="they run 544 kernels, the captures launched 543"):
        joined(SGLANG[0], fewer)
    with pytest.raises(TraceError, match="they run 421 kernels, the captures launched 544"):
        joined(VLLM[0], SGLANG[1])
    assert "1 of 1" in joined(VLLM[0], SGLANG[1], VLLM[1]).info.notes[-1]


def unnamed(events: list[dict[str, Any]]) -> None:
    """As CUDA's profiler writes launches: without their kernel and its grid."""
    for one in launches(events):
        for key in ("kernel", "grid", "block"):
            one["args"].pop(key, None)


def test_launches_without_names_are_told_by_the_places_of_attention(tmp_path: Path) -> None:
    trace = joined(SGLANG[0], changed(SGLANG[1], tmp_path, unnamed))
    timeline = build_timeline(trace)
    assert trace.info.notes[-1].endswith("as many launches, with attention in the same places")
    attention = np.array([is_attention(text) for text in trace.strings])[trace.kernels.name]
    assert timeline.layer[attention & timeline.replayed()].tolist() == [
        n for n in range(36) for _ in range(2)
    ]
    assert any("544 of 555 kernels carry no grid" in note for note in trace.info.notes)


def _no_ranges(events: list[dict[str, Any]]) -> None:
    unnamed(events)
    events[:] = [e for e in events if "ttention" not in e["name"]]


def _shifted(events: list[dict[str, Any]]) -> None:
    """As many launches, the first of them at the end."""
    unnamed(events)
    made = launches(events)
    last = made[-1]["ts"]
    made[0]["ts"] = last + 0.001


def _one_attention_more(events: list[dict[str, Any]]) -> None:
    unnamed(events)
    made = launches(events)[1]
    around = {"ts": made["ts"] - 0.001, "dur": made["dur"] + 0.01}
    events.append({**made, **around, "cat": "cpu_op", "name": "aten::_flash_attention_forward"})


@pytest.mark.parametrize("change", [_no_ranges, _shifted, _one_attention_more])
def test_launches_without_names_that_cannot_be_told_are_not_joined(change: Any, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="attention in other places"):
        joined(SGLANG[0], changed(SGLANG[1], tmp_path, change))


def test_layers_are_none_where_modules_do_not_run_in_order(tmp_path: Path) -> None:
    def skip_one(events: list[dict[str, Any]]) -> None:
        events[:] = [e for e in events if not e["name"].endswith("DecoderLayer_3")]

    timeline = build_timeline(joined(SGLANG[0], changed(SGLANG[1], tmp_path, skip_one)))
    assert set(timeline.layer.tolist()) == {-1}


def test_captures_that_disagree_name_nothing(tmp_path: Path) -> None:
    def renamed(events: list[dict[str, Any]]) -> None:
        for one in events:
            if one["name"].startswith("nn.Module: Qwen3DecoderLayer"):
                one["name"] = "nn.Module: Other"

    other = changed(SGLANG[1], tmp_path, renamed)
    assert len(read_captures(SGLANG[1])) == len(read_captures(other)) == 1
    timeline = build_timeline(joined(SGLANG[0], SGLANG[1], other))
    assert set(timeline.layer.tolist()) == {-1}
    assert SGLANGS_ATTENTION in names_of(timeline)


def test_a_trace_without_a_capture_or_a_replay_is_told() -> None:
    with pytest.raises(TraceError, match="holds no capture"):
        joined(SGLANG[0], SGLANG[0])
    with pytest.raises(TraceError, match="holds no replay"):
        joined(SGLANG[1], SGLANG[1])


def in_two(folder: Path, pid: int = 7) -> tuple[Path, Path]:
    """A generation's capture and its replays, each in an nsys export of its own."""
    made = GraphTrace()
    made.capture(1001)
    first = made.write(folder / "capture.sqlite")
    replays = GraphTrace(captured=made.captured)
    for _ in range(4):
        replays.replay()
    for row in replays.builder.rows["CUPTI_ACTIVITY_KIND_KERNEL"]:
        row["globalPid"] = row["globalPid"] - (7 << 24) + (pid << 24)
    for row in replays.builder.rows["CUPTI_ACTIVITY_KIND_RUNTIME"]:
        row["globalTid"] = row["globalTid"] - (7 << 24) + (pid << 24)
    return replays.write(folder / "replays.sqlite"), first


def test_nsys_names_nodes_alike_in_both_exports(tmp_path: Path) -> None:
    replays, capture = in_two(tmp_path)
    timeline = build_timeline(with_captures(open_trace(replays), [capture], role_in_capture))
    assert timeline.layer.reshape(4, LAYERS, -1).tolist() == [[[n] * 3 for n in range(LAYERS)]] * 4
    assert timeline.trace.info.notes[-1].startswith(
        "36 of 36 kernels of CUDA graphs are named by their capture"
    )
    assert set(build_timeline(open_trace(replays)).layer.tolist()) == {-1}


def test_another_process_has_other_nodes(tmp_path: Path) -> None:
    replays, capture = in_two(tmp_path, pid=8)
    with pytest.raises(TraceError, match=r"no kernel that a CUDA graph replays in .* was captured in"):
        with_captures(open_trace(replays), [capture], role_in_capture)


def test_one_unknown_node_makes_it_another_process(tmp_path: Path) -> None:
    made = GraphTrace()
    made.capture(1001)
    made.write(tmp_path / "capture.sqlite")
    node, name, grid = made.captured[-1]
    replays = GraphTrace(captured=[*made.captured, (node + 1, name, grid)])
    replays.replay()
    with pytest.raises(TraceError, match="was captured in"):
        with_captures(
            open_trace(replays.write(tmp_path / "r.sqlite")), [tmp_path / "capture.sqlite"], is_attention
        )


def test_the_import_keeps_what_was_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path))
    done = attnprof("import", str(SGLANG[0]), "--graph-capture", str(SGLANG[1]), "-o", "joined")
    assert done.code == 0
    assert "1 of 1 replays of CUDA graphs are of captures" in done.out
    observed = load(tmp_path / "joined").observed
    assert observed.layer.tolist() == list(range(36))
    refused = attnprof("import", str(VLLM[0]), "--graph-capture", str(SGLANG[1]), "-o", "other")
    assert refused.code != 0
    assert "none of 1 replays" in refused.err
    assert not (tmp_path / "other").exists()
