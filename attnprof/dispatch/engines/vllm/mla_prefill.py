"""MLA's prompts in vLLM 0.33: keys and values of every head made again, new ones first, cached in chunks.

Source: vllm/v1/attention/backends/mla/prefill, model_executor/layers/attention/mla_attention.py
(``MLACommonBaseImpl.forward_mha``, ``_compute_prefill_context``, ``plan_mla_context_chunks``),
sparse_mla_attention.py and platforms/interface.py get_mla_prefill_backend_cls of the wheel. The backend, its
FlashAttention, the chunks and which prompts of sparse MLA come here agree with the wheel's functions
(tests/data/golden, vllm_mla_prefill and vllm_mla_steps); what is passed to a library is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnprof.dispatch.engines.layer import PREFILL_BACKEND, Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm import old_mla
from attnprof.dispatch.engines.vllm.calls import Rules, graph_note, vllm_call
from attnprof.dispatch.engines.vllm.flash_attention import Asked, Version, choose
from attnprof.model import AttentionCall

_KNOWN = "0.33.0"
_AUTOMATIC_FA4 = -1
ROOM = 64 * 1024  # keys of the workspace that chunks are gathered into, from a max_model_len of 8,192 on
_DIMS = {  # (rotated not, rotated, V) -> backends of prefill that have it, best first; on Blackwell
    (128, 64, 128): ("FLASH_ATTN", "TRTLLM_RAGGED"),
    (192, 64, 256): ("TRTLLM_RAGGED", "FLASH_ATTN"),
    (64, 64, 128): ("FLASH_ATTN",),
    (256, 0, 256): ("FLASH_ATTN",),
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Requests ``first`` to ``first + len(keys) - 1`` and how many cached keys of each are gathered."""

    first: int
    keys: tuple[int, ...]


def prefill_backend(layer: Layer, sm: Sm) -> str:
    """The backend of MLA's prefill that 0.33 takes, "" where none has the layer's dims."""
    known = _DIMS.get(_dims(layer), ())
    if layer.dtype == "fp32":
        return ""
    return next((name for name in known if sm[0] == 10 or name == "FLASH_ATTN"), "")


def prefill_flash_attention(layer: Layer, sm: Sm) -> Version:
    """The FlashAttention that 0.33's FLASH_ATTN prefill takes for the heads made of the latents."""
    wide = layer.qk_nope_head_dim + layer.qk_rope_head_dim
    return choose(layer, sm, Asked(wide, layer.v_head_dim or 128), newest=True)


