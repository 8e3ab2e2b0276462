"""FlashInfer's plans against those that the released wheel's host code makes, through the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprof.dispatch import libraries
from attnprof.dispatch.flashinfer.backends import choose
from attnprof.dispatch.flashinfer.rules import TOO_MANY, Batch, plan_batch, rules_for
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

PLANS = "flashinfer_plan_0.7.2.post1.jsonl.gz"
CALL = AttentionCall("flashinfer", "batch_paged", 8, 1, 4096, 28, 4, 128, page_block_size=16)


def test_every_plan_of_the_wheel_is_predicted_through_the_command() -> None:
    done = attnprof("predict", "--calls", str(GOLDEN / PLANS))
    assert done.code == 0, done.err
    answers, rows = [json.loads(line) for line in done.out.splitlines()], golden_rows(PLANS)
    assert len(answers) == len(rows) == 4000
    wrong = [
        (row["call"], answer)
        for row, answer in zip(rows, answers, strict=True)
        if (answer["error"], answer.get("plan")) != (row["expect"]["error"], row["expect"]["plan"])
        or answer["launches"][0]["grid"] != row["expect"]["plan"]["grid"]
    ]
    assert wrong == []


@pytest.mark.parametrize("version", ["0.7.2.post1", "0.7.4"])
def test_every_plan_whose_queries_are_promised_to_be_alike(version: str) -> None:
    path = f"flashinfer_uniform_{version}.jsonl.gz"
    done = attnprof("predict", "--calls", str(GOLDEN / path), "--version", version)
    assert done.code == 0, done.err
    answers, rows = [json.loads(line) for line in done.out.splitlines()], golden_rows(path)
    told = [(row["expect"]["error"], row["expect"]["plan"] or None) for row in rows]
    assert [(answer["error"], answer.get("plan")) for answer in answers] == told
    assert len(rows) == 500
    merged = [len(answer["launches"]) == 2 for answer in answers if answer.get("plan")]
    assert merged == [plan["split_kv"] for _, plan in told if plan]


def test_a_promise_that_a_sequence_breaks_is_refused_in_upstreams_words() -> None:
    call = replace(CALL, batch=2, seqlens_q=(1, 2), seqlens_k=(9, 9), cuda_graph=True, uniform_q_len=1)
    told = "qo_indptr gives request 1 a packed qo length of 14, but uniform_q_len=1 promises 7"
    assert libraries.predict(call, gpu_by_name("a100")).error == told


def test_one_sequence_more_than_a_graph_has_room_for_and_no_merge_kernel_follows() -> None:
    """0.7.4 leaves it away where the decode wrapper promised as many tiles as are never split."""
    call = replace(CALL, batch=54, num_heads_k=4, cuda_graph=True, uniform_q_len=1, fixed_uniform_q_len=True)
    for batch, launches in ((54, 2), (55, 1)):
        made = replace(call, batch=batch, seqlens_q=(1,) * batch, seqlens_k=(4096,) * batch)
        assert len(libraries.predict(made, gpu_by_name("a100"), "0.7.4").launches) == launches


@pytest.mark.parametrize(
    ("version", "changes", "gpu", "taken"),
    [
        ("0.7.2.post1", {}, "h100", "fa3"),
        ("0.7.4", {}, "h100", "fa2"),
        ("0.7.4", {"seqlen_q": 65}, "h100", "fa3"),
        ("0.7.4", {"uniform_q_len": 1, "fixed_uniform_q_len": True}, "h100", "fa3"),
        ("0.7.4", {"dtype": "fp8"}, "h100", "fa3"),
    ],
)
def test_what_auto_takes_by_version(version: str, changes: dict[str, Any], gpu: str, taken: str) -> None:
    assert choose(replace(CALL, **changes), gpu_by_name(gpu), rules_for(version)).name == taken


@pytest.mark.parametrize(
    ("version", "changes", "why"),
    [
        ("0.7.4", {"seqlen_q": 64, "batch": 4, "num_heads": 64, "causal": True}, "for such prompts"),
        ("0.7.4", {"seqlen_q": 63, "batch": 4, "num_heads": 64}, ""),
        ("0.7.4", {"head_dim": 256, "num_heads": 16, "batch": 24}, "for such a step"),
        ("0.7.4", {"head_dim": 256, "num_heads": 16, "batch": 23}, ""),
        ("0.7.4", {"head_dim": 256, "num_heads": 16, "batch": 65}, ""),
        ("0.7.2.post1", {"head_dim": 256, "num_heads": 16, "batch": 24}, ""),
        ("0.7.2.post1", {"seqlen_q": 4, "num_heads": 32, "batch": 16}, "for such drafts"),
    ],
)
def test_what_cudnn_would_take_is_said(version: str, changes: dict[str, Any], why: str) -> None:
    others = dict(choose(replace(CALL, **changes), gpu_by_name("b200"), rules_for(version)).others)
    assert why in others.get("cudnn", "") if why else "cudnn" not in others


LENGTHS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9000)), min_size=1, max_size=40)


@given(LENGTHS, st.sampled_from([1, 16, 64]), st.booleans(), st.integers(-1, 500))
def test_a_plan_covers_the_batch_and_fits_its_grid(
    lengths: list[tuple[int, int]], page: int, graph: bool, window: int
) -> None:
    batch = Batch(
        [q for q, _ in lengths], [k for _, k in lengths], 32, 8, 128, 128, page, window, cuda_graph=graph
    )
    plan = plan_batch(batch, 132, 232448, 9)
    assert not isinstance(plan, str)
    assert plan.num_work_items <= plan.padded_batch_size == plan.grid[0]
    tiles = sum(-(-q * 4 // plan.cta_tile_q) for q, _ in lengths)
    assert plan.num_work_items >= tiles
    if not plan.split_kv:
        assert plan.num_work_items == tiles


def test_a_fixed_split_that_outgrows_a_graph_is_refused_in_upstreams_words() -> None:
    call = replace(CALL, seqlen_k=1 << 20, cuda_graph=True, fixed_split_size=1)
    assert libraries.predict(call, gpu_by_name("b200")).error == TOO_MANY


def test_the_plan_is_explained_from_the_command_line() -> None:
    call = ("--library", "flashinfer", "--entry", "batch_paged", "--gpu", "a100", "--seqlen-k", "4096")
    done = attnprof("explain", *call, "--batch", "8", "--page-block-size", "16")
    assert done.code == 0, done.err
    told = " ".join(done.out.split())
    assert "BatchPrefillWithPagedKVCacheKernel" in told
    assert "the smallest whose work items fit" in told


def test_its_kernel_is_one_of_flashinfers() -> None:
    main, merge = libraries.predict(CALL, gpu_by_name("a100")).launches
    signature = parse_kernel_name(main.kernel)
    assert (signature.library, signature.family, main.block) == ("flashinfer", "paged_prefill", (32, 1, 4))
    assert parse_kernel_name(merge.kernel).role == "combine"


@pytest.mark.parametrize(
    ("changes", "gpu", "match"),
    [
        ({"entry": "fwd"}, "a100", "fwd of flashinfer is not modelled"),
        ({"backend": "cutlass"}, "b200", "backend cutlass is not modelled"),
        ({"backend": "trtllm-gen", "dtype": "fp32"}, "b200", "not modelled for fp32"),
        (
            {"entry": "batch_decode", "head_dim": 96, "num_heads": 32},
            "b200",
            "admits at head dim 96 is not known",
        ),
    ],
)
def test_what_is_not_modelled_is_said(changes: dict[str, object], gpu: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        libraries.predict(replace(CALL, **changes), gpu_by_name(gpu))


@pytest.mark.parametrize(
    ("changes", "grid", "block", "items"),
    [
        ({"batch": 4, "seqlen_q": 1000}, (132, 1, 1), 384, 4 * 8 * 28),
        ({"batch": 4, "seqlen_q": 1000, "head_dim": 64}, (132, 1, 1), 512, 4 * 6 * 28),
        ({"batch": 5000, "seqlen_q": 1}, (132, 28, 1), 384, 5000),
    ],
)
def test_hopper_takes_a_block_per_sm_and_never_splits(
    changes: dict[str, object], grid: tuple[int, int, int], block: int, items: int
) -> None:
    prediction = libraries.predict(replace(CALL, **changes), gpu_by_name("h100"))
    (launch,) = prediction.launches
    assert (launch.grid, launch.block, prediction.num_splits) == (grid, (block, 1, 1), 1)
    assert dict(prediction.plan)["num_work_items"] == items


def test_auto_takes_fa3_on_hopper_alone() -> None:
    for gpu, head_dim, kernel in (("h100", 128, "Prefill"), ("h100", 96, "Batch"), ("b200", 128, "Batch")):
        launches = libraries.predict(replace(CALL, head_dim=head_dim), gpu_by_name(gpu)).launches
        assert launches[0].kernel.startswith(f"flashinfer::{kernel}")


def test_lengths_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    call = {
        "library": "flashinfer", "entry": "batch_paged", "num_heads": 8, "num_heads_k": 8, "head_dim": 128,
        "seqlens_q": [1, 1], "seqlens_k": [5], "device": "a100",
    }  # fmt: skip
    path = tmp_path / "calls.jsonl"
    path.write_text(json.dumps(call) + "\n")
    done = attnprof("predict", "--calls", str(path))
    assert done.code == 2
    assert "seqlens_q has 2 sequences, seqlens_k 1" in done.err
