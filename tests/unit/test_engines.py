"""From an engine to the grid: what explain, sweep and predict say with --engine, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.outcome import ENGINES, outcome
from attnprof.dispatch.engines.vllm.old_mla import context_chunks
from attnprof.dispatch.libraries import predict
from attnprof.dispatch.vllm_rocm.paged import MFMA16, REDUCE
from attnprof.gpus import gpu_by_name
from tests.support.command import attnprof

QWEN = Layer(28, 4, 128)
DECODE = Step(64, 1, 4096)
DEEPSEEK = Layer(128, 128, 576, mla=True)
SPARSE = Layer(128, 128, 576, mla=True, sparse=True, index_topk=2048)
MODEL = ("--engine", "vllm", "--model", "qwen2.5-7b", "--seqlen-k", "4096", "--batch", "64")


def made(engine: str, gpu: str, layer: Layer = QWEN, step: Step = DECODE, version: str | None = None) -> Any:
    return outcome(engine, version, layer, step, gpu_by_name(gpu))


def note(found: Any, rule: str) -> str:
    return str(next(each.value for each in found.notes if each.rule == rule))


def asked(*arguments: str) -> Any:
    """The JSON of ``explain`` for Qwen2.5-7B in vLLM."""
    done = attnprof("explain", *MODEL, *arguments, "--format", "json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def test_vllm_on_blackwell_takes_flashinfer_and_tensorrt_llms_kernels() -> None:
    found = asked("--gpu", "b200")
    assert (found["backend"], found["engine_version"]) == ("FLASHINFER", "0.33.0")
    assert {"rule": "decode kernel", "value": "trtllm-gen"}.items() <= found["decisions"][0].items()
    assert [each["backend"] for each in found["backends"]][:2] == ["FLASH_ATTN", "TRITON_ATTN"]


def test_batch_invariant_mode_takes_flash_attention_2_on_blackwell_and_never_splits() -> None:
    found = asked("--gpu", "b200", "--batch-invariant")
    assert (found["backend"], found["library_version"], found["num_splits"]) == ("FLASH_ATTN", "fa2", 1)
    assert found["backends"][0] == {"backend": "FLASHINFER", "reasons": ["batch invariance not supported"]}
    hopper = asked("--gpu", "h100", "--batch-invariant")
    assert (hopper["library_version"], hopper["num_splits"]) == ("fa3", 1)


def test_a_cuda_graph_asks_flash_attention_3_for_32_splits() -> None:
    replayed, eager = asked("--gpu", "h100", "--cuda-graph"), asked("--gpu", "h100")
    assert (replayed["num_splits"], eager["num_splits"]) == (32, 28)
    assert (
        note(made("vllm", "h100", step=Step(64, 1, 4096, True), version="0.10.2"), "num_splits passed")
        == "16"
    )
    assert note(made("vllm", "a100", step=Step(64, 1, 4096, True)), "num_splits passed") == "0"


def test_the_prediction_is_the_librarys_for_the_call_that_is_made() -> None:
    found = made("vllm", "h100")
    assert found.prediction == predict(found.call, gpu_by_name("h100"), "fa3")
    assert (found.call.page_block_size, found.call.scheduler_metadata) == (16, True)
    old = made("vllm", "h100", version="0.20.0")
    assert old.library_version == "fa3-0.20.2"
    assert old.prediction == predict(old.call, gpu_by_name("h100"), "fa3-0.20.2")
    blackwell = made("vllm", "b200", Layer(28, 4, 128, backend="FLASH_ATTN"), version="0.20.0")
    assert blackwell.not_predicted == "the FlashAttention-4 that vLLM 0.20.0 ships was not recorded"


def test_vllm_0_20_on_blackwell_takes_kernels_of_the_flashinfer_that_it_requires() -> None:
    decode = made("vllm", "b200", version="0.20.2")
    prompt = made("vllm", "b200", step=Step(2, 900, 4096), version="0.20.2")
    latent = made("vllm", "b200", DEEPSEEK, version="0.20.2")
    for found, phase in ((decode, "SwapsAbForGen"), (prompt, "Context"), (latent, "ForGen")):
        assert found.library_version == "0.6.8.post1"
        assert found.prediction == predict(found.call, gpu_by_name("b200"), "0.6.8.post1")
        assert found.prediction.launches[0].kernel.endswith(phase)
    assert "DenseP32" in latent.prediction.launches[0].kernel  # the least page that its backend has
    native = made("vllm", "h100", replace(QWEN, backend="FLASHINFER"), version="0.20.2")
    assert native.call.backend == "fa2"


def test_flash_mla_and_cutlass_mla_of_vllm_0_20_are_those_its_wheel_ships() -> None:
    dense = made("vllm", "h100", replace(DEEPSEEK, kv_dtype="fp8"), version="0.20.2")
    assert (dense.choice.backend, dense.library_version) == ("FLASHMLA", "vllm-0.20.2")
    sparse = replace(SPARSE, num_heads=16)
    kernels = {}
    for kv_dtype, step in (("auto", DECODE), ("fp8_ds_mla", DECODE), ("fp8_ds_mla", Step(2, 300, 4096))):
        found = made("vllm", "h100", replace(sparse, kv_dtype=kv_dtype), step, "0.20.0")
        assert found.choice.backend == "FLASHMLA_SPARSE"
        kernels[kv_dtype, step.seqlen_q] = (found.call.entry, found.call.num_heads, found.call.batch)
    assert kernels == {
        ("auto", 1): ("varlen_fwd", 64, 64), ("fp8_ds_mla", 1): ("fwd_kvcache", 64, 1),
        ("fp8_ds_mla", 300): ("fwd_kvcache", 64, 1),
    }  # fmt: skip
    asked = replace(DEEPSEEK, backend="CUTLASS_MLA", block_size=128)
    assert made("vllm", "b200", asked, version="0.20.2").prediction == made("vllm", "b200", asked).prediction


def test_on_amd_gpus_vllm_0_20_takes_by_its_own_list_and_what_it_calls_is_known_of_triton() -> None:
    first = made("vllm", "mi300x", version="0.20.2")
    assert (first.choice.backend, first.prediction) == ("ROCM_ATTN", None)
    assert "what ROCM_ATTN of vLLM 0.20.2 calls on AMD GPUs is not modelled" in first.not_predicted
    sinks = made("vllm", "mi300x", replace(QWEN, sinks=True, aiter=True), version="0.20.2")
    assert sinks.choice.backend == "ROCM_AITER_UNIFIED_ATTN"  # AITER's flash attention has none yet
    triton = made("vllm", "mi300x", replace(QWEN, backend="TRITON_ATTN"), version="0.20.2")
    assert (triton.library_version, triton.call.library) == ("0.20.0", "vllm_triton")
    latent = made("vllm", "mi300x", DEEPSEEK, version="0.20.2")
    assert (latent.choice.backend, latent.call.entry) == ("TRITON_MLA", "batch_mla")
    assert "for prompts" in made("vllm", "mi300x", DEEPSEEK, Step(2, 9, 9), "0.20.2").not_predicted


def test_mlas_pages_of_vllm_0_10_are_set_by_itself_and_its_prompts_follow_the_flash_attention() -> None:
    taken = {
        gpu: made("vllm", gpu, DEEPSEEK, version="0.10.2").choice.backend for gpu in ("a100", "h100", "b200")
    }
    assert taken == {"a100": "TRITON_MLA", "h100": "FLASHMLA", "b200": "CUTLASS_MLA"}
    assert note(made("vllm", "h100", DEEPSEEK, version="0.10.2"), "pages") == "of 64"
    long = Step(2, 700, 700)
    hopper, ampere = (made("vllm", gpu, DEEPSEEK, long, "0.20.2") for gpu in ("h100", "a100"))
    assert (hopper.call.head_dim, hopper.call.head_dim_v, hopper.library_version) == (192, 128, "fa3-0.20.2")
    assert (ampere.call.head_dim, ampere.call.head_dim_v, ampere.library_version) == (192, 192, "fa2-0.20.2")
    assert "backend cutlass" in made("vllm", "b200", DEEPSEEK, long, "0.10.2").not_predicted


def test_cached_keys_before_0_33_are_shared_out_equally_among_the_requests_that_have_some() -> None:
    shared = context_chunks((100_000, 10, 0), 64, 65_536)
    assert shared == ((32_768, 10, 0), (32_768, 0, 0), (32_768, 0, 0), (1_696, 0, 0))
    step = Step(2, 600, 3000, seqlens_q=(600, 600), seqlens_k=(3000, 600))
    found = made("vllm", "h100", DEEPSEEK, step, "0.20.2")
    assert [(one.call.seqlens_k, one.call.causal) for one in found.more] == [((2400, 0), False)]
    assert (found.call.seqlens_k, found.call.causal) == ((600, 600), True)


def deepseek(gpu: str, *arguments: str) -> Any:
    """The JSON of ``explain`` for a decode step of DeepSeek-V3 in vLLM."""
    step = ("--engine", "vllm", "--model", "deepseek-v3", "--batch", "64", "--seqlen-k", "4096")
    done = attnprof("explain", *step, "--gpu", gpu, *arguments, "--format", "json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def test_deepseeks_decode_from_the_engine_to_the_grid() -> None:
    """A backend, a library and a split count of its own on each kind of GPU."""
    told = {gpu: deepseek(gpu) for gpu in ("b200", "h100", "a100")}
    assert {gpu: (each["backend"], each["library"], each["num_splits"]) for gpu, each in told.items()} == {
        "b200": ("FLASHINFER_MLA", "flashinfer", 1), "h100": ("FLASH_ATTN_MLA", "vllm_flash_attn", 55),
        "a100": ("TRITON_MLA", "vllm_triton", 8),
    }  # fmt: skip
    cutlass = deepseek("b200", "--attention-backend", "CUTLASS_MLA", "--block-size", "128", "--batch", "4")
    assert (cutlass["library"], cutlass["num_splits"]) == ("cutlass_mla", 8)
    assert deepseek("h100", "--cuda-graph")["num_splits"] == 32
    assert deepseek("a100", "--batch-invariant")["num_splits"] == 1


def test_heads_are_shared_out_over_the_gpus_of_tensor_parallelism() -> None:
    launches = made("vllm", "h100", Layer(16, 16, 576, mla=True)).prediction.launches
    told = deepseek("h100", "--tensor-parallel", "8")["explanation"]["launches"]
    assert [each["grid"] for each in told] == [list(each.grid) for each in launches]
    assert deepseek("h100", "--tensor-parallel", "8") != deepseek("h100")


def test_mlas_prompts_are_attended_by_head_and_few_queries_as_decode() -> None:
    short, long = made("vllm", "h100", DEEPSEEK, Step(2, 512, 4096)), Step(2, 513, 4096)
    assert (short.call.head_dim, short.call.head_dim_v, short.call.has_qv) == (64, 512, True)
    dims = {}
    for gpu in ("a100", "h100", "b200"):
        call = made("vllm", gpu, DEEPSEEK, long).call
        dims[gpu] = (call.library, call.head_dim, call.head_dim_v, call.num_heads_k, call.seqlen_k)
    assert dims == {
        "a100": ("vllm_flash_attn", 192, 192, 128, 513), "h100": ("vllm_flash_attn", 192, 128, 128, 513),
        "b200": ("flash_attn_4", 192, 128, 128, 513),
    }  # fmt: skip
    ragged = made("vllm", "b200", Layer(64, 64, 576, mla=True, qk_nope_head_dim=192, v_head_dim=256), long)
    assert [one.kernel.partition("HQk")[0] for one in ragged.prediction.launches] == [
        "fmhaSm100fKernel_QkvBfloat16OBfloat16H256SeparateQkvCausalVarSeqQ128Kv128PersistentContext"
    ]


def test_a_window_is_the_keys_to_the_left_of_a_query() -> None:
    assert made("vllm", "a100", Layer(28, 4, 128, window=1024)).call.window == (1023, 0)


def test_sglang_takes_a_backend_by_gpu_and_one_split_when_deterministic() -> None:
    taken = {gpu: made("sglang", gpu).choice.backend for gpu in ("h100", "b200", "a100", "mi300x")}
    assert note(made("sglang", "b200"), "page size") == "64"
    assert list(taken.values()) == ["fa3", "trtllm_mha", "flashinfer", "aiter"]
    fixed = made("sglang", "h100", Layer(28, 4, 128, batch_invariant=True))
    assert (fixed.num_splits, note(fixed, "num_splits passed")) == (1, "1")
    planned = made("sglang", "a100", step=Step(1, 1, 8192))
    assert (planned.call.library, planned.call.page_block_size) == ("flashinfer", 1)


def test_turboquants_prompts_are_flash_attentions_and_its_decode_is_its_own() -> None:
    packed = Layer(28, 4, 128, kv_dtype="turboquant_k8v4")
    decode, prompt = made("vllm", "h100", packed), made("vllm", "h100", packed, Step(8, 300, 300))
    assert [one.kernel for one in decode.prediction.launches] == ["_tq_decode_stage1", "_fwd_kernel_stage2"]
    assert (prompt.call.library, prompt.call.page_block_size) == ("vllm_flash_attn", None)
    assert prompt.library_version == "fa3"
    refused = made("vllm", "t4", replace(packed, dtype="fp16"), Step(8, 300, 300))
    assert refused.not_predicted == "vLLM ends with an error: FA2 has no kernels for SM 7.5"


@pytest.mark.parametrize(
    ("gpu", "backend", "causal"),
    [("h100", "TRITON_FLASH_ATTN", "FLASH_ATTN"), ("b200", "TRITON_FLASHINFER", "FLASHINFER")],
)
def test_a_step_without_images_takes_the_causal_backend_of_a_composite(
    gpu: str, backend: str, causal: str
) -> None:
    images = Layer(8, 4, 256, mm_prefix=True)
    found = made("vllm", gpu, images)
    plain = made("vllm", gpu, Layer(8, 4, 256, backend=causal, block_size=64 if gpu == "b200" else None))
    assert (found.choice.backend, found.notes[0].value) == (backend, causal)
    assert (found.call, found.prediction) == (plain.call, plain.prediction)
    assert found.prediction.launches


@pytest.mark.parametrize(
    ("backend", "gpu", "layer", "why"),
    [
        ("aiter", "mi300x", replace(DEEPSEEK, kv_dtype="fp8_e4m3"), "over an FP8 cache"),
        ("aiter", "mi300x", Layer(32, 32, 576, mla=True), "of 32 heads a plan"),
        ("aiter", "mi300x", replace(QWEN, sinks=True), None),
        ("aiter", "mi300x", Layer(8, 4, 256), None),
    ],
)
def test_sglangs_backends_that_are_not_predicted_say_why(
    backend: str, gpu: str, layer: Layer, why: str | None
) -> None:
    found = made("sglang", gpu, replace(layer, backend=backend))
    assert found.not_predicted == "" if why is None else why in found.not_predicted


def test_vllms_flex_attention_runs_one_kernel_over_all_queries() -> None:
    forced = replace(QWEN, backend="FLEX_ATTENTION")
    new, old = made("vllm", "l40s", forced), made("vllm", "l40s", forced, version="0.20.2")
    assert (new.library_version, new.prediction.launches[0].grid) == ("2.14.0", (4, 1, 28))
    encoder = made("vllm", "l40s", replace(forced, attn_type="encoder_only"), Step(8, 300, 300))
    assert encoder.prediction.launches[0].grid == (75, 1, 28)
    assert "the torch that vLLM 0.20.2 requires" in old.not_predicted


def test_what_is_not_modelled_is_said_in_one_sentence() -> None:
    packed = Layer(28, 4, 128, kv_dtype="turboquant_k8v4")
    for found in (
        made("sglang", "mi300x", replace(QWEN, window=128, kv_dtype="fp8_e4m3"), Step(8, 300, 300)),
        made("vllm", "h100", packed, Step(8, 300, 4096)),
        made("vllm", "5090", SPARSE),
    ):
        assert found.prediction is None
        assert found.not_predicted
        assert "\n" not in found.not_predicted


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gpu", ["b200", "h100", "h200", "a100", "l40s", "5090", "t4"])
@pytest.mark.parametrize("step", [DECODE, Step(4, 512, 512), Step(1, 1, 131072, True)])
def test_every_answer_has_launches_a_refusal_or_a_reason(engine: str, gpu: str, step: Step) -> None:
    found = made(engine, gpu, Layer(28, 4, 128, dtype="fp16"), step)
    assert found.choice.backend
    assert bool(found.prediction) != bool(found.not_predicted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--engine vllm --gpu mi300x --engine-version 0.10.2",
            "0.10.2's choice on AMD Instinct MI300X is not modelled",
        ),
        ("--engine vllm --gpu mi300x --kv-dtype nvfp4", "a nvfp4 KV cache on AMD Instinct MI300X"),
        ("--engine vllm --engine-version 0.12.0", "known are 0.33.0, 0.20.2, 0.20.1, 0.20.0, 0.10.2"),
        ("--engine sglang --engine-version 9", "was read and recorded for 0.5.23"),
        ("--engine other", "engine 'other' is not modelled"),
        ("--engine vllm --library flash_attn", "an engine decides that by itself"),
        ("--engine vllm --num-splits 4", "--num-splits and --engine"),
        ("--engine vllm --model nope", "no model 'nope'"),
        ("--engine vllm --model qwen2.5-7b --num-heads 8", "describe two layers"),
        ("--engine vllm --attention-backend XYZ", "backend XYZ is not modelled on SM 9.0"),
        ("--engine vllm --kv-dtype int3", "no KV cache of dtype 'int3'"),
        ("--engine vllm --engine-version 0.10.2 --batch-invariant", "has no batch-invariant mode"),
        ("--engine vllm --flash-attn-version 5", "none of 2, 3, 4"),
        ("--engine vllm --gpu t4", "vLLM refuses bf16 on Tesla T4"),
        ("--engine vllm --live-seqlen 5", "--engine describes a layer and a step"),
        (
            "--engine vllm --model deepseek-v3 --tensor-parallel 3",
            "128 heads cannot be shared out over 3 GPUs",
        ),
        ("--model deepseek-v3", "deepseek-v3 is known to engines alone"),
        ("--tensor-parallel 2", "--tensor-parallel is what an engine decides by"),
        ("--sinks", "--sinks is what an engine decides by"),
        ("--kv-dtype fp8", "--kv-dtype is what an engine decides by"),
    ],
)
def test_what_cannot_be_answered_is_a_usage_error(arguments: str, message: str) -> None:
    done = attnprof("explain", *arguments.split(), "--seqlen-k", "4096")
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def swept(*arguments: str) -> list[dict[str, str]]:
    """The rows of a sweep's CSV."""
    done = attnprof("sweep", "--engine", "vllm", *arguments, "--format", "csv")
    assert (done.code, done.err) == (0, "")
    return list(csv.DictReader(io.StringIO(done.out)))