def context_chunks(contexts: tuple[int, ...], page: int, room: int = ROOM) -> tuple[Chunk, ...]:
    """``plan_mla_context_chunks``: cached keys of each request packed into a workspace, split at pages."""
    found: list[Chunk] = []
    request = start = 0
    while request < len(contexts):
        if not contexts[request]:
            request += 1
            continue
        first, left, keys = request, room, list[int]()
        while request < len(contexts) and contexts[request]:
            remaining = contexts[request] - start
            if remaining > left:
                share = min(left // page, room // page, (remaining - 1) // page) * page
                if share:
                    keys.append(share)
                    start += share
                break
            keys.append(remaining)
            left -= remaining
            request, start = request + 1, 0
        found.append(Chunk(first, tuple(keys)))
    return tuple(found)


def prompts_of(step: Step, limit: int) -> tuple[Step, tuple[Note, ...]]:
    """The requests of more than ``limit`` queries; the others are decode, of which a note tells."""
    kept = [number for number, queries in enumerate(step.each_q) if queries > limit]
    few = step.batch - len(kept)
    if not few:
        return step, ()
    queries, keys = (tuple(each[number] for number in kept) for each in (step.each_q, step.each_k))
    why = f"of at most {limit} queries: they are decode, in a call of their own; ask for them alone"
    prompts = Step(len(kept), max(queries), max(keys), step.cuda_graph, queries, keys)
    return prompts, (Note("not told here", f"{few} request{'s' * (few > 1)}", why),)


def reach_prefill(layer: Layer, step: Step, sm: Sm, rules: Rules, *told: Note) -> Reached:
    """New keys attended causally, then each chunk of cached ones whole; ``told``: what was decided before."""
    if rules.version != _KNOWN:
        return old_mla.reach_prefill(layer, step, sm, rules, (*told, graph_note(step)))
    taken = prefill_backend(layer, sm)
    if not taken:
        why_not = f"vLLM ends with an error: no prefill backend has head dims {_dims(layer)}"
        return Reached(told, why_not=why_not)
    backend = Note(PREFILL_BACKEND, taken, "the first of vLLM's list for MLA's prefill that has the dims")
    contexts = tuple(keys - queries for queries, keys in zip(step.each_q, step.each_k, strict=True))
    chunks = context_chunks(contexts, layer.block_size or 64)
    notes = (*told, backend, *cached_notes(chunks), graph_note(step))
    new = Step(step.batch, step.seqlen_q, step.seqlen_q, step.cuda_graph, step.seqlens_q, step.seqlens_q)
    if taken == "TRTLLM_RAGGED":
        first = _ragged(layer, new, causal=True)
        further = tuple(_ragged(layer, step_of(step, one), causal=False) for one in chunks)
        return Reached(notes, first, rules.flashinfer_package, more=further)
    chosen = prefill_flash_attention(layer, sm)
    if chosen.version is None:
        return Reached(notes, why_not=f"vLLM ends with an error: {chosen.why}")
    padded = chosen.version == 2 and _wide(layer) != _narrow(layer)
    v = Note(
        "head dim of V",
        str(_wide(layer) if padded else _narrow(layer)),
        "padded: FA2 has one head dim" if padded else "as it is",
    )
    notes = (*notes[:-1], Note("FlashAttention", str(chosen.version), chosen.why), v, notes[-1])
    calls = [_flash(layer, new, chosen.version, causal=True)]
    calls += [_flash(layer, step_of(step, one), chosen.version, causal=False) for one in chunks]
    version = rules.fork if chosen.version == 4 else f"fa{chosen.version}{rules.wheel}"
    return Reached(notes, calls[0], version, more=tuple(calls[1:]))


def cached_notes(chunks: tuple[Chunk, ...]) -> tuple[Note, ...]:
    """What is told of cached keys, and of what adds the results up."""
    if not chunks:
        return (Note("keys of the cache", "none", "no request has cached keys: new ones are attended alone"),)
    room = f"{ROOM:,} keys of the workspace, with a max_model_len of 8,192 or more"
    calls = "a further call" if len(chunks) == 1 else f"{len(chunks)} further calls"
    merge = "merge_attn_states adds its result to that of the new keys, once for each layer"
    if len(chunks) > 1:
        merge = (
            "merge_attn_states adds up chunks that share a request, and all of them to the new keys' result"
        )
    return (
        Note("keys of the cache", calls, f"each of at most {room}, without a mask"),
        Note("merge", "follows", merge),
    )


def step_of(step: Step, chunk: Chunk) -> Step:
    """The queries of a chunk's requests over its keys."""
    queries = step.each_q[chunk.first : chunk.first + len(chunk.keys)]
    return Step(len(queries), max(queries), max(chunk.keys), step.cuda_graph, queries, chunk.keys)


def _dims(layer: Layer) -> tuple[int, int, int]:
    return layer.qk_nope_head_dim, layer.qk_rope_head_dim, _narrow(layer)


def _wide(layer: Layer) -> int:
    return layer.qk_nope_head_dim + layer.qk_rope_head_dim


def _narrow(layer: Layer) -> int:
    return layer.v_head_dim or 128


def _ragged(layer: Layer, step: Step, *, causal: bool) -> AttentionCall:
    sizes = _sizes(layer, _narrow(layer), causal)
    return vllm_call("flashinfer", "varlen_fwd", layer, step, backend="trtllm-gen", **sizes)


def _flash(layer: Layer, step: Step, version: int, *, causal: bool) -> AttentionCall:
    sizes = _sizes(layer, _wide(layer) if version == 2 else _narrow(layer), causal)
    asked = 1 if layer.batch_invariant else 0
    if version == 4:
        return vllm_call("flash_attn_4", "varlen_fwd", layer, step, asked or _AUTOMATIC_FA4, **sizes)
    return vllm_call("vllm_flash_attn", "varlen_fwd", layer, step, asked, **sizes)


def _sizes(layer: Layer, head_dim_v: int, causal: bool) -> dict[str, Any]:
    """As many KV heads as heads, without pages."""
    return {
        "num_heads_k": layer.num_heads, "head_dim": _wide(layer), "head_dim_v": head_dim_v,
        "page_block_size": None, "causal": causal,
    }  # fmt: skip
