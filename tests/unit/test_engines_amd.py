"""Engines on AMD's Instinct GPUs, from their choice to the launches of AITER's kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from tests.unit.test_engines import DEEPSEEK, QWEN, made, note

GPT_OSS = Layer(64, 8, 64, sinks=True)


@pytest.mark.parametrize(("engine", "page"), [("vllm", 64), ("sglang", 1)])
@pytest.mark.parametrize("gpu", ["mi300x", "mi355x"])
def test_models_with_sinks_are_attended_by_aiters_unified_attention(engine: str, page: int, gpu: str) -> None:
    decode, prompt = made(engine, gpu, GPT_OSS), made(engine, gpu, GPT_OSS, Step(4, 600, 600))
    slides = made(engine, gpu, replace(GPT_OSS, window=128))
    assert {each.library_version for each in (decode, prompt, slides)} == {"0.1.20.post1"}
    assert note(decode, "AITER") == "0.1.20.post1"
    names = [parse_kernel_name(one.kernel).kernel for one in decode.prediction.launches]
    assert names == ["kernel_unified_attention_3d", "reduce_segments"]
    assert f"_BLOCK_SIZE_{page}_" in decode.prediction.launches[0].kernel
    for each in (prompt, slides):
        assert [one.kernel for one in each.prediction.launches] == ["kernel_unified_attention_2d"]


def test_vllms_unified_attention_by_aiter_leaves_encoders_to_other_kernels() -> None:
    asked = replace(QWEN, backend="ROCM_AITER_UNIFIED_ATTN")
    calls = {kind: made("vllm", "mi300x", replace(asked, attn_type=kind)).call for kind in (
        "decoder", "encoder_only", "encoder_decoder")}  # fmt: skip
    assert {kind: (call.library, call.causal) for kind, call in calls.items()} == {
        "decoder": ("aiter_paged", True), "encoder_only": ("vllm_rocm", False),
        "encoder_decoder": ("vllm_triton", False),
    }  # fmt: skip
    assert made("vllm", "mi300x", replace(asked, kv_dtype="fp8")).call.dtype == "fp8"


SHARD = Layer(16, 16, 576, mla=True)  # of DeepSeek V3 on 8 GPUs


def launched(found: Any) -> list[tuple[str, tuple[int, int, int]]]:
    """Kernels without their templates, and grids."""
    return [(parse_kernel_name(one.kernel).kernel, one.grid) for one in found.prediction.launches]


def test_vllm_gives_aiters_mla_decode_a_plan_of_all_requests_that_the_server_admits() -> None:
    asked = replace(SHARD, aiter=True)
    found = made("vllm", "mi300x", asked, Step(64, 1, 8192))
    assert launched(found) == [
        ("mla_a16w16_qh16_m16x4_n16x1_coex0_mask1_ps", (304, 1, 1)), ("kn_mla_reduce_v1_ps", (4864, 1, 1)),
    ]  # fmt: skip
    assert (found.call.plan_batch, note(found, "plan")) == (1024, "for 1,024 requests")
    fp8 = made("vllm", "mi300x", replace(asked, kv_dtype="fp8"), Step(64, 1, 8192))
    assert launched(fp8)[0][0] == "mla_a8w8_qh16_qseqlen1_gqaratio16_ps"
    few, many = (made("vllm", "mi355x", asked, Step(n, 1, 8192)) for n in (31, 32))
    assert [launched(each)[0][0] for each in (few, many)] == [
        "mla_a16w16_qh64_qseqlen1_gqaratio64_v3_ps", "mla_dec_stage1_bf16_a16w16_subQ16_mqa16",
    ]  # fmt: skip
    assert launched(many)[1] == ("_fwd_kernel_stage2_asm", (32, 16, 1))
    padded = made("vllm", "mi300x", replace(asked, num_heads=12, num_heads_k=12), Step(4, 1, 8192))
    assert (padded.call.num_heads, note(padded, "heads")) == (16, "16")
    small = made("vllm", "mi355x", replace(asked, num_heads=8, num_heads_k=8), Step(4, 1, 8192))
    assert "Gluon kernel" in small.not_predicted


@pytest.mark.parametrize(
    ("gpu", "fresh", "rest"),
    [
        ("mi300x", "fmha_fwd_hd192x128_bf16_causal_rtna_group", "fmha_fwd_hd192x128_bf16_causal_rtna_group"),
        ("mi355x", "gqa_d192_v128_kernel", "fmha_fwd_hd192_hd128_bf16_causal_group"),
    ],
)
def test_mlas_prompts_on_amd_gpus_are_aiters_packed_batches(gpu: str, fresh: str, rest: str) -> None:
    """On a gfx950 OPUS takes those whose log-sum-exp nobody needs."""
    asked = replace(SHARD, aiter=True)
    new = made("vllm", gpu, asked, Step(2, 600, 600))
    cached = made("vllm", gpu, asked, Step(2, 600, 70_000))
    assert (launched(new)[0][0], new.more) == (fresh, ())
    assert launched(cached)[0][0] == rest
    assert [one.call.seqlen_k for one in cached.more] == [65_536, 61_672, 7_728]
    assert all("causal" not in one.prediction.launches[0].kernel for one in cached.more)
    whole, chunked = (made("sglang", gpu, SHARD, Step(2, 600, keys)) for keys in (7000, 90_000))
    assert (launched(whole)[0][0], whole.call.seqlen_k, whole.more) == (fresh, 7000, ())
    assert (launched(chunked)[0][0], chunked.call.seqlen_k) == (rest, 600)
    assert [one.call.seqlen_k for one in chunked.more] == [65_536, 23_864]
    plain = made("vllm", gpu, SHARD, Step(2, 600, 600))
    assert "without VLLM_ROCM_USE_AITER" in plain.not_predicted


def test_sglangs_mla_decode_by_aiter_searches_the_split_count() -> None:
    found = made("sglang", "mi300x", SHARD, Step(64, 1, 8192))
    assert launched(found) == [
        ("mla_dec_stage1_bf16_a16w16_subQ16_mqa16", (1, 64, 9)), ("_fwd_kernel_stage2_asm", (64, 16, 1)),
    ]  # fmt: skip
    whole = made("sglang", "mi300x", DEEPSEEK, Step(64, 1, 8192))
    assert launched(whole)[0][0] == "mla_dec_stage1_bf16_a16w16_subQ128_mqa128"


def test_vllms_prompts_with_cached_keys_by_aiter_are_attended_in_chunks() -> None:
    asked = replace(QWEN, backend="ROCM_AITER_FA", aiter=True)
    found = made("vllm", "mi300x", asked, Step(4, 600, 40_000))
    assert (found.call.seqlen_k, found.call.causal) == (600, True)
    assert [one.call.seqlen_k for one in found.more] == [8192] * 4 + [6632]
    assert not any(one.call.causal for one in found.more)
    ragged = Step(3, 600, 9000, seqlens_q=(600, 5, 70), seqlens_k=(600, 9000, 100))
    mixed = made("vllm", "mi300x", asked, ragged)
    calls = [mixed.call, *(one.call for one in mixed.more)]
    assert [(call.batch, call.seqlen_q, call.seqlen_k) for call in calls] == [
        (1, 600, 600), (2, 70, 70), (2, 70, 8995),
    ]  # fmt: skip
    both = made("vllm", "mi300x", asked, Step(2, 600, 900, seqlens_q=(600, 1), seqlens_k=(600, 900)))
    assert "of two libraries" in both.not_predicted
    sinks = made("vllm", "mi300x", replace(asked, sinks=True))
    assert launched(sinks)[0][0] == "kernel_unified_attention_3d"
