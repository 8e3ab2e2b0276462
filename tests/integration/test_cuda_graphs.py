"""What is told of attention inside CUDA graphs: layers, and split counts frozen at capture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attnprof import load
from attnprof.check.check_run import Verdict
from attnprof.model import AttentionCall
from attnprof.runs import run_folders
from attnprof.runs.ingest import finish
from attnprof.runs.run_builder import new_run
from attnprof.trace.open_trace import open_trace
from tests.conftest import SHARED, TESTS
from tests.support.command import attnprof
from tests.support.generated_run import record_of
from tests.support.graph_trace import LAYERS, GraphTrace, replayed

MAKE_TRACE = SHARED / "bench" / "make_trace.py"
L40 = "torch_l40_llama2-7b_cudagraph_decode_fa2_splitkv.json.gz"


def layers_of(path: Path, steps: int) -> list[list[int]]:
    observed = load(path).observed
    return observed.layer[observed.replayed].reshape(steps, -1).tolist()


def test_the_capture_tells_the_layer_of_every_replayed_kernel(tmp_path: Path) -> None:
    path = replayed(tmp_path / "t.sqlite", prompt=1000, captured_for=1001, steps=4)
    assert layers_of(path, 4) == [[0, 1, 2]] * 4
    timeline = load(path).timeline
    of_graph = timeline.replayed()
    assert sorted(np.unique(timeline.layer[of_graph])) == [0, 1, 2]  # kernels other than attention too
    assert (timeline.step[of_graph] > 0).all()


def test_without_a_capture_the_order_of_an_eager_step_tells_the_layers(tmp_path: Path) -> None:
    path = replayed(tmp_path / "t.sqlite", prompt=1000, captured_for=1001, steps=4, nodes=False)
    assert layers_of(path, 4) == [[0, 1, 2]] * 4


def test_eager_steps_with_another_number_of_calls_tell_nothing(tmp_path: Path) -> None:
    made = GraphTrace(layers_named=False)
    made.eager(1000, 1000)
    made.capture(1001, nodes=False)
    made.replay()
    path = made.write(tmp_path / "t.sqlite")
    assert layers_of(path, 1) == [[-1] * LAYERS]


@pytest.mark.skipif(not MAKE_TRACE.exists(), reason="no synthetic trace generator here")
def test_layers_of_a_generated_graph_decode_are_those_of_its_prefill(tmp_path: Path) -> None:
    path = tmp_path / "made.sqlite"
    command = [sys.executable, str(MAKE_TRACE), str(path), "--steps", "5", "--cuda-graph", "--processes", "2"]
    subprocess.run(command, check=True, capture_output=True)
    observed = load(path).observed
    assert int(observed.replayed.sum()) == 2 * 5 * 28
    for process in np.unique(observed.pid):
        mine = observed.replayed & (observed.pid == process)
        assert observed.layer[mine].reshape(5, 28).tolist() == [list(range(28))] * 5


def test_the_real_replay_of_llama_2_is_one_graph_without_an_eager_step_to_tell_layers() -> None:
    path = next((f / L40 for f in (TESTS / "data" / "traces", SHARED / "traces") if (f / L40).exists()), None)
    if path is None:
        pytest.skip(f"{L40} is not in this checkout")
    run = load(path)
    assert run.observed.replayed.all()
    assert len(np.unique(run.timeline.launch[run.observed.main])) == 1
    assert set(run.observed.layer.tolist()) == {-1}
    assert run.check().counts == {Verdict.EXPLAINED: 32}  # one step freezes nothing


def test_replays_within_the_lengths_of_one_choice_are_fine(tmp_path: Path) -> None:
    path = replayed(tmp_path / "t.sqlite", prompt=1020, captured_for=1025, steps=100)
    assert load(path).check().counts == {Verdict.EXPLAINED: LAYERS * 101}


def test_replays_that_outlast_every_length_of_their_choice_are_frozen(tmp_path: Path) -> None:
    path = replayed(tmp_path / "t.sqlite", prompt=1000, captured_for=1001, steps=160)
    result = load(path).check()
    first = min(call.step or 0 for call in result.failures)
    # 897 to 1024 keys get this choice and the prefill held at least 897: step 128 is the first beyond them
    assert (first, result.counts[Verdict.FROZEN]) == (128, LAYERS * 33)
    assert {call.layer for call in result.failures} == {0, 1, 2}
    done = attnprof("check", str(path))
    said = " ".join(done.out.split())
    assert done.code == 1
    assert "99 calls: a CUDA graph replays 8 splits in steps 1 to 160: the choice for 897–1024 keys" in said
    assert "step 160 held at least 1057, for which the library chooses 9" in said
    assert f"FAILED: 99 of {LAYERS * 161} attention calls" in said
    assert "Frozen: a CUDA graph replays 8 splits" in " ".join(attnprof("report", str(path)).out.split())


def test_a_capture_with_a_dummy_length_is_frozen_from_its_first_replay(tmp_path: Path) -> None:
    path = replayed(tmp_path / "t.sqlite", prompt=1000, captured_for=1, steps=3)
    result = load(path).check()
    assert result.counts[Verdict.FROZEN] == LAYERS * 3
    assert "replays 1 split in steps 1 to 3: the choice for 1–128 keys" in result.failures[0].detail


@pytest.mark.parametrize(("replays", "frozen"), [(127, []), (128, [129] * LAYERS)])
def test_an_eager_step_pins_the_keys(tmp_path: Path, replays: int, frozen: list[int]) -> None:
    made = GraphTrace()
    made.eager(1, 1024)
    made.eager(1, 1025)
    made.capture(1026)
    for _ in range(replays):
        made.replay()
    failures = load(made.write(tmp_path / "t.sqlite")).check().failures
    assert [call.step for call in failures] == frozen
    for call in failures:
        assert "step 129 held 1153, for which the library chooses 10" in call.detail


def test_a_new_prefill_begins_a_new_sequence(tmp_path: Path) -> None:
    made = GraphTrace()
    for _ in range(3):
        made.eager(1000, 1000)
        made.capture(1001)
        for _ in range(24):
            made.replay()
    assert load(made.write(tmp_path / "t.sqlite")).check().counts[Verdict.FROZEN] == 0


def run_of(tmp_path: Path, steps: int, keys: dict[int, int], **workload: object) -> Path:
    """A run whose records are the prefill's and the captured calls."""
    path = replayed(tmp_path / "t.sqlite", prompt=1000, captured_for=1001, steps=steps)
    lines = [json.dumps(record_of(seq, 0, seq, _call(1000, 1000), "prefill")) for seq in range(LAYERS)]
    lines += [json.dumps(record_of(LAYERS + i, 1, i, _call(1, 1001))) for i in range(LAYERS)]
    counted = [{"step": step, "phase": "decode", "seqlen_k": length} for step, length in keys.items()]
    config = {"kind": "run", "workload": {"steps": counted, **workload}}
    config["predict"] = {"library": "flash_attn", "version": "2.8.3"}
    with new_run("graphed") as run:
        (run.folder / run_folders.CALLS_JSONL).write_text("\n".join(lines) + "\n")
        return finish(run, open_trace(path), config)


