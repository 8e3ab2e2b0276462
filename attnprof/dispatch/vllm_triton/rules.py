"""vLLM's Triton backend by version: query block, key tile, 2D or 3D, segments, grid.

Source: ``unified_attention`` and ``_get_tile_size`` of ops/triton_unified_attention.py, and
``TritonAttentionMetadataBuilder`` of backends/triton_attn.py, of the wheels vllm 0.10.0, 0.10.2, 0.19.1,
0.20.0 and 0.33.0. From 0.11.0 to 0.12.0 steps launch as by 0.10.2, from 0.13.0 on as by 0.19.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

LEAST_GRID_2D = 128
SEGMENTS = 16
SEGMENTS_SM120 = 64
MOST_QUERIES_3D = 8
WARPS = 4  # Triton's default
# What VllmConfig captures decode steps at unless it is told.
CAPTURED = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))


@dataclass(frozen=True, slots=True)
class Rules:
    """What differs between versions.

    ``threshold``: up to what a step runs in 3D: "blocks" of the 2D grid, "sequences", or "query blocks" of
    the sequences, each of up to MOST_QUERIES_3D queries.  ``grows``: the query block grows beyond 16 heads a
    KV head.  ``by_page``: a key tile is a page.  ``non_causal``: no causal mask is taken too.
    ``on_sm120``: small batches take more segments there.  ``mla_splits``: splits of TRITON_MLA whatever the
    lengths, 0 where these decide; ``mla_drafts``: its decode takes several queries a request;
    ``mla_invariant``: batch invariance asks for one split.
    ``turboquant``: there is a backend of that name.
    """

    main_2d: str
    main_3d: str
    threshold: Literal["blocks", "sequences", "query blocks"]
    grows: bool = True
    by_page: bool = False
    non_causal: bool = False
    on_sm120: bool = False
    mla_splits: int = 0
    mla_drafts: bool = False
    mla_invariant: bool = True
    turboquant: bool = False


DEFAULT_VERSION = "0.33.0"
_0_10 = Rules(
    "kernel_unified_attention_2d", "kernel_unified_attention_3d", "blocks", grows=False, by_page=True,
    mla_splits=4, mla_invariant=False,
)  # fmt: skip
VERSIONS = {
    "0.10.0": _0_10,
    "0.10.2": replace(_0_10, grows=True),
    "0.19.1": replace(_0_10, grows=True, by_page=False, threshold="sequences", mla_invariant=True),
    "0.20.0": Rules("kernel_unified_attention", "kernel_unified_attention", "sequences", turboquant=True),
    "0.33.0": Rules(
        "kernel_unified_attention", "kernel_unified_attention", "query blocks", non_causal=True,
        on_sm120=True, mla_drafts=True, turboquant=True,
    ),
}  # fmt: skip
REDUCE = "reduce_segments"


def rules_for(version: str) -> Rules:
    """The rules of a version, of whatever build of it. Raises UsageError for one that nobody has read."""
    rules = VERSIONS.get(version.strip().partition("+")[0])
    if rules is None:
        raise UsageError(
            f"vllm_triton {version} is not modelled: the rules known are those of vllm {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )
    return rules


def block_m(groups: int, rules: Rules) -> int:
    """Query rows of a block: 16, or from 17 query heads a KV head on the next power of two."""
    return 16 if groups <= 16 or not rules.grows else 1 << (groups - 1).bit_length()


def tile(head_dim: int, window_left: int, element_size: int, in_3d: bool) -> int:
    """Keys of a tile; a window of 1,024 with a head dim of 128 or 256 is taken for Gemma 3's."""
    if window_left + 1 == 1024 and head_dim in (128, 256):
        return 32
    return 16 if in_3d and element_size >= 2 else 32


def sequences_3d(num_heads_k: int, cuda_graph: bool) -> int:
    """Up to how many sequences a decode step runs in 3D; under CUDA graphs the nearest captured size."""
    wanted = LEAST_GRID_2D // num_heads_k
    return min(CAPTURED, key=lambda size: abs(size - wanted)) if cuda_graph else wanted


def segments_and_rows(
    rules: Rules, threshold: int, batch: int, tokens: int, num_heads_k: int, num_sms: int, is_sm120: bool,
    drafted: int = 1,
) -> tuple[int, int]:  # fmt: skip
    """Segments of each sequence's keys, and the queries for whose partial results there is room.

    Room is kept for ``max_num_seqs`` of at least ``threshold``.  drafted: queries of a request that
    speculative decoding verifies; up to MOST_QUERIES_3D have room, where the version counts query blocks.
    """
    each = min(max(drafted, 1), MOST_QUERIES_3D) if rules.threshold == "query blocks" else 1
    most = (num_sms - 1) // (SEGMENTS * num_heads_k) if rules.on_sm120 and is_sm120 else 0
    if not most:
        return SEGMENTS, threshold * each
    share = SEGMENTS_SM120 // SEGMENTS
    rows = max(min(most, threshold) * each, ceil_div(threshold * each, share))
    return (SEGMENTS, rows * share) if most < batch or rows < tokens else (SEGMENTS_SM120, rows)


def segments_with_keys(seqlen_k: int, segments: int, key_tile: int) -> int:
    """How many of a request's segments hold keys: whole tiles are shared out evenly, from the first on."""
    each = ceil_div(seqlen_k, segments * key_tile) * key_tile
    return ceil_div(seqlen_k, each) if each else 0
