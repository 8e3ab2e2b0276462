"""Attention on AMD GPUs against the wheels' own Python and host code (benchmarks/record_rocm_attn.py).

Resting on reading alone: the threads of Triton's paged decode, which leaves its warps to the default.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

MI300X = gpu_by_name("mi300x")
FACTS = GpuFacts(MI300X.num_sms, (MI300X.sm_major, MI300X.sm_minor), "amd")
STEP = AttentionCall(
    "vllm_rocm", "batch_paged", 64, 1, 4096, 28, 4, 128, causal=True, page_block_size=16
)  # fmt: skip
Launches = tuple[KernelLaunch, ...]


def launched(row: dict) -> list[tuple[str, list[int], list[int]]]:
    """What upstream launched; four waves where it asks for no number of them."""
    return [
        (one["kernel"], one["grid"], one.get("block") or [64 * (one["num_warps"] or 4), 1, 1])
        for one in row["expect"]["launches"]
    ]


def ours(answer: dict) -> list[tuple[str, list[int], list[int]]]:
    return [(one["kernel"], one["grid"], one["block"]) for one in answer["launches"]]


def answers(name: str) -> list[tuple[dict, dict]]:
    """(row, answer) through the command line, one a row."""
    done = attnprof("predict", "--calls", str(GOLDEN / name))
    assert done.code == 0, done.err
    return list(zip(golden_rows(name), map(json.loads, done.out.splitlines()), strict=True))


def told(launches: Launches) -> tuple[int | None, ...] | None:
    """Batch, heads, splits and head dim of the one explanation; None of none."""
    back = libraries.explain(Observed(*launches), FACTS)
    found = back.explanations if back else ()
    assert len(found) <= 1
    return next(((one.batch, one.heads, one.num_splits, one.head_dim.low) for one in found), None)


def test_rocm_attns_kernels_grids_and_refusals_are_upstreams() -> None:
    kernels: Counter[str] = Counter()
    for row, answer in answers("vllm_rocm_0.33.0.jsonl.gz"):
        assert (answer["error"], ours(answer)) == (row["expect"]["error"], launched(row)), row["call"]
        kernels.update(name for name, *_ in ours(answer))
    assert set(kernels) == {
        "_fwd_kernel", "_fwd_kernel_alibi", "kernel_paged_attention_2d",
        "paged_attention_ll4mi_QKV_mfma4_kernel", "paged_attention_ll4mi_QKV_mfma16_kernel",
        "paged_attention_ll4mi_reduce_kernel",
    }  # fmt: skip
    assert min(kernels.values()) > 15


def test_every_decode_of_upstreams_hip_kernels_is_read_back_and_each_spoilt_size_is_found() -> None:
    seen = 0
    for row in golden_rows("vllm_rocm_0.33.0.jsonl.gz"):
        call = row["call"]
        made = tuple(
            KernelLaunch(one["kernel"], tuple(one["grid"]), tuple(one["block"]))
            for one in row["expect"]["launches"]
            if "ll4mi" in one["kernel"]
        )
        if not made:
            continue
        seen += 1
        partitions = -(-max(call["seqlens_k"]) // 256)
        assert told(made) == (call["batch"], call["num_heads"], partitions, call["head_dim"])
        main, reduce = made
        batch, _, heads_k = main.grid
        spoilt = (
            (replace(main, grid=(batch + 1, partitions, heads_k)), reduce),
            (replace(main, grid=(batch, 513, heads_k)), reduce),
            (replace(main, block=(128, 1, 1)), reduce),
            (main, replace(reduce, grid=(call["num_heads"] * 17, batch, 1))),
            (main, replace(reduce, block=(96, 1, 1))),
        )
        assert [told(each) for each in spoilt] == [None] * 5
    assert seen > 50


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window": (1023, 0)}, "a sliding window"),
        ({"dtype": "fp32"}, "fp32 queries"),
        ({"head_dim": 96}, "a head dim of 96"),
        ({"page_block_size": 64}, "pages of 64"),
        ({"num_heads": 68}, "17 query heads per KV head"),
        ({"seqlen_k": 131_073}, "a request of 131073 keys"),
    ],
)
def test_triton_decodes_what_hips_kernels_do_not_take_and_says_why(change: dict, why: str) -> None:
    assert len(libraries.predict(STEP, MI300X).launches) == 2
    other = libraries.predict(replace(STEP, **change), MI300X)
    assert [one.kernel for one in other.launches] == ["kernel_paged_attention_2d"]
    assert why in next(reason.why for reason in other.reasons if reason.rule == "decode")


def test_a_prompt_is_not_split_though_decodes_kernels_run_too() -> None:
    mixed = replace(STEP, batch=2, seqlen_q=300, seqlens_q=(300, 1), seqlens_k=(300, 2000), seqlen_k=2000)
    prediction = libraries.predict(mixed, MI300X)
    assert (prediction.splits_of_requests, len(prediction.launches)) == ((1, 8), 3)
    done = attnprof("explain", "--engine", "vllm", "--gpu", "mi300x", "--batch", "4", "--seqlen-q", "600",
                    "--seqlen-k", "4096", "--model", "qwen2.5-7b")  # fmt: skip
    words = " ".join(done.out.split())
    assert "is not split: _fwd_kernel runs, then paged_attention_ll4mi_QKV_mfma16_kernel + paged_" in words
