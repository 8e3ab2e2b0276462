"""From vLLM's backend for latent attention to the call that reaches a library: decode absorbed.

Decode attends over the cache's latents as one KV head of head dim 576, or 64 beside ``q_v`` of 512; prompts
are in mla_prefill.py. Source: vllm/v1/attention/backends/mla of the wheels and
model_executor/layers/attention/mla_attention.py (``MLACommonMetadataBuilder``, ``QueryLenSupport``).
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm.calls import Rules, capture_note, graph_note, splits, vllm_call
from attnprof.dispatch.engines.vllm.conditions import quantized
from attnprof.dispatch.engines.vllm.mla_prefill import prompts_of, reach_prefill
from attnprof.dispatch.engines.vllm.sparse_calls import reach_sparse

_LATENT, _ROTATED = 512, 64
_ROW = _LATENT + _ROTATED
_THRESHOLD = {"FLASH_ATTN_MLA": 512, "FLASHMLA": 128}  # queries a request up to which prompts go with decode
_ONE_QUERY = ("CUTLASS_MLA",)  # whose drafts are prompts; the others take them for decode
_PAGES = {"FLASHINFER_MLA": (32, 64), "CUTLASS_MLA": (128,), "FLASHMLA": (64,)}


def reach_mla(backend: str, layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """What a backend for MLA calls for a step."""
    if layer.sparse:
        return reach_sparse(backend, layer, step, sm, rules)
    most = 1 if (rules.chain and backend == "FLASHMLA") else _THRESHOLD.get(backend, 1)
    drafted = step.drafts and backend not in _ONE_QUERY
    if step.seqlen_q > most and not drafted:
        prompts, told = prompts_of(step, most)
        return reach_prefill(layer, prompts, sm, rules, *told)
    if backend == "TRITON_MLA":
        return reach_triton_mla(layer, step, rules)
    if backend == "FLASH_ATTN_MLA":
        return _flash_attention(layer, step, rules)
    if backend == "CUTLASS_MLA":
        return _cutlass(layer, step, rules)
    if backend == "FLASHINFER_MLA":
        return _flashinfer(layer, step, rules)
    if backend == "TOKENSPEED_MLA":
        return _tokenspeed(layer, step, rules)
    if backend == "FLASHMLA":
        return _flash_mla(layer, step, rules)
    return Reached((graph_note(step),), why_not=f"the launches of vLLM's {backend} are not modelled")


def _flash_mla(layer: Layer, step: Step, rules: Rules) -> Reached:
    """FlashMLA's dense decode; over an FP8 cache that of vLLM's own extension."""
    notes = (_absorbed("FlashMLA's dense decode"), graph_note(step))
    if not rules.flash_mla:
        return Reached(notes, why_not=f"the FlashMLA that vLLM {rules.version} ships was not recorded")
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer.kv_dtype) else {}
    call = vllm_call(
        "flash_mla", "fwd_kvcache", layer, step, num_heads_k=1, head_dim=_ROW, head_dim_v=_LATENT,
        page_block_size=64, **dtype,
    )  # fmt: skip
    return Reached(notes, call, rules.flash_mla)


def _tokenspeed(layer: Layer, step: Step, rules: Rules) -> Reached:
    """TOKENSPEED_MLA's decode, whose splits follow from the longest request of the batch."""
    notes = (_absorbed("TokenSpeed's CuTe kernel"), *capture_note(step), graph_note(step))
    if rules.version != "0.33.0":
        return Reached(notes, why_not=f"what TOKENSPEED_MLA of vLLM {rules.version} calls is not modelled")
    page = layer.block_size if layer.block_size in (32, 64) else 32
    call = vllm_call(
        "tokenspeed_mla", "fwd_kvcache", layer, step, num_heads_k=1, head_dim=_ROW, head_dim_v=_LATENT,
        dtype="fp8", page_block_size=page,
    )  # fmt: skip
    return Reached(notes, call)


def _absorbed(kernel: str) -> Note:
    return Note("decode kernel", kernel, "queries are absorbed: every head reads the cache's rows of 576")


def reach_triton_mla(layer: Layer, step: Step, rules: Rules) -> Reached:
    """TRITON_MLA's decode."""
    call = vllm_call(
        "vllm_triton", "batch_mla", layer, step, num_heads_k=1, head_dim=_ROW, head_dim_v=_LATENT,
        disable_split_kv=layer.batch_invariant,
    )  # fmt: skip
    return Reached(
        (_absorbed("Triton, two stages"), *capture_note(step), graph_note(step)), call, rules.triton
    )


def _flash_attention(layer: Layer, step: Step, rules: Rules) -> Reached:
    asked, why = splits(layer, step, 3, rules)
    notes = (
        _absorbed("FlashAttention 3"),
        Note("queries", f"{_ROTATED} and {_LATENT}", "the rotated part against K, q_v against V"),
        Note("num_splits passed", str(asked), why),
        Note("scheduler metadata", "passed", "get_scheduler_metadata plans a step once, for all its layers"),
        graph_note(step),
    )
    call = vllm_call(
        "vllm_flash_attn", "varlen_fwd", layer, step, asked, num_heads_k=1, head_dim=_ROTATED,
        head_dim_v=_LATENT, has_qv=True, scheduler_metadata=True,
    )  # fmt: skip
    return Reached(notes, call, f"fa3{rules.wheel}")


def _cutlass(layer: Layer, step: Step, rules: Rules) -> Reached:
    wide = Note("page table", "of max_model_len", "splits follow its width: --seqlen-k stands for it here")
    notes = (_absorbed("CUTLASS's MLA"), wide, graph_note(step))
    if rules.cutlass == "":
        return Reached(notes, why_not=f"the CUTLASS MLA that vLLM {rules.version} ships was not recorded")
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer.kv_dtype) else {}
    call = vllm_call(
        "cutlass_mla", "fwd_kvcache", layer, step, num_heads_k=1, head_dim=_ROW, head_dim_v=_LATENT,
        page_block_size=_PAGES["CUTLASS_MLA"][0], cache_seqlens=True, **dtype,
    )  # fmt: skip
    return Reached(notes, call, rules.cutlass)


def tiles_heads(num_heads: int) -> bool:
    """Whether TensorRT-LLM's MLA decode takes so many query heads. Source: flashinfer_mla.py."""
    tile = 8 if num_heads <= 8 else 16 if num_heads <= 32 else 64
    return num_heads % min(num_heads, tile) == 0


def _flashinfer(layer: Layer, step: Step, rules: Rules) -> Reached:
    if rules.version == "0.33.0" and not tiles_heads(layer.num_heads):
        why = f"{layer.num_heads} heads are no whole tiles of TensorRT-LLM's kernels"
        notes = (Note("decode kernel", "cute-dsl", why), graph_note(step))
        return Reached(notes, why_not="FlashInfer's CuTe-DSL MLA decode is not modelled")
    first = "FlashInfer's auto takes it"
    first += ", but where its autotuner timed cute-dsl as faster" if rules.version == "0.33.0" else ""
    notes = (Note("decode kernel", "trtllm-gen", first), graph_note(step))
    page = layer.block_size if layer.block_size in _PAGES["FLASHINFER_MLA"] else 32
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer.kv_dtype) else {}
    call = vllm_call(
        "flashinfer", "batch_mla", layer, step, num_heads_k=1, head_dim=_ROW, head_dim_v=_LATENT,
        backend="trtllm-gen", page_block_size=page, **dtype,
    )  # fmt: skip
    return Reached(notes, call, rules.flashinfer_package)
