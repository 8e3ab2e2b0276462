"""vLLM's FLEX_ATTENTION: the queries of all requests as one sequence, by the main kernel with vLLM's tiles.

Source: vllm 0.33.0 v1/attention/backends/flex_attention.py ``_get_block_sizes`` and ``get_kernel_options``;
torch 2.14.0, which it requires: _inductor/heuristics/template/triton.py ``get_flex_attn_fwd_configs`` and
kernel/flex/flex_attention.py ``flex_attention_grid``; torch 2.13.0 answers alike.
"""

from __future__ import annotations

from attnprof.dispatch.flex_attention.rules import KERNEL
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

TORCH = "2.14.0"
PAGED_BLOCK_M = 16
_TILE, _FLOAT_TILE = 64, 32
STEP_TILES = (PAGED_BLOCK_M, _TILE, _TILE // 2, _FLOAT_TILE // 2)
STEP_WARPS = (4, 8)
_ROOMY = 144 * 1024  # bytes of shared memory, below which tiles are halved
_WARP = 32


def block_m(call: AttentionCall, gpu: Gpu) -> tuple[int, str]:
    """(queries of a tile, why)."""
    if call.page_block_size is not None:
        return (
            PAGED_BLOCK_M,
            "over pages, as large as a block of the mask that the page table makes",
        )
    tile = _FLOAT_TILE if call.dtype == "fp32" else _TILE
    if gpu.smem_per_block_optin < _ROOMY:
        return (
            tile // 2,
            f"without a cache, halved: less than {_ROOMY // 1024} KiB of shared memory",
        )
    return tile, "without a cache"


def warps(head_dim: int, dtype: str, gpu: Gpu) -> int:
    """Of Inductor's configuration without max_autotune; its tiles are not taken."""
    sm = (gpu.sm_major, gpu.sm_minor)
    if dtype == "fp32":
        return 8 if sm == (9, 0) and head_dim == 192 else 4
    wide = head_dim == 192 and gpu.sm_major in (8, 10)
    return 8 if wide or (head_dim == 128 and gpu.sm_major >= 8) else 4


def predict_paged(call: AttentionCall, gpu: Gpu) -> Prediction:
    """A step of vLLM's. Raises UsageError for pages that it refuses."""
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    page = call.page_block_size
    if page is not None and page & (page - 1):
        raise UsageError(f"vLLM's FLEX_ATTENTION takes pages of a power of two, not of {page}")
    rows, why = block_m(call, gpu)
    grid = (ceil_div(lengths.tokens, rows), 1, call.num_heads)
    threads = warps(call.head_dim, call.dtype, gpu) * _WARP
    reasons = (
        Reason("kernel", "main", "vLLM asks with FORCE_USE_FLEX_ATTENTION: never flex_decoding"),
        Reason("tile", str(rows), why),
        Reason("query blocks", str(grid[0]), f"of {lengths.tokens} queries of all requests in one sequence"),
        Reason("num_splits", "1", "the main kernel never splits keys"),
        Reason("block", str(threads), f"threads, of torch {TORCH} for head dim {call.head_dim}"),
    )
    return Prediction(
        (KernelLaunch(KERNEL, grid, (threads, 1, 1)),), 1, reasons=reasons, plan=(("block_m", rows),)
    )
