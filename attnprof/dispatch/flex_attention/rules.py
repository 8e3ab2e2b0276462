"""FlexAttention's decoding kernel: when Inductor takes it, its splits, rows of a block and grid.

Source: torch/_inductor/kernel/flex/flex_decoding.py ``_use_flex_decoding``, ``get_split_k``,
``flex_decoding_grid`` and template_heuristics/triton.py ``get_flex_decode_configs`` of torch 2.13.0.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

DEFAULT_VERSION = "2.13.0"
VERSIONS = (DEFAULT_VERSION,)
KERNEL = "triton_tem_fused_flex_attention"  # Inductor numbers it
SHORT_QUERIES = 128  # from so many on the main kernel runs
THREADS = 64  # two warps, unless max_autotune finds another configuration


def rules_for(version: str) -> None:
    """Raises UsageError for a version that nobody has read."""
    if version.strip() not in VERSIONS:
        raise UsageError(
            f"flex_attention {version} is not modelled: the rules known are those of {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )


def split_kv(batch: int, num_heads_k: int, num_sms: int) -> int:
    """Twice the SMs that each sequence and KV head gets, rounded down before it is doubled; at least 1."""
    return max(num_sms // max(batch * num_heads_k, 1) * 2, 1)


def block_m(seqlen_q: int, groups: int) -> int:
    """Query rows of a block: all of a KV head's, rounded up to a power of two, at least 16."""
    rows = seqlen_q * groups
    return max(1 << max(rows - 1, 0).bit_length(), 16)


def grid(batch: int, seqlen_q: int, num_heads_k: int, groups: int, num_sms: int) -> tuple[int, int, int]:
    """Query blocks, sequences x KV heads, splits."""
    blocks = ceil_div(seqlen_q * groups, block_m(seqlen_q, groups))
    return blocks, batch * num_heads_k, split_kv(batch, num_heads_k, num_sms)


def main_grid(batch: int, seqlen_q: int, num_heads: int, tile_m: int) -> tuple[int, int, int]:
    """The main kernel's: query blocks, sequences, heads. Source: flex_attention.py ``flex_attention_grid``.

    tile_m: BLOCK_M, which ``kernel_options`` gives, or the configuration that was taken.
    """
    return ceil_div(seqlen_q, tile_m), batch, num_heads


def decodes(seqlen_q: int, groups: int) -> bool:
    """Whether the decoding kernel is taken: few queries, and a power of two of query heads per KV head."""
    return 0 < seqlen_q < SHORT_QUERIES and groups > 0 and groups & (groups - 1) == 0
