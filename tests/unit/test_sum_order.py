"""A sweep sees every change that reorders a sum: split count, kernel, tile and combine."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from attnprof.analysis.invariance import invariance
from attnprof.analysis.sum_order import sum_order
from attnprof.analysis.sweep import ALONG, Along, Setting, stretches, sweep
from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.command import attnprof

H100, RTX4090 = gpu_by_name("h100"), gpu_by_name("4090")
CALL = AttentionCall("flash_attn", "fwd", 2, 1, 600, 8, 2, 128, causal=True)


@pytest.mark.parametrize("along", ALONG)
@pytest.mark.parametrize(
    ("call", "version"),
    [
        (CALL, "2.8.3"),
        (replace(CALL, window=(300, 0)), "2.8.3"),
        (replace(CALL, dropout_p=0.1, seqlen_q=3), "2.8.3"),
        (replace(CALL, entry="varlen_fwd", page_block_size=256, num_splits=1), "2.8.4"),
        (replace(CALL, entry="fwd_kvcache", seqlen_knew=1, cache_seqlens=True, num_heads_k=8), "2.6.3"),
        (replace(CALL, library="torch", num_heads_k=8), "2.13.0"),
    ],
)
def test_arrays_give_the_kernels_and_tiles_of_one_prediction_per_call(
    along: Along, call: AttentionCall, version: str
) -> None:
    values = np.arange(1, 700 if along == "seqlen_k" else 70)
    found = sweep([Setting(call, RTX4090, version)], along, values)
    for value, count, order in zip(values.tolist(), found.num_splits[0], found.order[0], strict=True):
        one = predict(replace(call, **{along: value}), RTX4090, version)  # type: ignore[arg-type]
        assert (one.num_splits or 0) == count
        assert found.orders[order] == sum_order(one.launches), value


def test_vllms_tile_changes_between_9_and_10_queries() -> None:
    """As reported to vLLM (#51902): 7 query heads per KV head, 64 rows of one multiplying group."""
    call = AttentionCall(
        "vllm_flash_attn", "varlen_fwd", 1, 1, 4096, 28, 4, 128, causal=True, page_block_size=16
    )
    found = list(stretches(sweep([Setting(call, H100, "fa3")], "seqlen_q", range(1, 19))))
    assert [(one.low, one.high, one.num_splits) for one in found] == [(1, 9, 28), (10, 18, 28)]
    assert [one.tile.partition(",")[0] for one in found] == ["64 x 128", "128 x 128"]
    flags = ("--library", "vllm_flash_attn", "--version", "fa3", "--entry", "varlen_fwd", "--gpu", "h100")
    told = attnprof("sweep", *flags, "--page-block-size", "16", "--seqlen-k", "4096", "--seqlen-q", "1:18")
    assert "1–9" in told.out
    assert "128 x 128" in told.out


def test_invariance_judges_kernels_and_tiles_besides_split_counts() -> None:
    """One split as flash_fwd_kernel and one as the split kernel add up differently."""
    settings = [Setting(replace(CALL, batch=batch), H100, "2.8.3") for batch in (1, 2, 64)]
    whole = sweep(settings, "seqlen_k", range(1, 129))
    assert [each.num_differing for each in invariance(whole)] == [0]
    other = replace(
        whole, run_order=whole.run_order + np.array([[0], [0], [1]], np.int16), orders=whole.orders * 2
    )
    (judged,) = invariance(other)
    assert judged.num_differing == 1
    assert (judged.constant.low, judged.constant.high) == (1, 2)


def test_a_change_of_tile_alone_ends_a_stretch() -> None:
    causal = replace(CALL, num_heads=64, num_heads_k=64, batch=64, seqlen_k=64)
    found = list(stretches(sweep([Setting(causal, RTX4090, "2.8.3")], "seqlen_q", range(1, 4))))
    assert all(one.num_splits == 1 for one in found)
    assert [(one.low, one.tile) for one in found][:2] == [(1, "128 x 32"), (2, "64 x 64")]
    assert all(first.setting is after.setting for first, after in pairwise(found))


VLLM = ("--library", "vllm_flash_attn", "--version", "fa3", "--entry", "varlen_fwd", "--gpu", "h100")


def test_invariance_over_queries_finds_the_tile_of_vllms_report() -> None:
    """#51902 again: one split throughout, but from 10 queries on another tile."""
    asked = ("sweep", *VLLM, "--page-block-size", "16", "--seqlen-k", "4096", "--invariance")
    (found,) = json.loads(attnprof(*asked, "--seqlen-q", "1:18", "--format", "json").out)
    assert found["compared"] == "seqlen_q"
    assert [part["seqlen_q"] for part in found["differing"]] == [[10, 18]]
    words = " ".join(attnprof(*asked, "--seqlen-q", "1:18").out.split())
    assert "9 of 18 numbers of queries differ from seqlen_q 1 at 4096 keys" in words
    words = " ".join(attnprof(*asked, "--seqlen-q", "1:9").out.split())
    assert "seqlen_q 1–9 all have the same split count, kernels and tiles at 4096 keys" in words
    both = json.loads(attnprof(*asked, "--seqlen-q", "9:10", "--batch", "1:2", "--format", "json").out)
    assert [one["compared"] for one in both] == ["batch", "batch", "seqlen_q", "seqlen_q"]


@pytest.mark.parametrize(
    ("flags", "said", "never"),
    [
        (("--batch", "1:4"), "batch 1–4 all have the same", "given"),
        (("--batch", "1:9:4"), "the 3 batch sizes given, 1–9, all have the same", "batch 1–9"),
        (("--batch", "1:4", "--head-dim", "300"), "the library refuses: FlashAttention forward", "the same"),
        (
            ("--batch", "1:2", "--library", "flash_attn_4", "--gpu", "b200"),
            "not tell their tiles",
            "order of",
        ),
    ],
)
def test_invariance_claims_what_was_compared_and_no_more(
    flags: tuple[str, ...], said: str, never: str
) -> None:
    words = " ".join(attnprof("sweep", "--seqlen-k", "1:64", "--invariance", *flags).out.split())
    assert said.lower() in words.lower()
    assert never not in words