def test_a_sweep_shows_where_the_backend_and_the_split_count_change() -> None:
    found = swept("--gpu", "b200", "--engine-version", "0.10.2", "--seqlen-k", "4096", "--batch", "1:512")
    kernels = [(int(row["batch_from"]), int(row["batch_to"]), row["kernels"]) for row in found]
    assert kernels == [(1, 256, "trtllm-gen"), (257, 512, "native")]
    newest = swept("--gpu", "b200", "--seqlen-k", "4096", "--batch", "1:64")
    assert [int(row["num_splits"]) for row in newest] == sorted(
        {int(row["num_splits"]) for row in newest}, reverse=True
    )
    assert len(newest) > 2


def test_a_sweep_over_keys_agrees_with_every_single_answer() -> None:
    counts = {}
    for row in swept("--gpu", "h100", "--seqlen-k", "500:1300", "--batch", "2"):
        span = range(int(row["seqlen_k_from"]), int(row["seqlen_k_to"]) + 1)
        counts |= dict.fromkeys(span, row["num_splits"])
    assert list(counts) == list(range(500, 1301))
    assert counts == {keys: str(made("vllm", "h100", step=Step(2, 1, keys)).num_splits) for keys in counts}
    assert len(set(counts.values())) > 3


def test_a_sweep_over_a_models_latents_shows_its_backends_splits() -> None:
    found = swept("--model", "deepseek-v3", "--gpu", "a100", "--seqlen-k", "1:65536", "--batch", "8")
    assert {row["backend"] for row in found} == {"TRITON_MLA"}
    assert [int(row["num_splits"]) for row in found] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [int(row["seqlen_k_from"]) for row in found][:4] == [1, 1024, 1536, 2560]


