"""How the FlashAttention inside PyTorch and its kernels are named."""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, row

FAMILIES: tuple[Family, ...] = (
    row(
        "pytorch-bundled-flash", "fwd_splitkv_combine",
        r"pytorch_flash::flash_fwd_splitkv_combine_kernel$", "combine",
    ),
    row("pytorch-bundled-flash", "fwd_splitkv", r"pytorch_flash::flash_fwd_splitkv_kernel$"),
    row("pytorch-bundled-flash", "fwd", r"pytorch_flash::flash_fwd_kernel$"),
    row("pytorch-bundled-flash", "bwd", r"pytorch_flash::flash_bwd_\w+$", "backward"),
    row("pytorch-bundled-flash-v1", "fa1_fwd", r"fmha_fwd_loop_kernel|pytorch_fmha::fmha_fwd"),
    row("pytorch-bundled-flash-v1", "fa1_bwd", r"fmha_bwd_\w*loop\w*|pytorch_fmha::fmha_bwd", "backward"),
)  # fmt: skip
