"""Records vLLM's attention on the CPU, ``vllm._custom_ops.cpu_attention_with_kv_cache``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.recorder import Recorder


def patch(recorder: Recorder, ops: Any) -> Callable[[], None]:
    """Returns what puts the function back."""
    if not hasattr(ops, "cpu_attention_with_kv_cache"):  # a build for GPUs alone
        return lambda: None
    return entry_point.patch(recorder, ops, "cpu_attention_with_kv_cache", "vllm_cpu", _read)


def _read(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The caches lie as (pages, KV heads, page, head dim): recorded in flash_attn's order, page before heads.

    ``sliding_window`` is the number of keys, -1 for all.
    """
    pages, heads, page, head_dim = given["key_cache"].shape
    window = given["sliding_window"]
    batch = len(given["seq_lens"])
    known = lengths.packed(given["query_start_loc"], given["seq_lens"], batch)
    return (
        "vllm_cpu",
        "varlen_fwd",
        taken(
            given["query"],
            (pages, page, heads, head_dim),
            (pages, page, heads, given["value_cache"].shape[3]),
            causal=bool(given["causal"]),
            window_left=window - 1 if window > 0 else -1,
            window_right=0 if window > 0 else -1,
            softcap=float(given["softcap"] or 0.0),
            alibi=given["alibi_slopes"] is not None,
            scale=given["scale"],
            batch=batch,
            max_seqlen_q=max(known.get("seqlens_q", ()), default=None),
            max_seqlen_k=max(known.get("seqlens_k", ()), default=None),
            block_table=tuple(given["block_table"].shape),
            sinks=given.get("s_aux") is not None,
            kv_dtype=given.get("kv_cache_dtype"),
            **known,
        ),
    )