def test_predict_writes_the_engines_fields_beside_the_predictions() -> None:
    done = attnprof("predict", *MODEL, "--gpu", "h100", "--format", "json")
    row = json.loads(done.out)
    assert (row["engine"], row["backend"], row["library"], row["num_splits"]) == (
        "vllm", "FLASH_ATTN", "vllm_flash_attn", 28,
    )  # fmt: skip
    assert row["launches"][0]["grid"] == [132, 1, 1]


def test_tables_and_markdown_hold_the_same_answer() -> None:
    table = attnprof("explain", *MODEL, "--gpu", "h100").out
    assert "takes FLASH_ATTN, which runs FlashAttention 3" in " ".join(table.split())
    latent = ("--engine", "vllm", "--model", "deepseek-v3", "--gpu", "b200", "--seqlen-k", "4096")
    prompt = attnprof("explain", *latent, "--seqlen-q", "4096").out
    assert "takes FLASHINFER_MLA, whose prompts are attended by FlashAttention 4" in " ".join(prompt.split())
    assert "takes FLASHINFER_MLA, which runs trtllm-gen" in attnprof("explain", *latent).out
    assert table.index("Backends") < table.index("What the engine decides") < table.index("Launches")
    text = attnprof("explain", *MODEL, "--gpu", "h100", "--format", "md").out
    assert text.index("## Backends") < text.index("## What the engine decides") < text.index("## Launches")


