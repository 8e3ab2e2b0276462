"""Records the Python functions of FlashAttention's forks and of FlashAttention-4: vLLM's, SGLang's, cute's.

Each is recorded where it is about to launch, with the arguments that it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.recorder import Recorder, shape

_NONE = (-1, -1)


def patch_vllm(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``vllm.vllm_flash_attn.flash_attn_interface``, all its versions."""
    return entry_point.patch(recorder, module, "flash_attn_varlen_func", "vllm_flash_attn", _vllm)


def patch_cute(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``flash_attn.cute.interface``, whose functions all end in one."""
    return entry_point.patch(recorder, module, "_flash_attn_fwd", "flash_attn_4", _cute)


def patch_sgl_kernel(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``sgl_kernel.flash_attn``: FlashAttention-3 as SGLang builds it."""
    return entry_point.patch_all(
        [
            entry_point.patch(recorder, module, name, "sgl_kernel", partial(read, "sgl_kernel"))
            for name in ("flash_attn_varlen_func", "flash_attn_with_kvcache")
        ]
    )


def patch_aiter(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``aiter.ops.mha``: packed batches, prompts of both engines on AMD GPUs."""
    return entry_point.patch(recorder, module, "flash_attn_varlen_func", "aiter", _aiter)


def _aiter(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """A chunk of cached keys has fewer than its step, and so has a prompt that attends to itself alone."""
    named = {**given, "softcap": given.get("logits_soft_cap"), "sinks": given.get("sink_ptr")}
    library, entry, made = read("aiter", lengths, named)
    made["return_softmax"] = bool(given.get("return_lse"))
    if made.get("lengths_of") == "step":
        if given["cu_seqlens_k"] is given["cu_seqlens_q"]:
            made["seqlens_k"] = made["seqlens_q"]
        longest = max(made["seqlens_q"]), max(made["seqlens_k"])
        if longest != (made["max_seqlen_q"], made["max_seqlen_k"]):
            for name in ("seqlens_q", "seqlens_k", "lengths_of"):
                del made[name]
    return library, entry, made


def _vllm(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    library, entry, made = read("vllm_flash_attn", lengths, given)
    made["fa_version"] = given.get("fa_version")
    return library, entry, made


def _cute(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    window = (given.get("window_size_left"), given.get("window_size_right"))
    named = {
        **given,
        "window_size": tuple(-1 if side is None else side for side in window),
        "block_table": given.get("page_table"),
    }
    library, entry, made = read("flash_attn_4", lengths, named)
    picked = given.get("gather_kv_indices")
    made["index_topk"] = None if picked is None else picked.shape[-1]
    made["mask_kind"] = None if given.get("mask_mod") is None else "mask_mod"
    made["sparse"] = given.get("block_sparse_tensors") is not None
    return library, entry, made


def read(library: str, lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """A call of any function of the family, by flash_attn's own names.

    With ``cu_seqlens_q`` it is a packed one, ``varlen_fwd``; with a cache and its lengths alone
    ``fwd_kvcache``; else ``fwd``.
    """
    q = given["q"]
    cached = given.get("k_cache") is not None
    k, v = (given["k_cache"], given["v_cache"]) if cached else (given["k"], given["v"])
    table = given.get("block_table", given.get("page_table"))
    table = given.get("page_table") if table is None else table
    keys = given.get("cache_seqlens") if cached else given.get("seqused_k")
    starts = given.get("cu_seqlens_q")
    window = given.get("window_size") or _NONE
    common: dict[str, Any] = {
        "causal": bool(given.get("causal")),
        "window_left": -1 if window[0] is None else window[0],
        "window_right": -1 if window[1] is None else window[1],
        "softcap": float(given.get("softcap") or 0.0),
        "dropout_p": float(given.get("dropout_p") or 0.0),
        "alibi": given.get("alibi_slopes") is not None,
        "scale": given.get("softmax_scale"),
        "block_table": None if table is None else shape(table),
        "num_splits": given.get("num_splits") or 0,
        "pack_gqa": given.get("pack_gqa"),
        "qv": any(given.get(name) is not None for name in ("q_v", "qv")),
        "scheduler_metadata": given.get("scheduler_metadata") is not None,
        "sinks": any(given.get(name) is not None for name in ("s_aux", "sinks", "learnable_sink")),
        "has_cache_seqlens": keys is not None,
        "cache_batch_idx": given.get("cache_batch_idx") is not None,
        "k_new": shape(given["k"]) if cached and given.get("k") is not None else None,
    }
    if starts is None:
        entry = "fwd_kvcache" if cached or keys is not None else "fwd"
        known = lengths.of(keys) if keys is not None and not isinstance(keys, int) else None
        batch = q.shape[0]
        more = {"seqlens_q": [q.shape[1]] * batch, "seqlens_k": known} if known else lengths.steps_of(batch)
        return library, entry, taken(q, k, v, **common, **(more if entry != "fwd" else {}))
    batch = len(starts) - 1
    if keys is None and given.get("cu_seqlens_k") is not None:
        more = lengths.between(starts, given["cu_seqlens_k"], batch)
    else:
        more = lengths.packed(starts, keys, batch)
    longest = {
        "max_seqlen_q": _longest(given.get("max_seqlen_q"), more.get("seqlens_q")),
        "max_seqlen_k": _longest(given.get("max_seqlen_k"), more.get("seqlens_k")),
    }
    return library, "varlen_fwd", taken(q, k, v, batch=batch, **common, **longest, **more)


def _longest(said: Any, known: list[int] | None) -> int | None:
    return said if type(said) is int else max(known) if known else None
