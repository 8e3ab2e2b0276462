"""vLLM's and SGLang's Triton attention against the wheels' own Python (benchmarks/record_triton.py).

Resting on reading alone: threads where upstream leaves the warps to Triton's default, AMD GPUs, how many
segments of a request hold keys, and SGLang's log2 on a GPU (recorded in Triton's interpreter: IEEE's).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from attnprof.calls.call_files import parse_call
from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

VLLM = (
    "vllm_triton_0.10.0.jsonl.gz",
    "vllm_triton_0.10.2.jsonl.gz",
    "vllm_triton_0.19.1.jsonl.gz",
    "vllm_triton_0.20.0.jsonl.gz",
    "vllm_triton_0.33.0.jsonl.gz",
)
VLLM_DRAFTS = "vllm_drafts_triton_0.33.0.jsonl.gz"
VLLM_MLA = tuple(name.replace("vllm_", "vllm_mla_") for name in VLLM)
SGLANG = "sglang_triton_0.5.23.jsonl.gz"


def predicted(name: str) -> list[tuple[dict, dict]]:
    """(row, answer) through the command line, one a row."""
    done = attnprof("predict", "--calls", str(GOLDEN / name))
    assert done.code == 0, done.err
    answers, rows = [json.loads(line) for line in done.out.splitlines()], golden_rows(name)
    assert len(answers) == len(rows) == (300 if name in VLLM_MLA else 400 if name == VLLM_DRAFTS else 800)
    return list(zip(rows, answers, strict=True))


def launches(row: dict) -> list[tuple[str, list[int], list[int]]]:
    """What upstream launched; four warps where it asks for none."""
    return [
        (one["kernel"], one["grid"], [32 * (one["num_warps"] or 4), 1, 1])
        for one in row["expect"]["launches"]
    ]


def ours(answer: dict) -> list[tuple[str, list[int], list[int]]]:
    return [(one["kernel"], one["grid"], one["block"]) for one in answer["launches"]]


@pytest.mark.parametrize("name", [*VLLM, VLLM_DRAFTS])
def test_vllms_launches_tiles_and_threshold_are_upstreams(name: str) -> None:
    wrong = []
    for row, answer in predicted(name):
        expect, plan = row["expect"], answer.get("plan", {})
        same = (answer["error"], ours(answer)) == (expect["error"], launches(row))
        if same and expect["error"] is None:
            given = expect["launches"][0]["constants"]
            wanted = {"block_m": given["BLOCK_M"], "block_q": given["BLOCK_Q"]}
            wanted |= {"segments": given.get("NUM_SEGMENTS_PER_SEQ", 1)}
            wanted |= {"tile": given["TILE_SIZE"]} if "TILE_SIZE" in given else {}
            wanted |= {} if expect["threshold"] is None else {"threshold": expect["threshold"]}
            same = plan.items() >= wanted.items()
        if not same:
            wrong.append((row, answer))
    assert wrong == []


@pytest.mark.parametrize("name", VLLM_MLA)
def test_the_stages_and_splits_of_triton_mla_are_upstreams(name: str) -> None:
    splits = set()
    for row, answer in predicted(name):
        expect = row["expect"]
        assert (answer["error"], ours(answer)) == (expect["error"], launches(row)), row["call"]
        assert answer["num_splits"] == expect["launches"][0]["grid"][2]
        splits.add(answer["num_splits"])
    constant = {"0.10.0": {4}, "0.10.2": {4}, "0.19.1": {1, 4}}
    version = name.rpartition("_")[2].removesuffix(".jsonl.gz")
    assert splits == constant.get(version, splits)
    assert version in constant or len(splits) > 6


@pytest.mark.parametrize("version", ["0.20.0", "0.33.0"])
def test_turboquants_stages_are_upstreams_and_read_back(version: str) -> None:
    name = f"vllm_turboquant_{version}.jsonl.gz"
    done = attnprof("predict", "--calls", str(GOLDEN / name))
    for row, line in zip(golden_rows(name), done.out.splitlines(), strict=True):
        answer, call = json.loads(line), row["call"]
        assert (answer["error"], ours(answer), answer["num_splits"]) == (None, launches(row), 32)
        made = [KernelLaunch(kernel, tuple(grid), tuple(block)) for kernel, grid, block in launches(row)]
        sizes = (call["batch"], call["num_heads"], 32)
        assert sizes == told_of_turboquant(*made)
        stage1, stage2 = made
        x, y, _ = stage2.grid
        assert told_of_turboquant(replace(stage1, block=(64, 1, 1)), stage2) is None
        assert told_of_turboquant(stage1, replace(stage2, block=(64, 1, 1))) is None
        assert told_of_turboquant(stage1, replace(stage2, grid=(x, y + 1, 1))) is None
        assert told_of_turboquant(stage1) is None


def told_of_turboquant(*launches: KernelLaunch) -> tuple[int | None, int | None, int] | None:
    """Requests, heads and splits."""
    back = libraries.explain(Observed(*launches), GpuFacts(132, (9, 0)))
    assert back is not None
    return next(((one.batch, one.heads, one.num_splits) for one in back.explanations), None)


def test_a_windows_layer_of_sglang_has_the_split_counts_of_the_whole_lengths() -> None:
    name, shorter = "sglang_triton_window_0.5.23.jsonl.gz", 0
    done = attnprof("predict", "--calls", str(GOLDEN / name))
    for row, line in zip(golden_rows(name), done.out.splitlines(), strict=True):
        answer, expect, call = json.loads(line), row["expect"], row["call"]
        assert (answer["error"], ours(answer)) == (None, launches(row)), call
        assert answer["plan"]["num_kv_splits"] == expect["num_kv_splits"]
        cut = call | {"seqlens_k": [min(keys, call["window_left"]) for keys in call["seqlens_k"]]}
        asked, gpu, _ = parse_call(cut)
        shorter += dict(libraries.predict(asked, gpu).plan)["num_kv_splits"] != expect["num_kv_splits"]
    assert shorter > 50  # those of the window's keys would be others


def test_sglangs_launches_and_splits_of_each_request_are_upstreams() -> None:
    wrong = []
    for row, answer in predicted(SGLANG):
        expect, plan = row["expect"], answer["plan"]
        given = expect["launches"][0]["constants"]
        same = (answer["error"], ours(answer)) == (expect["error"], launches(row))
        if expect["num_kv_splits"] is not None:
            same &= plan["num_kv_splits"] == expect["num_kv_splits"]
            same &= answer["num_splits"] == max(expect["num_kv_splits"])
        else:
            same &= (plan["block_m"], plan["block_n"]) == (given["BLOCK_M"], given["BLOCK_N"])
        if not same:
            wrong.append((row, answer))
    assert wrong == []


def recorded(library: str, **fields: Any) -> dict[str, Any]:
    """A call as the recorder at an engine's door writes it."""
    plain = {
        "function": "f", "dtype": "bf16", "causal": True, "window": [-1, -1], "softcap": 0.0, "alibi": False,
        "dropout_p": 0.0, "return_softmax": False, "device": "cuda:0", "entry": "batch_paged", "seq": 0,
        "step": 0, "layer": 0, "phase": "decode",
    }  # fmt: skip
    return plain | {"library": library} | fields


