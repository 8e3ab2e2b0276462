"""FlashAttention-4's tiles and split count by version.

Source: flash_attn/cute/interface.py of the flash-attn-4 wheel, ``_get_fwd_config``, ``num_splits_heuristic``,
``_tile_size_fwd_sm90``; for vLLM's copy the same file in vllm_flash_attn/cute of the vllm wheel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

DEFAULT_VERSION = "4.0.0b36"
MAX_SPLITS = 128
_FEWEST_BLOCKS = 4  # key blocks: with so many or fewer it never splits
_FEWEST_NARROW = 64  # key blocks from which 192/128 heads are split, with keys by 64
Window = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a version does.

    ``least``: the fewest splits that the heuristic answers; 0 comes of more tiles than SMs.
    ``counts_query_heads``: without packed heads, each query head's blocks count.
    ``zero_bounds``: a window bound of 0 is one.  ``one_stage_v``: V head dims whose queries never come in two
    tiles.  ``unsplit_head_dim``: the head dim that never splits on Blackwell, by a kernel of its own.
    ``sm120_auto``: on SM 12.x a num_splits below 1 is one split, else it is refused.
    ``mla_alone``: MLA has kernels of one thread block a tile, which can split.  ``sm90_splits``: Hopper's
    kernel can.
    """

    least: int = 1
    counts_query_heads: bool = True
    zero_bounds: bool = True
    one_stage_v: tuple[int, ...] = (256,)
    unsplit_head_dim: int | None = None
    sm120_auto: bool = True
    mla_alone: bool = True
    sm90_splits: bool = False


VERSIONS: dict[str, Rules] = {
    "4.0.0b36": Rules(),
    # vllm 0.33.0's copy of it
    "vllm-0.33.0": Rules(
        least=0, counts_query_heads=False, zero_bounds=False, one_stage_v=(), unsplit_head_dim=256,
        sm120_auto=False, mla_alone=False, sm90_splits=True,
    ),
}  # fmt: skip


def rules_for(version: str) -> Rules:
    """The rules of a version. Raises UsageError for those that nobody has read."""
    rules = VERSIONS.get(version.strip())
    if rules is None:
        raise UsageError(
            f"flash_attn_4 {version} is not modelled: the rules known are those of {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )
    return rules


class FwdConfig(NamedTuple):
    """Queries and keys of a tile, query tiles per thread block, and splits of the keys."""

    tile_m: int
    tile_n: int
    q_stage: int
    num_splits: int


def num_splits_heuristic(
    total_mblocks: int, num_sms: int, num_n_blocks: int, max_splits: int = MAX_SPLITS, *, least: int = 1
) -> int:
    """As many splits as SMs are left for each query block, no more than key blocks or ``max_splits``."""
    if num_n_blocks <= _FEWEST_BLOCKS or total_mblocks == 0:
        return 1
    return max(least, min(num_sms // total_mblocks, max_splits, num_n_blocks))


def tile(arch: int, head_dim: int, head_dim_v: int, causal: bool, local: bool) -> tuple[int, int]:
    """(queries, keys) of a tile, in rows."""
    if arch // 10 == 12:
        return 128, 64 if head_dim > 64 else 128
    if arch // 10 == 8:
        return 128, 64
    if arch // 10 != 9:
        return 128, 128
    if head_dim <= 64:
        return 192, 128
    if head_dim <= 96:
        return 192, 128 if causal or local else 144
    if head_dim <= 128:
        return 128, 128
    if head_dim <= 192:
        return 128, 96 if local else 128 if head_dim_v <= 128 else 112
    return 128, 64 if local else 80


def fwd_config(
    arch: int, num_sms: int, batch: int, seqlen_q: int, seqlen_k: int, num_heads: int, num_heads_k: int,
    head_dim: int, head_dim_v: int, pack_gqa: bool, causal: bool, local: bool,
    window: Window = (None, None), num_splits: int = 0, version: str = DEFAULT_VERSION,
) -> FwdConfig:  # fmt: skip
    """What ``_get_fwd_config`` answers: tile, stages and splits of a forward call.

    arch: compute capability, major x 10 + minor.  seqlen_q, seqlen_k: the most of any sequence.
    pack_gqa: as the caller resolves it.  window: (left, right), None for unbounded.
    num_splits: 0 is automatic.
    Raises ValueError with upstream's words where it asserts.
    """
    rules = rules_for(version)
    tile_m, tile_n = tile(arch, head_dim, head_dim_v, causal, local)
    groups = num_heads // num_heads_k
    blackwell = arch // 10 in (10, 11)
    rows = seqlen_q * (groups if pack_gqa else 1)
    q_stage = 2 if blackwell and rows > tile_m and head_dim_v not in rules.one_stage_v else 1
    keys = keys_loaded(seqlen_k, tile_m, local, window, rules)
    heads = num_heads_k * (1 if pack_gqa or not rules.counts_query_heads else groups)
    blocks = batch * heads * ceil_div(rows, q_stage * tile_m)
    key_blocks = ceil_div(keys, tile_n)

    def automatic() -> int:
        return num_splits_heuristic(blocks, num_sms, key_blocks, least=rules.least)

    if arch // 10 == 12:
        if num_splits > 1 or (num_splits < 1 and not rules.sm120_auto):
            raise ValueError("SM120 forward only supports num_splits=1")
        num_splits = 1
    elif blackwell and head_dim == head_dim_v == rules.unsplit_head_dim:
        num_splits = 1
    elif num_splits < 1:
        num_splits = automatic()
    if blackwell and head_dim != head_dim_v and num_splits > 1:
        # Partial results are float32: with unlike head dims they fit with narrower tiles alone.
        if key_blocks >= _FEWEST_NARROW and head_dim_v != 512:
            tile_n = 64
            key_blocks = ceil_div(keys, tile_n)
            num_splits = automatic()
        else:
            num_splits = 1
    return FwdConfig(tile_m, tile_n, q_stage, num_splits)


def keys_loaded(seqlen_k: int, tile_m: int, local: bool, window: Window, rules: Rules) -> int:
    """Keys that one query block reads: with a window those that it spans."""
    if not local:
        return seqlen_k
    left, right = (
        seqlen_k if bound is None or (bound == 0 and not rules.zero_bounds) else bound for bound in window
    )
    return max(0, min(seqlen_k, right + left + 1 + tile_m))
