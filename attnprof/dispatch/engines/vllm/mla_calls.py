"""From vLLM's backend for latent attention to the call that reaches a library: decode absorbed, prefill not.

Decode attends over the cache's latents as one KV head of head dim 576, or 64 beside ``q_v`` of 512; prefill
makes keys and values of every head again. Source: vllm/v1/attention/backends/mla of the wheels, with
prefill/, model_executor/layers/attention/mla_attention.py and platforms/interface.py
get_mla_prefill_backend_cls. What each passes is read;
the prefill backend of 0.33 and its FlashAttention agree with the wheel (tests/data/golden, vllm_mla_prefill).
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm.calls import Rules, capture_note, graph_note, splits, vllm_call
from attnprof.dispatch.engines.vllm.conditions import quantized
from attnprof.dispatch.engines.vllm.flash_attention import Asked, Version, choose
from attnprof.dispatch.engines.vllm.sparse_calls import reach_sparse

_LATENT, _ROTATED = 512, 64
_ROW = _LATENT + _ROTATED
_THRESHOLD = {"FLASH_ATTN_MLA": 512, "FLASHMLA": 128}  # queries a request up to which prompts go with decode
_PAGES = {"FLASHINFER_MLA": (32, 64), "CUTLASS_MLA": (128,), "FLASHMLA": (64,)}
_AUTOMATIC_FA4 = -1
_NO_RAGGED = "TensorRT-LLM's kernels for separate Q, K and V, which the known table lacks, are not modelled"
_DIMS = {  # (rotated not, rotated, V) -> backends of prefill that have it, best first; on Blackwell
    (128, 64, 128): ("FLASH_ATTN", "TRTLLM_RAGGED"),
    (192, 64, 256): ("TRTLLM_RAGGED", "FLASH_ATTN"),
    (64, 64, 128): ("FLASH_ATTN",),
    (256, 0, 256): ("FLASH_ATTN",),
}


def reach_mla(backend: str, layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """What a backend for MLA calls for a step."""
    if layer.sparse:
        return reach_sparse(backend, layer, step, sm, rules)
    if step.seqlen_q > _THRESHOLD.get(backend, 1):
        return _prefill(layer, step, sm, rules)
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
    if rules.version != "0.33.0":
        return Reached(notes, why_not=f"the FlashMLA that vLLM {rules.version} ships was not recorded")
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer.kv_dtype) else {}
    call = vllm_call(
        "flash_mla", "fwd_kvcache", layer, step, num_heads_k=1, head_dim=_ROW, head_dim_v=_LATENT,
        page_block_size=64, **dtype,
    )  # fmt: skip
    return Reached(notes, call)


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


def prefill_backend(layer: Layer, sm: Sm) -> str:
    """The backend of MLA's prefill that 0.33 takes, "" where none has the layer's dims."""
    dims = (layer.qk_nope_head_dim, layer.qk_rope_head_dim, layer.v_head_dim or 128)
    known = _DIMS.get(dims, ())
    if layer.dtype == "fp32":
        return ""
    return next((name for name in known if sm[0] == 10 or name == "FLASH_ATTN"), "")


def prefill_flash_attention(layer: Layer, sm: Sm) -> Version:
    """The FlashAttention that 0.33's FLASH_ATTN prefill takes for the heads made of the latents."""
    wide = layer.qk_nope_head_dim + layer.qk_rope_head_dim
    return choose(layer, sm, Asked(wide, layer.v_head_dim or 128), newest=True)


def _prefill(layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    chunks = Note(
        "keys of the cache", "in further calls", "new keys are attended causally first, cached ones in chunks"
    )
    if rules.version != "0.33.0":
        why_not = f"the prefill of MLA of vLLM {rules.version} is not modelled"
        return Reached((chunks, graph_note(step)), why_not=why_not)
    taken = prefill_backend(layer, sm)
    if not taken:
        dims = (layer.qk_nope_head_dim, layer.qk_rope_head_dim, layer.v_head_dim or 128)
        return Reached((chunks,), why_not=f"vLLM ends with an error: no prefill backend has head dims {dims}")
    backend = Note("prefill backend", taken, "the first of vLLM's list for MLA's prefill that has the dims")
    if taken != "FLASH_ATTN":
        notes = (backend, chunks, graph_note(step))
        return Reached(notes, why_not=_NO_RAGGED)
    return _prefill_flash_attention(layer, step, sm, rules, (backend, chunks, graph_note(step)))


def _prefill_flash_attention(
    layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]
) -> Reached:
    """New queries over their own keys: as many KV heads as heads, without pages."""
    chosen = prefill_flash_attention(layer, sm)
    if chosen.version is None:
        return Reached(notes, why_not=f"vLLM ends with an error: {chosen.why}")
    wide, narrow = layer.qk_nope_head_dim + layer.qk_rope_head_dim, layer.v_head_dim or 128
    padded = chosen.version == 2 and wide != narrow
    asked = 1 if layer.batch_invariant else 0
    why = "padded: FA2 has one head dim" if padded else "as it is"
    v = Note("head dim of V", str(wide if padded else narrow), why)
    told = (
        notes[0],
        Note("FlashAttention", str(chosen.version), chosen.why),
        v,
        *notes[1:],
    )
    more: dict[str, Any] = {
        "num_heads_k": layer.num_heads, "head_dim": wide, "head_dim_v": wide if padded else narrow,
        "page_block_size": None, "seqlen_k": step.seqlen_q, "seqlens_k": step.seqlens_q,
    }  # fmt: skip
    if chosen.version == 4:
        call = vllm_call("flash_attn_4", "varlen_fwd", layer, step, asked or _AUTOMATIC_FA4, **more)
        return Reached(told, call, rules.fork)
    call = vllm_call("vllm_flash_attn", "varlen_fwd", layer, step, asked, **more)
    return Reached(told, call, f"fa{chosen.version}{rules.wheel}")