def call_of(fields: dict[str, Any]) -> AttentionCall | NotModelled:
    return attention_call(CallRecord(0, 0, "decode", 0, fields), fields["library"])


def test_a_recorded_step_of_vllm_needs_no_lengths_and_carries_the_engines_threshold() -> None:
    """With five KV heads 25 sequences are as many as 128 blocks, and 24 the nearest that is captured."""
    step = recorded(
        "vllm_triton", q=[25, 25, 128], k=[100, 16, 5, 128], v=[100, 16, 5, 128], batch=25, max_seqlen_q=1,
        max_seqlen_k=9000, threshold=25, segments=16,
    )  # fmt: skip
    h100 = gpu_by_name("h100")
    splits = {}
    for threshold in (25, 24):
        call = call_of(step | {"threshold": threshold})
        assert isinstance(call, AttentionCall)
        assert (call.seqlens_k, call.total_q, call.seqlen_k) == ((), 25, 9000)
        prediction = libraries.predict(call, h100)
        splits[threshold] = (prediction.num_splits, dict(prediction.plan)["threshold"])
    assert splits == {25: (16, 25), 24: (1, 24)}
    other = call_of(step | {"threshold": 3})
    assert isinstance(other, NotModelled)
    assert "captures other sizes" in other.why


def test_a_recorded_step_of_sglang_is_decode_where_it_is_told_the_most_splits() -> None:
    step = recorded(
        "sglang_triton", q=[3, 32, 128], k=[9000, 1, 8, 128], v=[9000, 1, 8, 128], batch=3,
        seqlens_q=[1, 1, 1], seqlens_k=[70000, 900, 12], max_kv_splits=16,
    )  # fmt: skip
    call = call_of(step)
    assert isinstance(call, AttentionCall)
    assert (call.entry, call.seqlens_k) == ("fwd_kvcache", (70000, 900, 12))
    stage1, stage2 = libraries.predict(call, gpu_by_name("h100")).launches
    assert (stage1.grid, stage2.grid) == ((3, 8, 16), (3, 32, 1))
    mla = call_of(step | {"q": [3, 16, 576], "k": [9000, 1, 1, 576], "v": [9000, 1, 1, 512]})
    assert isinstance(mla, AttentionCall)
    assert (mla.head_dim, mla.head_dim_v) == (576, 512)
    extend = call_of(step | {"max_kv_splits": None, "seqlens_q": [1, 2, 300]})
    assert isinstance(extend, AttentionCall)
    assert extend.entry == "batch_paged"
    unknown = call_of(step | {"seqlens_k": None})
    assert isinstance(unknown, NotModelled)