def test_a_forced_backend_leaves_the_others_unasked() -> None:
    forced = attnprof("explain", *MODEL, "--gpu", "h100", "--attention-backend", "TRITON_ATTN").out
    assert "the user asks for another" in forced
    assert "one before it is valid" not in forced
    assert "one before it is valid" in attnprof("explain", *MODEL, "--gpu", "h100").out


def test_a_prefill_over_an_fp8_cache_runs_tensorrt_llms_kernels_on_blackwell() -> None:
    prefill = Step(2, 512, 512)
    kernels = {
        kv_dtype: note(made("vllm", "b200", Layer(28, 4, 128, kv_dtype=kv_dtype), prefill), "prefill kernel")
        for kv_dtype in ("auto", "fp8", "fp8_e5m2")
    }
    assert kernels == {"auto": "trtllm-gen", "fp8": "trtllm-gen", "fp8_e5m2": "native"}


def test_sglangs_latents_from_the_backend_to_the_library() -> None:
    """DeepSeek's own choice on Blackwell, FlashInfer's for other models there."""
    ours = Layer(128, 128, 576, mla=True, deepseek=True)
    found = {gpu: made("sglang", gpu, ours) for gpu in ("b200", "h100", "a100")}
    assert {gpu: (each.choice.backend, each.call.library) for gpu, each in found.items()} == {
        "b200": ("trtllm_mla", "flashinfer"), "h100": ("fa3", "flash_attn_3"),
        "a100": ("triton", "sglang_triton"),
    }  # fmt: skip
    assert all(each.prediction.launches for each in found.values())
    assert found["h100"].library_version == "sglang-kernel-0.4.10"
    assert made("sglang", "b200", DEEPSEEK).choice.backend == "flashinfer"


