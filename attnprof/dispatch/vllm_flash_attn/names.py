"""How only vLLM's fork of FlashAttention has: its kernels are named."""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, row

FAMILIES: tuple[Family, ...] = (
    row("vllm-flash-attn", "fwd_sparse", r"flash_fwd_sparse_kernel$"),
)  # fmt: skip