def _call(seqlen_q: int, seqlen_k: int) -> AttentionCall:
    return AttentionCall("flash_attn", "fwd", 1, seqlen_q, seqlen_k, 28, 4, 128, causal=True)


def test_a_recorded_capture_is_compared_in_each_replay_and_not_missed(tmp_path: Path) -> None:
    run = load(run_of(tmp_path, 20, {step: 1000 + step for step in range(1, 21)}))
    counts = run.check().counts
    assert counts == {Verdict.MATCH: LAYERS * 21, Verdict.NOT_OBSERVED: LAYERS}


def test_recorded_keys_beyond_the_captured_choice_are_a_finding(tmp_path: Path) -> None:
    run = load(run_of(tmp_path, 30, {step: 1000 + step for step in range(1, 31)}))
    result = run.check()
    assert {call.step for call in result.failures} == set(range(25, 31))
    assert "step 30 held 1030, for which the library chooses 9" in result.failures[0].detail


def test_a_cache_of_fixed_length_grows_no_keys(tmp_path: Path) -> None:
    keys = {step: 900 + step for step in range(1, 31)}
    run = load(run_of(tmp_path, 30, keys, cache="static", prompt_tokens=990, max_new_tokens=30))
    assert run.check().counts[Verdict.FROZEN] == 0


def test_graphs_recorded_whole_allow_no_conclusion(tmp_path: Path) -> None:
    made = GraphTrace()
    made.eager(1000, 1000)
    made.builder.add(
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=9_000, end=9_900, correlationId=900, graphId=1, graphExecId=2
    )
    done = attnprof("check", str(made.write(tmp_path / "t.sqlite")))
    assert done.code == 3
    assert "1 CUDA graph launches were recorded whole" in " ".join(done.out.split())
    assert "--cuda-graph-trace=node" in done.out
