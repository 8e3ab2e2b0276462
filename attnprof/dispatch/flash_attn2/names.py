"""How FlashAttention-2's kernels are named."""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, row

FAMILIES: tuple[Family, ...] = (
    row("flash-attn", "fwd_splitkv_combine", r"flash_fwd_splitkv_combine_kernel$", "combine"),
    row("flash-attn", "fwd_splitkv", r"flash_fwd_splitkv_kernel$"),
    row("flash-attn", "fwd", r"flash_fwd_kernel$"),
    row("flash-attn", "bwd", r"flash_bwd_(?:dq_dk_dv|dot_do_o|convert_d|clear_d)\w*$", "backward"),
)  # fmt: skip