def test_vllm_on_amd_gpus_takes_a_backend_and_says_what_it_runs() -> None:
    found = {
        "ROCM_ATTN": made("vllm", "mi300x"),
        "TRITON_ATTN": made("vllm", "mi300x", Layer(28, 4, 512, mm_prefix=True)),
        "TRITON_MLA": made("vllm", "mi300x", DEEPSEEK),
        "ROCM_AITER_MLA": made("vllm", "mi300x", replace(DEEPSEEK, aiter=True)),
    }  # fmt: skip
    assert [each.choice.backend for each in found.values()] == list(found)
    assert [one.kernel for one in found["ROCM_ATTN"].prediction.launches] == [MFMA16, REDUCE]
    e5m2 = made("vllm", "mi300x", replace(QWEN, kv_dtype="fp8_e5m2"))
    assert e5m2.not_predicted == "vLLM ends with an error: Unsupported KV cache dtype: fp8_e5m2"
    encoder = made("vllm", "mi300x", replace(QWEN, attn_type="encoder_only"))
    assert encoder.call.entry == "varlen_fwd"
    for name in ("TRITON_ATTN", "TRITON_MLA"):
        launches = found[name].prediction.launches
        assert {launch.block for launch in launches} == {(256, 1, 1)}  # four wavefronts of 64
    told = attnprof(
        "explain", *MODEL, "--gpu", "mi300x", "--attention-backend", "TRITON_ATTN", "--format", "json"
    )
    assert json.loads(told.out)["library"] == "vllm_triton"


