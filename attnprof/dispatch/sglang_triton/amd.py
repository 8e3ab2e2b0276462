"""SGLang's Triton backend on AMD's Instinct GPUs: work-centric decode, extend's tiles and its compact grid.

Source: sglang 0.5.23 kernels/ops/attention/decode_attention.py ``lean_decode_seqlen_gate``,
``lean_capture_policy``, ``_lean_decode_launch_params``; extend_attention.py
``_get_block_sizes_for_extend_attention``, ``_compact_extend_q_tiles_per_head``.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths
from attnprof.dispatch.sglang_triton.rules import BLOCK_H
from attnprof.model import AttentionCall, Gpu

LEAN = "_lean_attention_decode_kernel"
WAVE = 64
_GFX950 = (9, 5)
_XCDS = 8
_MLA_ROWS = (288, 576)  # head dims that the work-centric kernel takes beside those up to 128
_MOST_DIM = 128
_LEAST_KEYS = 4096  # on average, below which decode is never work-centric
_LEAST_BATCH, _LEAST_OF_MLA = 16, 8  # of a captured step; of MLA, of any
_FEW_BLOCKS, _MANY_BLOCKS = 4, 16
_FROM = {"few": 131_072, "some": 65_536, "many": 16_384}  # keys on average, of one request


def lean(call: AttentionCall, lengths: Lengths) -> str:
    """Why a decode step is work-centric, "" where it is not.  A layer with sinks is taken to have none."""
    dim_v = call.head_dim_v or call.head_dim
    fits = call.head_dim in _MLA_ROWS or max(call.head_dim, dim_v) <= _MOST_DIM
    if not fits or call.softcap or call.fixed_split_size is not None:
        return ""
    blocks = ceil_div(call.num_heads, min(BLOCK_H, call.num_heads // call.num_heads_k))
    average, batch, mla = sum(lengths.seqlens_k) / call.batch, call.batch, call.head_dim != dim_v
    if mla:
        if batch < _LEAST_OF_MLA or (not call.cuda_graph and average < _LEAST_KEYS):
            return ""
        return f"MLA of {_LEAST_OF_MLA} requests and more"
    if call.cuda_graph:
        taken = blocks >= _FEW_BLOCKS and batch >= _LEAST_BATCH
        return f"captured for {_LEAST_BATCH} requests and more" if taken else ""
    few = blocks < _FEW_BLOCKS
    base = _FROM["few" if few else "many" if blocks >= _MANY_BLOCKS else "some"]
    least = max(_LEAST_KEYS, base // max(1, batch // (4 if few else 2)))
    return f"{average:.0f} keys on average, from {least} on here" if average >= least else ""


def _by_xcd(call: AttentionCall) -> bool:
    """Whether KV heads are dealt out to the XCDs."""
    return call.num_heads_k % _XCDS == 0 and call.num_heads // call.num_heads_k <= BLOCK_H


def lean_programs(call: AttentionCall, gpu: Gpu) -> int:
    """Blocks of the work-centric kernel: one a CU, in whole XCDs where KV heads are dealt out to these."""
    return max(gpu.num_sms // _XCDS, 1) * _XCDS if _by_xcd(call) else gpu.num_sms


def lean_parts(call: AttentionCall, seqlens_k: Sequence[int], programs: int) -> tuple[int, ...]:
    """Over how many blocks each request's keys are spread, at most over its KV heads.

    A block takes a run of the tiles of keys of all heads and requests, one after the other.
    """
    keys = 16 if call.head_dim > 256 else 128  # of a tile
    rows = call.num_heads_k * ceil_div(call.num_heads // call.num_heads_k, BLOCK_H)
    if _by_xcd(call):
        rows, programs = rows // _XCDS, programs // _XCDS
    tiles = [ceil_div(each, keys) for each in seqlens_k]
    total = sum(tiles) * rows
    most = max(ceil_div(total, programs), 1)
    high = total - (most - 1) * programs  # blocks that have ``most``, the others one less

    def block(tile: int) -> int:
        return tile // most if tile < high * most else high + (tile - high * most) // max(most - 1, 1)

    parts, at = [1] * len(tiles), 0
    for _ in range(rows):
        for request, count in enumerate(tiles):
            if count:
                parts[request] = max(parts[request], block(at + count - 1) - block(at) + 1)
            at += count
    return tuple(parts)


def extend_tile(head_dim: int, gpu: Gpu) -> tuple[int, int, int]:
    """(queries, keys, waves) of a block of the extend kernel."""
    newer = (gpu.sm_major, gpu.sm_minor) == _GFX950
    if newer and head_dim == 576:
        return 64, 32, 4
    return (128, 64, 8) if newer and head_dim <= 256 else (64, 64, 4)


def compact_blocks(seqlens_q: Sequence[int], block_m: int) -> int:
    """Blocks of queries of a grid that holds just those there are; 0 where all requests have as many."""
    blocks = [ceil_div(queries, block_m) for queries in seqlens_q]
    return sum(blocks) if sum(blocks) < len(blocks) * max(blocks) else 0
