"""vLLM's kernel for head dim 256 on Blackwell: pairs of thread blocks, and no splits.

Source: vllm 0.33.0, vllm_flash_attn/cute: interface.py ``_flash_attn_fwd``, sm100_hd256_2cta_fmha_forward.py.
"""

from __future__ import annotations

from attnprof.dispatch.flash_attn4.launches import PACKED, SINGLE, Scheduled, Shape, wide_name
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import AttentionCall, KernelLaunch

HEAD_DIM = 256
THREADS = 384
_ROWS, _PAIR = 128, 256  # query rows of a thread block, and of two
_PAGE = 128


def wide_refusal(call: AttentionCall, shape: Shape) -> str | None:
    """Upstream's words, in its order; None where it takes the call. A page table is as wide as the keys."""
    page = call.page_block_size
    if call.softcap:
        return "SM100 forward with head_dim=256 does not support softcap"
    # Of pages that are not packed it takes those of all sequences for one's.
    keys = call.seqlen_k * (1 if shape.varlen else call.batch)
    if page is not None and keys % page:
        told = f"max_seqlen_k divisible by page_size ({page}), got max_seqlen_k={keys}"
        return f"SM100 hd256 2CTA paged KV requires {told}"
    if page is not None and keys != call.seqlen_k:
        pages, own = keys // page, call.seqlen_k // page
        told = f"max_seqlen_k // page_size ({keys} // {page} = {pages}), got {own}"
        advice = f"pass page_table[:, :{pages}] to slice to the actual sequence length"
        return f"SM100 hd256 2CTA paged KV requires page_table.shape[1] == {told}; {advice}"
    if page not in (None, _PAGE):
        return "SM100 hd256 2CTA supports TMA paged KV only (page_size must equal tile_n=128)"
    if shape.local and page is None:
        told = "does not support local attention without seqused_q/seqused_k"
        return f"SM100 forward with head_dim=256 {told}"
    return None


def wide_launch(call: AttentionCall, shape: Shape, version: str) -> Scheduled:
    """Each query head has its own blocks; of a packed batch of several as many as its tails may need."""
    grid: tuple[int, int, int]
    if shape.varlen and call.batch > 1:
        scheduler = PACKED
        most = (shape.total_q + call.batch * (_PAIR - 1)) // _ROWS
        grid = (most // 2 * 2 * call.num_heads, 1, 1)
    else:
        scheduler, queries = SINGLE, shape.total_q if shape.varlen else call.seqlen_q
        grid = (2 * ceil_div(queries, _PAIR), call.num_heads, call.batch)
    return scheduler, KernelLaunch(wide_name(version), grid, (THREADS, 1, 1))