def test_drafts_are_decode_where_its_kernel_takes_several_queries() -> None:
    drafts = Step(16, 4, 5000, drafts=True)
    expected = {
        ("b200", "FLASHINFER"): ("batch_decode", "trtllm-gen"),
        ("h100", "FLASHINFER"): ("batch_decode", "xqa"),
        ("a100", "FLASHINFER"): ("batch_paged", "fa2"), ("a100", "TRITON_ATTN"): ("batch_paged", ""),
    }  # fmt: skip
    for (gpu, backend), (entry, kernel) in expected.items():
        found = made("vllm", gpu, replace(QWEN, backend=backend), drafts)
        assert (found.call.entry, found.call.backend, found.call.seqlen_q) == (entry, kernel, 4)
        assert found.prediction.launches
        assert found.call.uniform_q_len == (4 if backend == "TRITON_ATTN" else 0)
    old = made("vllm", "b200", replace(QWEN, backend="FLASHINFER"), drafts, "0.20.2")
    assert "vLLM 0.20.2 on B200 calls for the tokens of a draft" in old.not_predicted


@pytest.mark.parametrize(
    ("gpu", "backend", "library", "entry"),
    [
        ("b200", "FLASHINFER_MLA", "flashinfer", "batch_mla"),
        ("a100", "TRITON_MLA", "vllm_triton", "batch_mla"),
        ("h100", "FLASHMLA", "flash_mla", "fwd_kvcache"),
        ("b200", "CUTLASS_MLA", "flash_attn_4", "varlen_fwd"),  # whose decode has one query
    ],
)  # fmt: skip
def test_drafts_over_a_latent_cache(gpu: str, backend: str, library: str, entry: str) -> None:
    found = made("vllm", gpu, replace(DEEPSEEK, backend=backend), Step(8, 3, 5000, drafts=True))
    assert (found.call.library, found.call.entry, found.call.seqlen_q) == (library, entry, 3)
    assert found.prediction.launches
    assert bool(found.more) == (library == "flash_attn_4")


def test_an_nvfp4_cache_is_attended_by_kernels_of_its_own() -> None:
    layer = replace(QWEN, backend="FLASHINFER", kv_dtype="nvfp4")
    decode, prompt = made("vllm", "b200", layer), made("vllm", "b200", layer, Step(2, 700, 700))
    assert [(one.call.dtype, one.call.kv_dtype) for one in (decode, prompt)] == [("fp8", "nvfp4")] * 2
    names = [one.prediction.launches[0].kernel for one in (decode, prompt)]
    assert all(name.startswith("fmhaSm100aKernel_QE4m3KvE2m1OE4m3H128PagedKv") for name in names)
    assert "NVFP4 cache" in made("vllm", "a100", layer).not_predicted
