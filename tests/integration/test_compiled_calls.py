"""Calls inside graphs of torch.compile: told by their operators in a trace that really has them."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnprof import load
from attnprof.calls.torch_operators import compiled_ops
from attnprof.runs.compiled_calls import with_compiled_calls
from attnprof.trace.open_trace import open_trace
from attnprof.trace.range_names import own_calls
from tests.conftest import TESTS
from tests.support.command import attnprof

INDUCTOR = TESTS / "data" / "traces" / "torch_cpu_inductor_sdpa.json.gz"
OPERATOR = "aten::_scaled_dot_product_flash_attention_for_cpu"
EAGER = {
    "seq": 0, "step": None, "phase": "other", "layer": None, "library": "torch", "entry": "sdpa",
    "backend": None, "device": "cpu", "dtype": "fp32", "q": [2, 8, 128, 64], "k": [2, 8, 128, 64],
    "v": [2, 8, 128, 64], "causal": True, "dropout_p": 0.0, "mask": None,
}  # fmt: skip


def told(
    folder: Path, change: Callable[[list[dict[str, Any]]], Any] = len
) -> tuple[Any, list[dict[str, Any]]]:
    """The trace, changed, with its compiled calls, and the lines of calls.jsonl after the eager call's."""
    read = json.loads(gzip.decompress(INDUCTOR.read_bytes()))
    change(read["traceEvents"])
    (folder / "t.json").write_text(json.dumps(read))
    calls = folder / "calls.jsonl"
    if not calls.exists():
        calls.write_text(json.dumps(EAGER) + "\n")
    trace, added = with_compiled_calls(open_trace(folder / "t.json"), calls)
    lines = [json.loads(line) for line in calls.read_text().splitlines()]
    assert lines[0] == EAGER
    assert added == len(lines) - 1
    return trace, lines[1:]


def test_each_run_of_a_graph_is_a_call_and_what_torch_traced_is_none(tmp_path: Path) -> None:
    trace, lines = told(tmp_path)
    assert [(one["seq"], one["q"], one["k"]) for one in lines] == [
        (1, [2, 8, 64, 64], [2, 8, 64, 64]), (2, [2, 8, 64, 64], [2, 8, 64, 64]),
        (3, [2, 8, 128, 64], [2, 8, 128, 64]),
    ]  # fmt: skip
    for one in lines:
        assert (one["function"], one["compiled"], one["causal"], one["dtype"]) == (
            OPERATOR,
            True,
            True,
            "fp32",
        )
    # many more of the same operator: while it compiled, and inside the eager call
    names = [trace.strings[name] for name in trace.attention_ops.name]
    assert names.count(OPERATOR) == 10
    assert sorted(trace.ranges.payload[own_calls(trace)].tolist()) == [0, 1, 2, 3]
    assert (
        "3 attention calls inside graphs of torch.compile are recorded by their operators" in trace.info.notes
    )


def test_told_again_they_are_as_many(tmp_path: Path) -> None:
    _, first = told(tmp_path)
    _, again = told(tmp_path)
    assert first == again


def _without_regions(events: list[dict[str, Any]]) -> None:
    events[:] = [e for e in events if not e["name"].startswith(("## Call", "Torch-Compiled"))]


def test_outside_of_a_graph_that_runs_nothing_is_told(tmp_path: Path) -> None:
    trace, lines = told(tmp_path, _without_regions)
    assert lines == []
    assert compiled_ops(trace) == []


def test_either_of_the_two_names_of_a_graph_tells(tmp_path: Path) -> None:
    def dynamos(events: list[dict[str, Any]]) -> None:
        events[:] = [e for e in events if not e["name"].startswith("## Call")]

    assert len(told(tmp_path, dynamos)[1]) == 3


def test_a_call_that_python_recorded_inside_a_graph_counts_once(tmp_path: Path) -> None:
    def recorded(events: list[dict[str, Any]]) -> None:
        region = next(e for e in events if e["name"].startswith("## Call"))
        inside = [e for e in events if e["name"] == OPERATOR and e["ts"] > region["ts"]]
        events.append({**inside[0], "cat": "user_annotation", "name": "attnprof:attn:0"})

    assert [one["q"][2] for one in told(tmp_path, recorded)[1]] == [64, 128]


def test_without_shapes_their_number_is_told_and_how_to_record_them(tmp_path: Path) -> None:
    def bare(events: list[dict[str, Any]]) -> None:
        for one in events:
            one["args"] = {}

    trace, lines = told(tmp_path, bare)
    assert lines == []
    assert trace.info.notes[-1].startswith("3 attention operators ran inside graphs of torch.compile")
    assert "--shapes" in trace.info.notes[-1]


PROGRAM = """
import torch
import torch.nn.functional as F
def attend(q, k, v):
    return F.scaled_dot_product_attention(q * 2, k, v, is_causal=True) + 1
compiled = torch.compile(attend, backend="aot_eager")
with torch.inference_mode():
    for length in (16, 32, 16):
        q, k, v = (torch.ones(2, 8, length, 64) for _ in range(3))
        compiled(q, k, v)
    attend(q, k, v)
"""


def test_a_program_that_compiles_has_all_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path))
    (tmp_path / "program.py").write_text(PROGRAM)
    done = attnprof("run", "--capture", "torch", "--shapes", "-o", "compiled", "--", sys.executable,
                    str(tmp_path / "program.py"))  # fmt: skip
    assert done.code == 0, done.err
    assert "4 attention calls" in done.out
    run = load(tmp_path / "compiled")
    assert not run.records_complete  # a kernel outside of all records is no finding
    assert [(one.fields["q"][2], one.fields.get("compiled")) for one in run.records] == [
        (16, None), (16, True), (32, True), (16, True),
    ]  # fmt: skip
    assert json.loads((tmp_path / "compiled" / "run.json").read_text())["workload"]["num_calls"] == 4
    said = attnprof("report", str(tmp_path / "compiled")).out
    assert "3 attention calls inside graphs of torch.compile" in " ".join(said.split())


def test_shapes_are_asked_of_torch_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path))
    refused = attnprof("run", "--capture", "none", "--shapes", "--", sys.executable, "-c", "0")
    assert refused.code == 2
    assert "--capture torch" in refused.err
