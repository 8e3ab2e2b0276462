"""MLA in vLLM before 0.33: the pages that 0.10 sets by itself, and the prefill of 0.10 and 0.20.

Source: vllm/platforms/cuda.py check_and_update_config and vllm/v1/attention/backends/mla/common.py of the
wheel of 0.10.2, and vllm/model_executor/layers/attention/mla_attention.py MLACommonImpl of 0.20.2's. Agrees
with what the wheels' own functions gave (tests/data/golden, vllm_mla_pages and vllm_mla_prefill).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attnprof.dispatch.engines.layer import PREFILL_BACKEND, Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm import old_selector
from attnprof.dispatch.engines.vllm.calls import DEFAULT_BLOCK, Rules, fork_not_recorded, vllm_call
from attnprof.dispatch.engines.vllm.flash_attention import Asked, Version, choose
from attnprof.model import AttentionCall

FLASH_ATTN, FLASHINFER = "FLASH_ATTN", "FLASHINFER"
_AUTOMATIC_FA4 = -1
_ROOM, _ROOM_0_10 = 64 * 1024, 128 * 1024  # keys of the workspace that chunks are gathered into
_BLACKWELL = (10, 0)
_CUTLASS = (
    "FlashInfer's prefill of backend cutlass, which vLLM 0.10.2 takes for MLA on SM 10.0 where FlashInfer is "
    "installed, is not modelled"
)


def configured(layer: Layer, sm: Sm) -> Layer:
    """A layer of 0.10 with the pages that vLLM sets for MLA, whatever the user asked for."""
    if not layer.mla:
        return layer
    asked, page = layer.backend, layer.block_size
    if asked == "CUTLASS_MLA" or (asked is None and sm == _BLACKWELL):
        page = 128
    elif (asked in ("FLASHMLA", None) and sm[0] == 9) or (asked == "FLASHINFER_MLA" and page not in (32, 64)):
        page = 64
    return replace(layer, block_size=page)


def prefill(layer: Layer, sm: Sm, rules: Rules) -> tuple[str, Version]:
    """The backend of prefill, and the FlashAttention of FLASH_ATTN."""
    wide = layer.qk_nope_head_dim + layer.qk_rope_head_dim
    if rules.chain:
        if sm == _BLACKWELL:
            return FLASHINFER, Version(None, "FlashInfer's on SM 10.0")
        return FLASH_ATTN, old_selector.flash_attn_version(replace(layer, alibi=False), sm)
    return FLASH_ATTN, choose(layer, sm, Asked(wide), newest=False)


def head_dim_v(layer: Layer, version: int, sm: Sm) -> int:
    """Elements per head of V as the library gets it: padded to K's, but for FA3 on Hopper and FA4."""
    if version == 4 or (version == 3 and sm[0] == 9):
        return layer.v_head_dim or 128
    return layer.qk_nope_head_dim + layer.qk_rope_head_dim


def context_chunks(contexts: tuple[int, ...], page: int, room: int) -> tuple[tuple[int, ...], ...]:
    """Cached keys of each request in each call: an equal share of the workspace for all that have some."""
    having = sum(keys > 0 for keys in contexts)
    if not having:
        return ()
    share = room // having // page * page
    starts = range(0, max(contexts), share)
    return tuple(tuple(max(0, min(keys - start, share)) for keys in contexts) for start in starts)


def reach_prefill(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    """New queries over their own keys, then over each chunk of the cache's: as many KV heads as heads."""
    taken, chosen = prefill(layer, sm, rules)
    if taken == FLASHINFER:
        return Reached(notes, why_not=_CUTLASS)
    if chosen.version is None:
        return Reached(notes, why_not=f"vLLM ends with an error: {chosen.why}")
    wide, narrow = layer.qk_nope_head_dim + layer.qk_rope_head_dim, layer.v_head_dim or 128
    dim_v = head_dim_v(layer, chosen.version, sm)
    room = _ROOM_0_10 if rules.chain else _ROOM
    contexts = tuple(keys - queries for queries, keys in zip(step.each_q, step.each_k, strict=True))
    chunks = context_chunks(contexts, layer.block_size or DEFAULT_BLOCK, room)
    cached = f"in {len(chunks)} further calls" if chunks else "none"
    told = (
        Note(PREFILL_BACKEND, taken, "the default of this version"),
        Note("FlashAttention", str(chosen.version), chosen.why),
        Note(
            "head dim of V",
            str(dim_v),
            "as it is" if dim_v == narrow else f"padded: FA{chosen.version} has one head dim",
        ),
        Note(
            "keys of the cache", cached, f"equal shares of {room:,}, from a max_model_len of {room // 8:,} on"
        ),
        *notes,
    )
    if chosen.version == 4 and not rules.fork:
        return Reached(told, why_not=fork_not_recorded(rules))
    sizes: dict[str, Any] = {
        "num_heads_k": layer.num_heads, "head_dim": wide, "head_dim_v": dim_v, "page_block_size": None,
    }  # fmt: skip
    new = Step(step.batch, step.seqlen_q, step.seqlen_q, step.cuda_graph, step.seqlens_q, step.seqlens_q)
    calls = [_call(layer, new, chosen.version, causal=True, **sizes)]
    for keys in chunks:
        chunk = Step(step.batch, step.seqlen_q, max(keys), step.cuda_graph, step.each_q, keys)
        calls.append(_call(layer, chunk, chosen.version, causal=False, **sizes))
    version = rules.fork if chosen.version == 4 else f"fa{chosen.version}{rules.wheel}"
    return Reached(told, calls[0], version, more=tuple(calls[1:]))


def _call(layer: Layer, step: Step, version: int, **sizes: Any) -> AttentionCall:
    asked = 1 if layer.batch_invariant else 0
    if version == 4:
        return vllm_call("flash_attn_4", "varlen_fwd", layer, step, asked or _AUTOMATIC_FA4, **sizes)
    return vllm_call("vllm_flash_attn", "varlen_fwd", layer, step, asked, **sizes)
