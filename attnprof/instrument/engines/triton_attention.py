"""Records the functions through which vLLM, SGLang and AITER launch their own Triton attention kernels."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakSet

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.recorder import Recorder, shape

_UNIFIED = "extend_attention_fwd_unified"
_AITER: WeakSet[ModuleType] = WeakSet()  # hooked: newer AITER imports the same module by its older name too


def patch_vllm(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``vllm.v1.attention.ops.triton_unified_attention``."""
    return entry_point.patch(recorder, module, "unified_attention", "vllm_triton", _unified)


def patch_vllm_decode(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``vllm.v1.attention.ops.triton_decode_attention``, which MLA decodes with."""
    return entry_point.patch(recorder, module, "decode_attention_fwd", "vllm_triton_mla", _vllm_decode)


def patch_sglang_decode(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``sglang…decode_attention``."""
    return entry_point.patch(recorder, module, "decode_attention_fwd", "sglang_triton", _sglang_decode)


def patch_sglang_extend(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``sglang…extend_attention``; older ones lack the kernel of deterministic servers."""
    undo = [entry_point.patch(recorder, module, "extend_attention_fwd", "sglang_triton", _sglang_extend)]
    if hasattr(module, _UNIFIED):
        undo.append(entry_point.patch(recorder, module, _UNIFIED, "sglang_triton", _sglang_extend))
    return entry_point.patch_all(undo)


def patch_aiter(recorder: Recorder, module: ModuleType) -> Callable[[], None]:
    """``aiter…unified_attention``, which both engines call on AMD GPUs."""
    if module in _AITER:
        return lambda: None
    undo = entry_point.patch(recorder, module, "unified_attention", "aiter_paged", _aiter_unified)
    _AITER.add(module)

    def restore() -> None:
        _AITER.discard(module)
        undo()

    return restore


def _unified(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    q, k, batch = given["q"], given["k"], len(given["seqused_k"])
    window, causal = given["window_size"], given["causal"]
    return (
        "vllm_triton",
        "batch_paged",
        taken(
            q,
            k,
            given["v"],
            causal=causal if isinstance(causal, bool) else True,
            window_left=window[0],
            window_right=window[1],
            softcap=float(given["softcap"] or 0.0),
            alibi=given["alibi_slopes"] is not None,
            scale=given["softmax_scale"],
            batch=batch,
            max_seqlen_q=_whole(given["max_seqlen_q"]),
            max_seqlen_k=_whole(given["max_seqlen_k"]),
            block_table=shape(given["block_table"]),
            sinks=given["sinks"] is not None,
            segments=given["num_par_softmax_segments"],
            threshold=given["seq_threshold_3D"],
            kv_dtype=str(k.dtype).removeprefix("torch."),
            **lengths.packed(given["cu_seqlens_q"], given["seqused_k"], batch),
        ),
    )


def _aiter_unified(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """SGLang tells it the length of the block table, whatever the requests have."""
    q, k, batch = given["q"], given["k"], len(given["seqused_k"])
    window = given["window_size"]
    return (
        "aiter_paged",
        "batch_paged",
        taken(
            q,
            k,
            given["v"],
            causal=bool(given["causal"]),
            window_left=window[0],
            window_right=window[1],
            softcap=float(given["softcap"] or 0.0),
            alibi=given.get("alibi_slopes") is not None,
            scale=given["softmax_scale"],
            batch=batch,
            max_seqlen_q=_whole(given["max_seqlen_q"]),
            max_seqlen_k=_whole(given["max_seqlen_k"]),
            max_seq_len=_whole(given["max_seqlen_k"]),
            block_table=shape(given["block_table"]),
            sinks=given.get("sinks") is not None,
            kv_dtype=str(k.dtype).removeprefix("torch."),
            **lengths.packed(given["cu_seqlens_q"], given["seqused_k"], batch),
        ),
    )


def _vllm_decode(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """One query per request; the buffers hold (pages, page, KV heads, head dim), or all tokens in a row."""
    q, keys = given["q"], given["b_seq_len"]
    known = lengths.of(keys)
    batch = q.shape[0]
    more = {"seqlens_q": [1] * batch, "seqlens_k": known} if known else lengths.steps_of(batch)
    page = given.get("page_size") or 1
    return (
        "vllm_triton_mla",
        "batch_paged",
        taken(
            q,
            _paged(given["k_buffer"], page),
            _paged(given["v_buffer"], page),
            causal=True,
            softcap=float(given.get("logit_cap") or 0.0),
            scale=given["sm_scale"],
            batch=batch,
            split_size=None,
            num_splits=given["num_kv_splits"],
            **more,
        ),
    )


def _sglang_decode(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """One query per request. How many splits each gets lies on the device: ``max_kv_splits`` is the most."""
    q = given["q"]
    batch = q.shape[0]
    return (
        "sglang_triton",
        "batch_paged",
        taken(
            q,
            _paged(given["k_buffer"], 1),
            _paged(given["v_buffer"], 1),
            causal=True,
            softcap=float(given.get("logit_cap") or 0.0),
            scale=given.get("sm_scale"),
            batch=batch,
            max_kv_splits=given["max_kv_splits"],
            sinks=given.get("sinks") is not None,
            **lengths.steps_of(batch),
        ),
    )


def _sglang_extend(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    batch = len(given["qo_indptr"]) - 1
    window = given.get("sliding_window_size", -1)
    return (
        "sglang_triton",
        "batch_paged",
        taken(
            given["q"] if "prefix_lens" in given else given["q_extend"],
            _paged(given["k_buffer"], 1),
            _paged(given["v_buffer"], 1),
            causal=bool(given["is_causal"]),
            window_left=window if window and window > 0 else -1,
            window_right=0 if window and window > 0 else -1,
            softcap=float(given.get("logit_cap") or 0.0),
            scale=given.get("sm_scale"),
            batch=batch,
            max_seqlen_q=_whole(given["max_len_extend"]),
            unified="prefix_lens" in given,
            sinks=given.get("sinks") is not None,
            **lengths.steps_of(batch),
        ),
    )


def _paged(buffer: Any, page: int) -> tuple[int, ...]:
    """A buffer's shape as pages: one of tokens in a row has pages of one."""
    sizes = tuple(buffer.shape)
    return (sizes[0], page, *sizes[1:]) if len(sizes) == 3 else sizes


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None
