"""What a CUDA graph froze at capture, against what its replays hold: caps, split counts, padded grids."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from attnprof.analysis.graph_replays import GraphReplays, graph_replays
from attnprof.dispatch.libraries import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.report.graph_replays import graph_sentence, graph_table
from attnprof.runs import run_folders
from attnprof.runs.ingest import finish, no_trace
from attnprof.runs.run import Run, load
from attnprof.runs.run_builder import new_run
from tests.support.command import attnprof

H100 = gpu_by_name("h100")
GPU = asdict(H100)


def captured(tokens: int, heads_k: int, **more: Any) -> dict[str, Any]:
    """vLLM's call while it captures a graph for so many tokens, of as long a model as it serves."""
    return {
        "step": None, "phase": "other", "layer": 0, "stage": "capture", "library": "vllm_flash_attn",
        "function": "flash_attn_varlen_func", "entry": "varlen_fwd", "backend": None, "device": "cuda:0",
        "dtype": "bf16", "q": [tokens, 32, 128], "k": [100, 16, heads_k, 128], "v": [100, 16, heads_k, 128],
        "layout": "thd", "causal": True, "window": [-1, -1], "softcap": 0.0, "dropout_p": 0.0,
        "alibi": False, "return_softmax": False, "scale": None, "batch": tokens, "max_seqlen_q": 1,
        "max_seqlen_k": 131072, "block_table": [tokens, 8192], "cu_seqlens_q": None, "cu_seqlens_k": None,
        "fa_version": 3, "num_splits": 32, "scheduler_metadata": True, **more,
    }  # fmt: skip


def step(number: int, *keys: int, **more: Any) -> dict[str, Any]:
    lengths = {"seqlens_q": [1] * len(keys), "seqlens_k": list(keys), "batch": len(keys)}
    return {"step": number, "phase": "decode", "graph": "full", "graph_tokens": 8, **lengths, **more}


def run_of(records: list[dict[str, Any]], steps: list[dict[str, Any]]) -> Run:
    lines = [json.dumps({"seq": seq, **record}) for seq, record in enumerate(records)]
    config = {"kind": "run", "workload": {"steps": steps, "gpu": GPU, "device": "cuda:0"}}
    with new_run("graphed", numbered=True) as builder:
        (builder.folder / run_folders.CALLS_JSONL).write_text("\n".join(lines) + "\n")
        (builder.folder / "workload.json").write_text(json.dumps(config["workload"]))
        folder = finish(builder, no_trace(), config)
    return load(folder)


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path))


def of(records: list[dict[str, Any]], *steps: dict[str, Any]) -> list[GraphReplays]:
    return graph_replays(run_of(records, [*steps]).recording)


def anew(heads_k: int, *keys: int) -> int | None:
    """What the library chooses for such a step by itself."""
    call = AttentionCall(
        "vllm_flash_attn", "varlen_fwd", len(keys), 1, max(keys), 32, heads_k, 128, causal=True,
        page_block_size=16, scheduler_metadata=True, total_q=len(keys), seqlens_q=(1,) * len(keys),
        seqlens_k=keys,
    )  # fmt: skip
    return predict(call, H100, "fa3").num_splits


def test_vllms_cap_that_no_replay_reaches() -> None:
    (graph,) = of([captured(8, 8)] * 2, step(0, 600, 300), step(1, 65536, 301, 7))
    assert (graph.tokens, graph.steps, graph.requests, graph.seqlen_k) == (8, 2, (2, 3), (600, 65536))
    assert (graph.captured, graph.capped) == (32, True)
    assert graph.anew == (anew(8, 600, 300), anew(8, 65536, 301, 7)) == (5, 15)
    assert graph_sentence([graph]) == (
        "The graph for 8 tokens was captured with room for 32 splits, the engine's cap: "
        "it would be 5–15 at 600–65,536 keys."
    )


def test_vllms_cap_that_cuts() -> None:
    (graph,) = of([captured(8, 1)], step(0, 65536))
    free = anew(1, 65536)
    assert free is not None
    assert free > 32
    assert graph.anew == (free, free)
    assert f"the engine's cap, which cuts: it would be {free} at 65,536 keys" in graph_sentence([graph])


