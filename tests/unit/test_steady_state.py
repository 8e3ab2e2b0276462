"""The stretch of steps in which a serving engine is full, and its steps by what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnprof.analysis.steady_state import steady_state
from attnprof.calls.records import CallRecord
from attnprof.report.serving import serving_table, steady_sentence
from attnprof.runs.ingest import no_trace
from attnprof.runs.run import load
from attnprof.trace.timeline import build_timeline
from tests.conftest import TESTS
from tests.support.command import attnprof


def records(*steps: tuple[str, int], process: int = 0) -> list[CallRecord]:
    """Two layers of each (phase, requests)."""
    found = []
    for step, (phase, requests) in enumerate(steps):
        for layer in range(2):
            fields: dict[str, Any] = {"seqlens_q": [1] * requests, "process": process, "library": "vllm_cpu"}
            found.append(CallRecord(2 * step + layer, step, phase, layer, fields))
    return found


FILLING = [("prefill", 4), ("mixed", 9), *[("decode", 10)] * 3, ("mixed", 10), ("decode", 8), ("decode", 10)]


def of(*steps: tuple[str, int]) -> Any:
    return steady_state(build_timeline(no_trace()), records(*steps), ())


def test_the_longest_stretch_of_nearly_the_most_requests_is_the_steady_state():
    steady = of(*FILLING)
    assert (steady.first, steady.last, steady.most, steady.steps) == (1, 5, 10, 8)
    assert steady.wall_share is None
    told = [(size.phase, size.requests, size.steps, size.full) for size in steady.sizes]
    assert told == [
        ("prefill", 4, 1, 0), ("mixed", 9, 1, 1), ("mixed", 10, 1, 1), ("decode", 8, 1, 0),
        ("decode", 10, 4, 3),
    ]  # fmt: skip
    assert steady_sentence(steady) == "the engine is full in steps 1 to 5 (5 of 8): up to 10 requests"
    assert [row[:4] for row in serving_table(steady).rows] == told


@pytest.mark.parametrize("steps", [[], [("decode", 4)] * 6])
def test_where_nothing_changes_there_is_no_steady_state(steps):
    assert of(*steps) is None
    assert steady_sentence(None) == ""
    assert not serving_table(None).rows


def test_calls_without_each_requests_lengths_say_nothing():
    plain = [CallRecord(0, 0, "prefill", 0, {}), CallRecord(1, 1, "decode", 0, {"batch": 3})]
    assert steady_state(build_timeline(no_trace()), plain, ()) is None


def test_an_engines_own_names_tell_requests_and_times_are_medians_of_a_step(tmp_path: Path):
    names = [
        "execute_context_2(40)_generation_0(0)", "execute_context_1(20)_generation_2(2)",
        *["execute_context_0(0)_generation_3(3)"] * 3, "execute_context_0(0)_generation_1(1)",
    ]  # fmt: skip
    kernel = "void flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128>>(Flash_fwd_params)"
    events: list[dict[str, Any]] = []
    for step, name in enumerate(names):
        at, length = 1000 * step, 100 + 10 * step
        common = {"ph": "X", "pid": 7, "tid": 7}
        events.append({**common, "cat": "user_annotation", "name": name, "ts": at, "dur": 500})
        launch = {"correlation": step + 1}
        events.append({**common, "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": at + 10, "dur": 2,
                       "args": launch})  # fmt: skip
        shape = {"device": 0, "stream": 7, "grid": [1, 4, 12], "block": [128, 1, 1]}
        events.append({**common, "cat": "kernel", "name": kernel, "ts": at + 50, "dur": length,
                       "args": launch | shape})  # fmt: skip
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    run = load(path)
    steady = steady_state(run.timeline, (), run.check().calls)
    assert steady is not None
    assert (steady.process, steady.first, steady.last, steady.most) == (7, 1, 4, 3)
    by_size = {(size.phase, size.requests): size for size in steady.sizes}
    assert set(by_size) == {("prefill", 2), ("mixed", 3), ("decode", 3), ("decode", 1)}
    three = by_size["decode", 3]
    assert (three.steps, three.full, three.attention_ns) == (3, 3, 130_000)
    assert three.wall_ns == 1_000_000
    assert three.observed
    assert steady.wall_share == pytest.approx(4 / 5.5)


def test_sglangs_names_tell_too(tmp_path: Path):
    names = ["step[EXTEND bs=2 toks=40]", "step[DECODE bs=2 toks=2]", "step[MIXED bs=3 toks=22]"]
    events = [
        {"ph": "X", "cat": "user_annotation", "name": name, "pid": 7, "tid": 7, "ts": 100 * n, "dur": 50}
        for n, name in enumerate(names)
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    steady = steady_state(load(path).timeline, (), ())
    assert steady is not None
    assert [(size.phase, size.requests) for size in steady.sizes] == [
        ("prefill", 2), ("mixed", 3), ("decode", 2),
    ]  # fmt: skip


def test_the_page_of_a_server_shows_what_the_report_of_its_trace_prints():
    page = (TESTS.parent / "docs" / "serving.md").read_text(encoding="utf-8")
    trace = TESTS / "data" / "traces" / "torch_cpu_vllm0.32_server.json.gz"
    printed = {line.rstrip() for line in attnprof("report", str(trace)).out.splitlines()}
    shown = page[page.index("up to 3 requests") - 80 :]
    shown = shown[shown.index("serving") : shown.index("```")]
    lines = [line for line in shown.splitlines() if line.strip("… ")]
    assert len(lines) == 9
    assert [line for line in lines if line not in printed] == []
