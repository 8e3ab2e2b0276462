"""SGLang's Triton backend: split counts of each request, the most there may be, and tiles of extend.

Source: sglang 0.5.23 kernels/ops/attention/metadata.py ``get_num_kv_splits_triton``, decode_attention.py,
extend_attention.py ``_get_block_sizes_for_extend_attention`` and srt/layers/attention/triton_backend.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnprof.dispatch.heuristic import ceil_div, float32
from attnprof.errors import UsageError

DEFAULT_VERSION = "0.5.23"
VERSIONS = (DEFAULT_VERSION,)
MAX_KV_SPLITS = 8  # --triton-attention-num-kv-splits
BLOCK_H = 16  # query heads of a block of the grouped kernel
LEAST_KEYS = 32  # of a split
MLA_HEAD_DIMS = (576, 512)


def rules_for(version: str) -> None:
    """Raises UsageError for a version that nobody has read."""
    if version.strip().partition("+")[0] not in VERSIONS:
        raise UsageError(
            f"sglang_triton {version} is not modelled: the rules known are those of {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )


def most_splits(asked: int, num_sms: int, context: int, mla: bool, tile: int | None) -> int:
    """Splits that a step's grid has room for.

    asked: the server's limit, 0 for its default.  context: the longest that the server admits, in keys.
    tile: keys of a split under deterministic inference, None otherwise.
    """
    if tile:
        return ceil_div(context, tile)
    most = asked or MAX_KV_SPLITS
    if mla:
        most = max(most, min(_power_of_2(num_sms), _power_of_2(ceil_div(context, LEAST_KEYS))))
    return most


def _power_of_2(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def head_blocks(num_heads: int, groups: int) -> int:
    """Blocks along the heads: a head each where it has its own K, else up to 16 heads of a KV head."""
    return num_heads if groups == 1 else ceil_div(num_heads, min(BLOCK_H, groups))


def splits_of_requests(
    seqlens_k: Sequence[int], heads: int, num_sms: int, most: int, tile: int | None
) -> tuple[int, ...]:
    """Split counts of each request of a decode step; heads: blocks along the heads.

    The longer the longest request, the more SMs are counted, by log2 of its blocks of 64 keys; its keys are
    dealt out over them, and each other request gets as many splits as such chunks. Where requests differ by
    more than a quarter, a chunk is at most as long as the shortest.
    """
    if tile:
        return tuple(ceil_div(keys, tile) for keys in seqlens_k)
    longest, shortest = max(seqlens_k), max(min(seqlens_k), 1)
    if longest * 8 < shortest * 10:
        shortest = longest
    even = ceil_div(longest, min(ceil_div(longest, shortest), most))
    sms = int(float32(num_sms * max(float32(math.log2(float32(longest / 64.0))), 1.0)))
    fill = ceil_div(longest, min(ceil_div(sms, len(seqlens_k) * heads), most))
    return tuple(max(ceil_div(keys, even), ceil_div(keys, fill)) for keys in seqlens_k)


def extend_tile(head_dim: int, sm_major: int, sm_minor: int) -> tuple[int, int]:
    """(queries, keys) of a block of the extend kernel."""
    if sm_major == 12 or (sm_major == 8 and sm_minor in (6, 9)):
        sizes = (64, 128), (64, 64), (32, 32)
    elif sm_major == 10:
        sizes = (64, 64), (64, 64), (16, 64)
    elif sm_major >= 9:
        sizes = (128, 64), (64, 64), (32, 64)
    elif sm_major == 8:
        sizes = (128, 128), (64, 64), (32, 64)
    else:
        sizes = (64, 64), (32, 32), (32, 32)
    return sizes[0 if head_dim <= 128 else 1 if head_dim <= 256 else 2]
