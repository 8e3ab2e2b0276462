"""ROCM_ATTN's rules: when HIP's paged attention decodes, and the tiles of Triton's kernels beside it.

Source: vllm 0.33.0 v1/attention/ops/chunked_prefill_paged_decode.py, prefix_prefill.py,
triton_prefill_attention.py ``get_block_size``, and platforms/rocm.py ``use_rocm_custom_paged_attention``.
"""

from __future__ import annotations

from attnprof.dispatch.vllm_rocm.paged import MOST_GROUPS, MOST_PARTITIONS, PARTITION
from attnprof.errors import UsageError
from attnprof.model import AttentionCall

DEFAULT_VERSION = "0.33.0"
VERSIONS = (DEFAULT_VERSION,)
HEAD_DIMS, PAGES = (64, 128), (16, 32)
MOST_KEYS = PARTITION * MOST_PARTITIONS
BLOCK_M = 128  # queries of a prompt's tile
WAVE, WAVES = 64, 4
_DEFAULT_PAGE = 16


def rules_for(version: str) -> None:
    """Raises UsageError for a version that nobody has read."""
    if version.strip().partition("+")[0] not in VERSIONS:
        raise UsageError(
            f"vllm_rocm {version} is not modelled: the rules known are those of vllm {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )


def against_hip(call: AttentionCall, longest_k: int) -> str:
    """Why Triton decodes in the place of HIP's paged attention; "" where it does not."""
    groups, page = call.num_heads // call.num_heads_k, call.page_block_size or _DEFAULT_PAGE
    if call.window[0] >= 0:
        return "a sliding window"
    if call.dtype not in ("bf16", "fp16"):
        return f"{call.dtype} queries"
    if call.head_dim not in HEAD_DIMS:
        return f"a head dim of {call.head_dim}: there are kernels for {HEAD_DIMS[0]} and {HEAD_DIMS[1]}"
    if page not in PAGES:
        return f"pages of {page}: there are kernels for {PAGES[0]} and {PAGES[1]}"
    if not 1 <= groups <= MOST_GROUPS:
        return f"{groups} query heads per KV head: {MOST_GROUPS} at most"
    if longest_k > MOST_KEYS:
        return f"a request of {longest_k} keys: {MOST_KEYS} at most"
    return ""


def alibi_block(dtype: str) -> int:
    """Queries of a tile with ALiBi; half as many in float32."""
    return BLOCK_M // 2 if dtype == "fp32" else BLOCK_M


def encoder_tile(head_dim: int, dtype: str) -> tuple[int, int]:
    """(queries of a tile, waves) of attention without a cache."""
    return 32 if dtype == "fp32" else BLOCK_M, WAVES if head_dim <= 64 else 2 * WAVES
