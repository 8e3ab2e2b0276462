"""What calls of SGLang's backends have in common."""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Step, call_of
from attnprof.model import AttentionCall, Entry

FA3 = "sglang-kernel-0.4.10"
FLASHINFER = "0.7.2"  # what SGLang 0.5.23 asks for
OWN_FA4 = "the state of FlashAttention-4 that SGLang ships is none that was recorded"
TRITON = "0.5.23"
TRITON_TILE = 256  # keys of a split of Triton's decode when deterministic
COPY = Note("library", FA3, "sglang-kernel's own copy of FlashAttention-3, as it was recorded")
CONTEXT = Note(
    "page table",
    "of the context",
    "splits follow its width: --seqlen-k stands for the server's longest context",
)


def graph_note(step: Step) -> Note:
    """What is said of CUDA graphs."""
    if step.seqlen_q == 1 or step.drafts:
        return Note("CUDA graph", "full" if step.cuda_graph else "none", "decode is captured by default")
    why = "by default prompts replay graphs in pieces, with attention between them, not captured itself"
    return Note("CUDA graph", "in pieces" if step.cuda_graph else "none", why)


def splits_note(layer: Layer) -> Note:
    """The num_splits that reaches FlashAttention."""
    asked = 1 if layer.batch_invariant else 0
    why = "deterministic inference: never split" if asked else "0 leaves it to the library"
    return Note("num_splits passed", str(asked), why)


def sglang_call(library: str, entry: Entry, layer: Layer, step: Step, **more: Any) -> AttentionCall:
    """A call with what the layer says, but for ``more``."""
    fields: dict[str, Any] = {
        "dtype": layer.dtype,
        "causal": not layer.non_causal,
        "page_block_size": layer.block_size or 1,
    }
    return call_of(library, entry, layer, step, **(fields | more))


def packed_cache(library: str, layer: Layer, step: Step, **more: Any) -> AttentionCall:
    """A step over a paged cache with packed queries."""
    return sglang_call(
        library, "fwd_kvcache", layer, step, **({"cache_seqlens": True, "total_q": sum(step.each_q)} | more)
    )


def over_keys(step: Step, keys: tuple[int, ...]) -> dict[str, Any]:
    """The step's keys where a call has others: each request's, in its order."""
    return {"seqlen_k": max(keys), "seqlens_k": keys if len(set(keys)) > 1 or step.seqlens_k else ()}


def cached(step: Step) -> tuple[int, ...]:
    """Each request's keys that were in the cache before the step."""
    return tuple(max(0, keys - queries) for keys, queries in zip(step.each_k, step.each_q, strict=True))


def not_modelled(notes: tuple[Note, ...], what: str) -> Reached:
    return Reached(notes, why_not=what)
