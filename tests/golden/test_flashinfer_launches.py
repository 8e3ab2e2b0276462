"""FlashInfer's launches against those that the wheel's own launchers make on a runtime that records them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attnprof.calls.call_files import parse_call
from attnprof.dispatch import libraries
from attnprof.dispatch.flashinfer.backends import choose
from attnprof.dispatch.flashinfer.rules import rules_for
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Prediction
from tests.conftest import golden_rows
from tests.support.command import attnprof

LAUNCHES, OLDEST = "flashinfer_host_0.7.2.post1.jsonl.gz", "flashinfer_host_0.6.8.post1.jsonl.gz"
NEWEST = "flashinfer_host_0.7.4.jsonl.gz"
ENTRIES = ("batch_decode", "batch_mla", "batch_paged", "single_decode", "single_prefill")
CALL = AttentionCall("flashinfer", "batch_decode", 8, 1, 4096, 32, 8, 128, page_block_size=16)


def _predicted(row: dict[str, Any]) -> Prediction:
    call, gpu, version = parse_call(row)
    return libraries.predict(call, gpu, version)


def _launches(prediction: Prediction) -> list[tuple[str, list[int], list[int]]]:
    return [(one.kernel, list(one.grid), list(one.block)) for one in prediction.launches]


@pytest.mark.parametrize(
    ("name", "entry"),
    [*((name, entry) for name in (LAUNCHES, NEWEST) for entry in ENTRIES), (OLDEST, "batch_paged")],
)
def test_every_launch_of_the_wheel_is_predicted(name: str, entry: str) -> None:
    """The planner that deals out tiles on Hopper and the one of MLA are held to in the tests below."""
    rows = [row for row in golden_rows(name) if row["call"]["entry"] == entry and row["expect"]["launches"]]
    wrong = [
        row["call"]
        for row in rows
        if _launches(_predicted(row))
        != [(one["kernel"], one["grid"], one["block"]) for one in row["expect"]["launches"]]
    ]
    assert wrong == []
    assert rows or entry == "batch_mla"  # whose planner was recorded alone


def test_shared_memory_is_that_of_the_launch_where_it_is_told() -> None:
    rows = [
        row for name in (LAUNCHES, NEWEST, OLDEST) for row in golden_rows(name) if row["expect"]["launches"]
    ]
    assert {row["call"]["entry"] for row in rows} == {*ENTRIES} - {"batch_mla"}
    told = [[one.dynamic_smem for one in _predicted(row).launches] for row in rows]
    assert told == [[one["dynamic_smem"] for one in row["expect"]["launches"]] for row in rows]


def test_every_refusal_is_upstreams() -> None:
    refused = [
        row for name in (LAUNCHES, NEWEST, OLDEST) for row in golden_rows(name) if row["expect"]["error"]
    ]
    assert len(refused) > 50
    assert [_predicted(row).error for row in refused] == [row["expect"]["error"] for row in refused]


def test_every_plan_of_decode_on_cuda_cores() -> None:
    rows = [row for name in (LAUNCHES, NEWEST) for row in golden_rows(name)]
    rows = [row for row in rows if row["call"]["entry"] == "batch_decode"]
    for row in rows:
        plan = dict(_predicted(row).plan)
        grid = plan.pop("grid")
        assert plan == row["expect"]["plan"]
        assert grid == [plan["padded_batch_size"], row["call"]["num_heads_k"], 1]


@pytest.mark.parametrize("name", [LAUNCHES, NEWEST, OLDEST])
def test_every_plan_of_hoppers_backend(name: str) -> None:
    rows = [row for row in golden_rows(name) if row["call"]["backend"] == "fa3"]
    shared = 0
    for row in rows:
        prediction, told = _predicted(row), row["expect"]["plan"]
        plan = dict(prediction.plan)
        assert plan["num_work_items"] == told["num_work_items"]
        assert -(-int(str(plan["padded_batch_size"])) // 4) * 4 == told["room"]  # in steps of 16 bytes
        (launch,) = prediction.launches
        assert launch.grid == (132, row["call"]["num_heads"] if told["same_schedule"] else 1, 1)
        shared += told["same_schedule"]
    assert 0 < shared < len(rows)


@pytest.mark.parametrize("name", [LAUNCHES, NEWEST, OLDEST])
def test_every_plan_of_mla(name: str) -> None:
    rows = [row for row in golden_rows(name) if row["call"]["entry"] == "batch_mla"]
    split = 0
    for row in rows:
        plan, told = dict(_predicted(row).plan), row["expect"]["plan"]
        counted = ("grid", "num_work_items", "num_split", "num_merging")
        assert [plan[name] for name in counted] == [
            told[name] for name in ("grid", "num_work_items", "partial", "merging")
        ]
        if told["partial"]:  # else no item is as long as a chunk may be
            assert plan["kv_chunk_size"] == told["longest"]
        split += bool(told["partial"])
    assert 0 < split < len(rows)


def test_its_kernels_are_told_by_name() -> None:
    for entry, family in (
        ("batch_decode", "paged_decode"), ("batch_mla", "mla"), ("single_prefill", "paged_prefill"),
        ("single_decode", "paged_decode"),
    ):  # fmt: skip
        dims = {"head_dim": 576, "head_dim_v": 512} if entry == "batch_mla" else {}
        call = replace(CALL, entry=entry, batch=1, **dims)  # type: ignore[arg-type]
        for gpu in ("a100", "h100"):
            main, *merges = libraries.predict(call, gpu_by_name(gpu)).launches
            assert parse_kernel_name(main.kernel).family == family
            assert [parse_kernel_name(merge.kernel).role for merge in merges] == ["combine"] * len(merges)


@pytest.mark.parametrize(
    ("changes", "gpu", "taken"),
    [
        ({"entry": "batch_paged"}, "h100", "fa3"),
        ({"entry": "batch_paged"}, "b200", "fa2"),
        ({"entry": "batch_paged", "head_dim": 96}, "h100", "fa2"),
        ({"entry": "batch_paged", "backend": "trtllm-gen"}, "b200", "trtllm-gen"),
        ({}, "h100", "fa2"),
        ({"seqlen_q": 2}, "b200", "cudnn"),
        ({"seqlen_q": 2}, "h100", "fa2"),
        ({"entry": "batch_mla", "head_dim": 576, "head_dim_v": 512}, "h100", "fa3"),
        ({"entry": "single_decode"}, "h100", "fa2"),
    ],
)
def test_the_backend_that_is_taken(changes: dict[str, Any], gpu: str, taken: str) -> None:
    """Resting on reading: utils.py and decode.py ask a GPU."""
    call = replace(CALL, **changes)
    choice = choose(call, gpu_by_name(gpu), rules_for("0.7.2.post1"))
    assert choice.name == taken
    assert taken not in [name for name, _ in choice.others]
    assert call.backend or choice.others


def test_drafts_need_tensor_cores() -> None:
    refused = libraries.predict(replace(CALL, seqlen_q=2), gpu_by_name("h100"))
    assert refused.error is not None
    assert refused.error.startswith("q_len_per_req > 1 requires tensor-core decode")


def test_plan_backend_and_merge_are_explained() -> None:
    sizes = ("--batch", "8", "--seqlen-k", "4096", "--num-heads", "32", "--num-heads-k", "8")
    flags = ("--library", "flashinfer", "--gpu", "h100", "--entry", "batch_decode", *sizes)
    told = " ".join(attnprof("explain", *flags).out.split())
    for part in ("decode on CUDA cores", "BatchDecodeWithPagedKVCacheKernel", "adds up the chunks"):
        assert part in told
