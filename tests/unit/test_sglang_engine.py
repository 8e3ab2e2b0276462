"""SGLang's backends from a layer and a step to calls: prompts, drafts, windows, deterministic servers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from attnprof.analysis.engines import EngineQuestion, explain_engine, sweep_engine
from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.outcome import outcome
from attnprof.dispatch.libraries import predict
from attnprof.gpus import gpu_by_name
from tests.support.command import attnprof

QWEN, MHA = Layer(28, 4, 128), Layer(32, 32, 128)
LATENT = Layer(128, 128, 576, mla=True)
DEEPSEEK, SPARSE = replace(LATENT, deepseek=True), replace(LATENT, sparse=True, index_topk=2048)
DECODE, PROMPT, LATER = Step(16, 1, 4096), Step(4, 512, 512), Step(2, 512, 20_000)
DRAFTS = Step(16, 4, 4096, drafts=True)


def made(gpu: str, layer: Layer = QWEN, step: Step = DECODE) -> Any:
    return outcome("sglang", None, layer, step, gpu_by_name(gpu))


def called(found: Any) -> tuple[str, str, str]:
    return found.choice.backend, found.call.library, found.call.entry


def note(found: Any, rule: str) -> str:
    return str(next((each.value for each in found.notes if each.rule == rule), ""))


def kernels(found: Any) -> str:
    return " ".join(each.kernel for each in found.prediction.launches)


def test_decode_by_fa3_is_planned_once_a_step_but_where_a_layer_has_a_window() -> None:
    assert "prepare_varlen" not in kernels(made("h100"))
    assert note(made("h100"), "scheduler metadata") == "passed"
    windowed = made("h100", replace(QWEN, window=1024))
    assert "prepare_varlen" in kernels(windowed)
    assert windowed.call.window == (1023, 0)
    assert "prepare_varlen" in kernels(made("h100", step=PROMPT))
    assert "prepare_varlen" in kernels(made("h100", LATENT))  # MLA makes no plan


@pytest.mark.parametrize(
    ("gpu", "layer", "step", "backend", "entry", "head_dim", "heads_k", "seqlen_k"),
    [
        ("h100", LATENT, PROMPT, "fa3", "varlen_fwd", 192, 128, 512),
        ("h100", LATENT, LATER, "fa3", "varlen_fwd", 192, 128, 20_000),
        ("h100", LATENT, Step(2, 512, 4000), "fa3", "fwd_kvcache", 64, 1, 4000),
        ("h100", LATENT, replace(PROMPT, cuda_graph=True), "fa3", "fwd_kvcache", 64, 1, 512),
        ("h100", replace(LATENT, batch_invariant=True), PROMPT, "fa3", "fwd_kvcache", 64, 1, 512),
        ("a100", LATENT, PROMPT, "triton", "batch_paged", 192, 128, 512),
        ("a100", LATENT, LATER, "triton", "batch_paged", 576, 1, 20_000),
        ("b200", LATENT, Step(2, 512, 4000), "flashinfer", "batch_mla", 576, 1, 4000),
        ("b200", DEEPSEEK, replace(PROMPT, cuda_graph=True), "trtllm_mla", "batch_mla", 576, 1, 512),
        ("h100", SPARSE, DECODE, "dsa", "fwd_kvcache", 64, 1, 2048),
        ("h100", SPARSE, PROMPT, "dsa", "varlen_fwd", 192, 128, 512),
        ("b200", SPARSE, DECODE, "dsa", "batch_mla", 576, 1, 4096),
        ("b200", SPARSE, PROMPT, "dsa", "varlen_fwd", 192, 128, 512),
        ("b200", DEEPSEEK, PROMPT, "trtllm_mla", "varlen_fwd", 192, 128, 512),
    ],
)
def test_latents_are_attended_as_they_are_or_by_head(
    gpu: str, layer: Layer, step: Step, backend: str, entry: str, head_dim: int, heads_k: int, seqlen_k: int
) -> None:
    found = made(gpu, layer, step)
    assert (found.choice.backend, found.call.entry) == (backend, entry)
    assert (found.call.head_dim, found.call.num_heads_k, found.call.seqlen_k) == (head_dim, heads_k, seqlen_k)
    assert found.prediction.launches
    assert found.more == ()


def test_cached_keys_of_a_long_prompt_are_attended_in_chunks() -> None:
    step = Step(2, 600, 200_600, seqlens_q=(600, 100), seqlens_k=(200_600, 30_100))
    found = made("h100", LATENT, step)
    assert note(found, "forward method") == "MHA_CHUNKED_KV"
    assert (found.call.seqlens_k, found.call.causal) == ((600, 100), True)
    lengths = [each.call.seqlens_k for each in found.more]
    assert lengths == [(65_536, 30_000), (65_536, 0), (65_536, 0), (3392, 0)]
    assert not any(each.call.causal for each in found.more)
    for each in found.more:
        assert each.prediction == predict(each.call, found.gpu, found.library_version)


def test_flashinfer_attends_new_keys_unpaged_and_cached_ones_in_a_further_call() -> None:
    fresh, later = made("a100", step=PROMPT), made("a100", step=LATER)
    assert called(fresh) == called(later) == ("flashinfer", "flashinfer", "batch_ragged")
    assert fresh.more == ()
    (paged,) = later.more
    assert (paged.call.entry, paged.call.seqlen_k, paged.call.causal) == ("batch_paged", 19_488, False)
    assert "Ragged" in kernels(later)
    assert "Paged" in paged.prediction.launches[0].kernel
    plain = predict(replace(fresh.call, entry="batch_paged", page_block_size=1), fresh.gpu)
    assert [each.grid for each in plain.launches] == [each.grid for each in fresh.prediction.launches]
    fixed = made("5090", replace(QWEN, batch_invariant=True), LATER)
    assert (fixed.call.entry, fixed.call.fixed_split_size, fixed.more) == ("batch_paged", 4096, ())


def test_flashinfers_windows_are_planned_over_the_keys_in_sight() -> None:
    windowed = replace(MHA, window=1024)
    assert made("a100", windowed).call.seqlen_k == 1024
    assert made("a100", windowed, LATER).more[0].call.seqlen_k == 1023
    assert made("h100", replace(QWEN, backend="flashinfer")).call.backend == "fa2"


def test_deterministic_servers_fix_the_size_of_a_split() -> None:
    fixed = replace(QWEN, batch_invariant=True)
    decode = made("5090", fixed)
    assert (decode.choice.backend, decode.call.fixed_split_size) == ("flashinfer", 2048)
    assert made("5090", fixed, replace(DECODE, cuda_graph=True)).call.disable_split_kv
    triton = made("a100", replace(fixed, backend="triton"))
    assert (triton.call.fixed_split_size, triton.num_splits) == (256, 16)
    assert "_fwd_kernel_unified" in kernels(made("a100", replace(fixed, backend="triton"), PROMPT))
    ampere = made("a100", fixed)
    assert (*called(ampere), ampere.num_splits) == ("fa3", "flash_attn_3", "fwd_kvcache", 1)
    assert "FlashAttnFwdSm80" in kernels(ampere)


@pytest.mark.parametrize(
    ("gpu", "layer", "why"),
    [
        ("a100", replace(LATENT, batch_invariant=True), "9.0 for MLA"),
        ("b200", replace(DEEPSEEK, batch_invariant=True), "not trtllm_mla"),
        ("h100", replace(SPARSE, batch_invariant=True), "models with an indexer"),
        ("b200", replace(QWEN, backend="flashmla"), "attends over latents"),
        ("h100", replace(LATENT, backend="trtllm_mla"), "for Blackwell"),
        ("b200", replace(LATENT, backend="trtllm_mha"), "trtllm_mha has no MLA"),
        ("h100", replace(LATENT, backend="cutedsl_mla"), "for SM 10.x"),
        ("l40s", replace(QWEN, backend="trtllm_mha"), "for Hopper"),
        ("t4", replace(QWEN, backend="fa3"), "needs SM 8.x or 9.0"),
        ("h100", replace(SPARSE, kv_dtype="fp8_e5m2"), "dsa has no KV cache in fp8_e5m2"),
        ("h100", Layer(64, 8, 64, sinks=True, backend="flashinfer"), "gpt-oss takes"),
        ("b200", Layer(64, 8, 64, sinks=True, batch_invariant=True), "not trtllm_mha"),
    ],
)
def test_servers_that_do_not_start_are_told(gpu: str, layer: Layer, why: str) -> None:
    found = made(gpu, layer)
    assert found.call is None
    assert found.not_predicted.startswith("SGLang ends with an error: ")
    assert why in found.not_predicted


def test_drafts_are_verified_by_the_call_that_each_backend_makes() -> None:
    assert called(made("h100", step=DRAFTS)) == ("fa3", "flash_attn_3", "fwd_kvcache")
    assert not made("h100", step=DRAFTS).call.scheduler_metadata
    assert made("h100", LATENT, DRAFTS).call.has_qv
    assert called(made("b200", step=DRAFTS)) == ("trtllm_mha", "flashinfer", "batch_decode")
    assert called(made("a100", step=DRAFTS)) == ("flashinfer", "flashinfer", "batch_paged")
    assert called(made("a100", LATENT, DRAFTS)) == ("triton", "sglang_triton", "batch_paged")
    for gpu, layer in (("h100", QWEN), ("h100", LATENT), ("a100", QWEN), ("a100", LATENT), ("b200", QWEN)):
        found = made(gpu, layer, DRAFTS)
        assert found.prediction.launches, (gpu, found.not_predicted)
        assert found.call.seqlen_q == 4


def test_drafts_are_asked_for_by_a_flag_of_vllm_too() -> None:
    step = ("--model", "qwen2.5-7b", "--gpu", "h100", "--batch", "16", "--seqlen-k", "4096")
    done = attnprof("explain", "--engine", "sglang", *step, "--draft-tokens", "4", "--format", "json")
    assert json.loads(done.out)["step"]["drafts"] is True
    vllm = attnprof("explain", "--engine", "vllm", *step, "--draft-tokens", "4")
    assert "seqlen_q 4, seqlen_k 4096, 28/4 heads x 128, bf16, drafts" in " ".join(vllm.out.split())
    twice = attnprof("explain", "--engine", "sglang", *step, "--draft-tokens", "4", "--seqlen-q", "2")
    assert (twice.code, "two answers" in twice.err) == (2, True)


def test_further_calls_are_shown_in_every_format() -> None:
    asked = ("explain", "--engine", "sglang", "--model", "llama-3-8b", "--gpu", "a100")
    asked = (*asked, "--batch", "2", "--seqlen-q", "512", "--seqlen-k", "20000", "--format")
    table, markdown, plain = (attnprof(*asked, each).out for each in ("table", "md", "json"))
    for text in (table, markdown):
        assert "Further calls of the layer in this step" in text
        assert "BatchPrefillWithPagedKVCacheKernel" in text
    (further,) = json.loads(plain)["further"]
    assert further["launches"][0]["kernel"].endswith("BatchPrefillWithPagedKVCacheKernel")
    answer = explain_engine("sglang", None, QWEN, LATER, gpu_by_name("a100"))
    assert [each.call.entry for each in answer.more if each] == ["batch_paged"]


def test_an_indexers_models_take_flash_mlas_sparse_kernels_of_the_wheel_that_sglang_asks_for() -> None:
    prompt = made("h100", SPARSE, LATER)
    assert called(prompt) == ("dsa", "flash_mla", "varlen_fwd")
    assert (prompt.library_version, prompt.call.num_heads) == ("sgl-flash-mla-1.0.0", 128)
    assert prompt.prediction.launches[0].grid == (2 * 1024, 1, 1)
    few = made("h100", replace(SPARSE, num_heads=16, kv_dtype="fp8_e4m3"))
    assert called(few) == ("dsa", "flash_mla", "fwd_kvcache")
    assert (note(few, "dsa_decode_backend"), note(few, "heads")) == ("flashmla_kv", "64")
    assert few.prediction.launches[0].kernel.startswith("legacy::smxx")
    dense = made("h100", replace(LATENT, backend="flashmla"))
    assert (dense.call.page_block_size, dense.library_version) == (64, "sgl-flash-mla-1.0.0")
    assert dense.prediction.launches
    assert note(made("b200", replace(SPARSE, kv_dtype="bf16")), "dsa_decode_backend") == "trtllm"
    assert note(made("b200", replace(SPARSE, kv_dtype="bf16"), LATER), "heads") == "128"


def test_each_query_of_an_indexers_prompt_is_a_request_to_tensorrt_llm() -> None:
    found = made("b200", SPARSE, LATER)
    assert (found.call.batch, found.call.seqlen_q, found.call.index_topk) == (1024, 1, 2048)
    assert (found.call.dtype, found.call.page_block_size) == ("fp8", 64)
    assert found.prediction.launches
    chunked = made("b200", DEEPSEEK, LATER)
    assert [each.call.seqlen_k for each in chunked.more] == [19_488]
    assert all(each.prediction.launches for each in chunked.more)


def test_sglangs_own_flash_attention_4_is_not_guessed() -> None:
    uneven = made("b200", replace(QWEN, v_head_dim=64))
    assert (uneven.choice.backend, uneven.call, note(uneven, "page size")) == ("fa4", None, "128")
    assert "none that was recorded" in uneven.not_predicted
    assert "none that was recorded" in made("b200", replace(LATENT, backend="fa4"), PROMPT).not_predicted


def test_a_sweep_shows_where_prompts_of_mla_are_attended_otherwise() -> None:
    question = EngineQuestion("sglang", None, LATENT, Step(4, 512, 0), gpu_by_name("h100"))
    found = [
        (each.low, each.high, each.runs.partition(",")[0])
        for each in sweep_engine([question], "seqlen_k", range(512, 40_513, 512))
    ]
    assert found == [
        (512, 512, "MHA_ONE_SHOT"), (1024, 2048, "MLA"), (2560, 32_768, "MHA_ONE_SHOT"),
        (33_280, 33_280, "MHA_CHUNKED_KV"), (33_792, 40_448, "MHA_CHUNKED_KV"),  # a chunk, then two
    ]  # fmt: skip
