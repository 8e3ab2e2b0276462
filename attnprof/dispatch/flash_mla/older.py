"""How FlashMLA's kernels are called in vllm 0.20.2's build, and what of them is other than in later ones.

Source: what the wheel's extensions were recorded to launch (benchmarks/record_flash_mla.py). Dense decode in
FP8 and packed prefill are those of vllm 0.33.0. Its launches are not read back.
"""

from __future__ import annotations

from attnprof.model import AttentionCall

MODELS = {"fp8_ds_mla": 0, "v4": 1}  # caches, and how the kernels' names tell them
NO_SUCH_CACHE = "kv must have shape (num_blocks, page_block_size, h_kv, bytes_per_token)"
NO_512 = "Assertion failed: params.d == Config::HEAD_DIM_K"  # which ends the process
_DECODE = "flash_fwd_splitkv_mla_fp8_sparse_kernel"
_SM100_SMEM = {"fp8_ds_mla": 232_192, "v4": 218_848}
_SMALL_TOPK = 1280


def dense(element: str) -> str:
    """The main kernel of dense decode."""
    return f"sm90::flash_fwd_splitkv_mla_kernel<Traits<{element}> >"


def hopper(num_heads: int, kept: str) -> tuple[str, int]:
    """Sparse decode on Hopper: the name and the threads of a block."""
    space = "sm90::decode::sparse_fp8::"
    return f"{space}{_DECODE}<{space}KernelTemplate<(ModelType){MODELS[kept]}, {num_heads}> >", 384


def blackwell(num_heads: int, kept: str) -> tuple[str, int, int, bool]:
    """Sparse decode on Blackwell: name, threads, shared memory, and whether two blocks share 128 heads."""
    if kept == "v4" and num_heads == 128:
        space = "sm100::fwd_for_small_topk::head128::"
        return f"{space}{_DECODE}<{space}KernelTemplate<(SparseAttnFwdMode)1, 512> >", 512, 224_576, True
    space = "sm100::decode::head64::"
    name = f"{space}{_DECODE}<{space}KernelTemplate<(ModelType){MODELS[kept]}> >"
    return name, 384, _SM100_SMEM[kept], False


def prefill(call: AttentionCall, smem: int, *, hopper: bool) -> tuple[str, int]:
    """Sparse prefill: name and shared memory, on Hopper ``smem`` as in later builds."""
    wide = call.head_dim == 576
    if hopper:
        counted = "true" if call.cache_seqlens else "false"
        name = f"sm90::fwd::sparse_attn_fwd_kernel<sm90::fwd::KernelTemplate<{call.head_dim}, {counted}> >"
        return name, smem
    if call.num_heads == 64:
        return f"sm100::fwd::head64::sparse_attn_fwd_kernel<{'true' if wide else 'false'}>", 230_656
    if not wide and call.index_topk <= _SMALL_TOPK:
        space = "sm100::fwd_for_small_topk::head128::"
        template = f"{space}KernelTemplate<(SparseAttnFwdMode)0, 512> "
        return f"{space}sparse_attn_fwd_for_small_topk_kernel<{template}>", 224_560
    space = "sm100::fwd::head128::"
    return f"{space}sparse_attn_fwd_kernel<{space}KernelTemplate<{call.head_dim}> >", (
        214_272 if wide else 197_888
    )