def test_a_count_that_the_library_chose_at_capture() -> None:
    """FlashAttention-2 chooses from the longest length that the engine serves."""
    chosen = captured(8, 8, fa_version=2, num_splits=0, scheduler_metadata=False)
    (graph,) = of([chosen], step(0, 600, 500))
    assert not graph.capped
    assert graph.anew is not None
    assert graph.captured != graph.anew[0]
    said = f"was captured with {graph.captured} splits: it would be {graph.anew[0]} at 600 keys"
    assert said in graph_sentence([graph])
    (same,) = of([chosen], step(0, *[131072] * 8))
    assert same.anew == (same.captured, same.captured)
    assert graph_sentence([same]) == ""
    assert len(graph_table([same]).rows) == 1


@pytest.mark.parametrize(
    ("records", "steps"),
    [
        ([captured(8, 8, stage=None)], [step(0, 600)]),
        ([captured(8, 8, stage="warmup")], [step(0, 600)]),
        ([captured(4, 8)], [step(0, 600)]),
        ([captured(8, 8)], [step(0, 600, graph="piecewise")]),
        ([captured(8, 8)], [{k: v for k, v in step(0, 600).items() if not k.startswith("graph")}]),
        ([captured(8, 8, not_described="a list")], [step(0, 600)]),
        ([], [step(0, 600)]),
    ],
)
def test_without_a_capture_of_the_replayed_graph_nothing_is_said(records: Any, steps: Any) -> None:
    assert of(records, *steps) == []


def flashinfers(tokens: int, entry: str = "batch_paged") -> dict[str, Any]:
    more = {"library": "flashinfer", "entry": entry, "cuda_graph": True, "backend": "fa2", "fa_version": None,
            "num_splits": None, "seqlens_q": [1] * tokens, "seqlens_k": [1] * tokens, "max_seqlen_k": 1,
            "scheduler_metadata": None}  # fmt: skip
    return {key: value for key, value in captured(tokens, 8, **more).items() if value is not None or key in
            ("step", "scale", "backend", "cu_seqlens_q", "cu_seqlens_k")}  # fmt: skip


def test_flashinfers_grid_is_as_captured_and_the_rest_of_it_is_padding() -> None:
    (graph,) = of([flashinfers(8)], step(0, 40, 300), step(1, 4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096))
    assert graph.captured is graph.anew is None
    call = AttentionCall(
        "flashinfer", "batch_paged", 8, 1, 4096, 32, 8, 128, causal=True, page_block_size=16, total_q=8,
        cuda_graph=True, backend="fa2", seqlens_q=(1,) * 8, seqlens_k=(4096,) * 8,
    )  # fmt: skip
    plan = dict(predict(call, H100).plan)
    assert graph.padded == plan["padded_batch_size"] == 33  # 2 x 132 SMs / 8 KV heads
    short = dict(predict(replace(call, seqlens_k=(40, 300, *[0] * 6)), H100).plan)
    assert graph.work_items == (short["num_work_items"] - 6, plan["num_work_items"])
    least, most = graph.work_items
    assert f"{33 - most}–{33 - least} are padding" in graph_sentence([graph])
    assert "33 thread blocks for each KV head" in graph_sentence([graph])


def test_the_report_shows_what_was_frozen() -> None:
    run = run_of([captured(8, 1), captured(8, 8, layer=1)], [step(0, 65536)])
    assert run.folder is not None
    done = attnprof("report", str(run.folder))
    said = " ".join(done.out.split())
    assert "the engine's cap, which cuts" in said
    assert "CUDA graphs: what capture froze, and what replays hold (predicted)" in said
    table = attnprof("report", str(run.folder), "--format", "csv", "--table", "graphs").out.splitlines()
    assert table[0].startswith("tokens,steps,library,requests,seqlen_k,captured,anew")
    assert len(table) == 3


def test_predict_says_how_much_of_the_grid_is_padding() -> None:
    asked = ("--library", "flashinfer", "--entry", "batch_paged", "--backend", "fa2", "--seqlens-k", "40,300",
             "--seqlens-q", "1,1", "--heads", "32", "--kv-heads", "8", "--gpu", "h100")  # fmt: skip
    said = " ".join(attnprof("predict", *asked, "--cuda-graph").out.split())
    without = " ".join(attnprof("predict", *asked).out.split())
    assert "a CUDA graph keeps it" in said
    assert "are padding" in said
    assert "padding" not in without
