"""Operators of vLLM and FlashAttention-4 for a rehearsal: they note what they would launch."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from attnprof.model import AttentionCall


def vllm_operators(attend: Callable[[AttentionCall], None]) -> SimpleNamespace:
    """What stands for ``torch.ops._vllm_fa3_C``: its operators, with their arguments in their order."""

    def fwd(
        q: Any, k: Any, v: Any, _k_new: Any, _v_new: Any, _q_v: Any, _out: Any, starts_q: Any, _starts_k: Any,
        _starts_new: Any, _used_q: Any, _used_k: Any, seqlen_q: int, seqlen_k: int, table: Any, *rest: Any,
    ) -> Any:  # fmt: skip
        # After the table: batch index, left padding, three of rotary, three of scale, the softmax's scale.
        causal, left, right, softcap, _interleaved, plan, num_splits = rest[9:16]
        batch = len(starts_q) - 1
        attend(
            AttentionCall(
                "vllm_flash_attn", "varlen_fwd", batch, seqlen_q, seqlen_k, q.shape[1], k.shape[-2],
                q.shape[2], dtype="bf16" if q.dtype == torch.bfloat16 else "fp16", causal=causal,
                window=(left, right), softcap=softcap, num_splits=num_splits, total_q=q.shape[0],
                page_block_size=None if table is None else k.shape[1], scheduler_metadata=plan is not None,
            )
        )  # fmt: skip
        return torch.zeros(q.shape, dtype=q.dtype), None, None, None

    def get_scheduler_metadata(batch: int, *rest: Any) -> Any:
        return torch.zeros(batch, dtype=torch.int32)

    return SimpleNamespace(fwd=fwd, get_scheduler_metadata=get_scheduler_metadata)


def flash_attn_cute(attend: Callable[[AttentionCall], None]) -> ModuleType:
    """What stands for the module ``flash_attn.cute``."""
    module: Any = ModuleType("flash_attn.cute")

    def flash_attn_func(q: Any, k: Any, v: Any, *, causal: bool, num_splits: int) -> Any:
        attend(
            AttentionCall(
                "flash_attn_4", "fwd", q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2],
                q.shape[3], causal=causal, num_splits=num_splits or -1,
            )
        )  # fmt: skip
        return torch.zeros(q.shape, dtype=q.dtype), None

    module.flash_attn_func = flash_attn_func
    return module
