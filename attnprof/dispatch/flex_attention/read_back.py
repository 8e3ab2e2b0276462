"""From a launch of FlexAttention back to the call: sequences x KV heads of a decoding one, or a main one.

Inductor names both alike and numbers them. The main kernel never splits; its grid is query blocks, sequences
and heads, so of any grid a launch can be one of it, with the tile and the warps that ``kernel_options`` or
max_autotune choose. Warps are a power of two in Triton: other threads, and a kernel that adds up after it,
are no call's. A step of vLLM's is the main kernel over one sequence, by tiles and warps that it gives itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flex_attention.paged import STEP_TILES, STEP_WARPS
from attnprof.dispatch.flex_attention.rules import DEFAULT_VERSION, KERNEL, SHORT_QUERIES, split_kv
from attnprof.dispatch.intervals import Interval
from attnprof.model import KernelLaunch

LIBRARY = "flex_attention"
_WARP, _WARPS = 32, (1, 2, 4, 8, 16, 32)
_ANY = (Interval(1, None),)


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches exactly ``seen``; None of other kernels, backward ones among them."""
    if not seen.main.kernel.startswith(KERNEL) or "backward" in seen.main.kernel:
        return None
    blocks, batch_heads, splits = seen.main.grid
    main = _explanation(None, Interval(1, None), 1, chosen=False)
    if seen.unread:
        return ReadBack((main,), seen.unread)
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    if seen.main.block not in {(_WARP * warps, 1, 1) for warps in _WARPS}:
        return ReadBack(nearest="block")
    steps = tuple(_steps(seen.main))
    decodes = blocks == 1 and (gpu.num_sms is None or splits == split_kv(batch_heads, 1, gpu.num_sms))
    decoding = _explanation(batch_heads, Interval(1, SHORT_QUERIES - 1), splits, chosen=True)
    return ReadBack((decoding, main, *steps) if decodes else (main, *steps))


def _steps(main: KernelLaunch) -> Iterator[Explanation]:
    """Of vLLM's backend: the queries of all requests, in tiles of a page's mask or of no cache's."""
    blocks, one, heads = main.grid
    if one == 1 and blocks > 0 and heads > 0 and main.block[0] in {_WARP * warps for warps in STEP_WARPS}:
        yield Explanation(
            LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "batch_paged", False, None, heads, None,
            Interval(1, blocks * max(STEP_TILES)), Interval(1, None), 1, False, _ANY,
        )  # fmt: skip


def _explanation(batch_heads: int | None, queries: Interval, splits: int, *, chosen: bool) -> Explanation:
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "fwd", False, None, None, batch_heads, queries,
        Interval(1, None), splits, chosen, _ANY,
    )  # fmt: skip
