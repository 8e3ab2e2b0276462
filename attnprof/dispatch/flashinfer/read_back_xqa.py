"""From XQA's one launch back to the steps: requests, KV heads, splits, and the keys that these tell.

TensorRT-LLM builds the same sources, so its kernels are called so too: of FlashInfer's sizes a step is told,
though not that it is FlashInfer's, and other sizes are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flashinfer import xqa
from attnprof.dispatch.flashinfer.rules import DEFAULT_VERSION
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.model import Entry

SHARED = "XQA's kernel_mha, launched as FlashInfer's is; TensorRT-LLM's own kernels are called so too"
_ONE = Interval(1, 1)
_PAGES_OF_BLOCKS = max(xqa.PAGES) // xqa.KEYS_HOPPER  # Hopper's key blocks in the largest page


def read_back_xqa(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``, a ``kernel_mha``; None where FlashInfer has none."""
    if len(seen.launches) > 1 or seen.unread or min(seen.main.grid) < 1:
        return None
    read = {xqa.THREADS: _general, xqa.THREADS_HOPPER: _hopper, xqa.THREADS_MLA: _mla}
    found = tuple(dict.fromkeys(read.get(seen.main.block, _none)(seen.main.grid, gpu)))
    return ReadBack(found, shared=SHARED) if found else None


def _none(grid: tuple[int, int, int], gpu: GpuFacts) -> Iterator[Explanation]:
    return iter(())


def _sms(gpu: GpuFacts, majors: tuple[int, ...]) -> set[int]:
    return {one.num_sms for one in gpu.candidates() if one.vendor == "nvidia" and one.sm_major in majors}


def _general(grid: tuple[int, int, int], gpu: GpuFacts) -> Iterator[Explanation]:
    """Splits, KV heads times the blocks of a draft's rows, requests."""
    splits, rows, batch = grid
    for heads_k in (count for count in range(1, rows + 1) if rows % count == 0):
        blocks = rows // heads_k
        queries = Interval(1 if blocks == 1 else 2, blocks * xqa.ROWS)
        dims = Interval(16, 512 if blocks == 1 else xqa.MOST_HOPPER)
        for sms in sorted(_sms(gpu, xqa.MAJORS)):
            most = xqa.most_splits(batch * heads_k, sms, hopper=False)
            if splits <= most:
                last = splits * xqa.KEYS if splits < most else None
                lengths = (Interval((splits - 1) * xqa.KEYS + 1, last),)
                yield _explanation("batch_decode", (batch, heads_k, None), queries, dims, splits, lengths)


def _hopper(grid: tuple[int, int, int], gpu: GpuFacts) -> Iterator[Explanation]:
    """Blocks of a draft's queries, splits, KV heads times requests."""
    blocks, splits, pairs = grid
    queries = Interval(blocks, blocks * xqa.ROWS_HOPPER)
    for sms in sorted(_sms(gpu, (9,))):
        most = xqa.most_splits(pairs, sms, hopper=True)
        if splits <= most:
            whole = splits - (_PAGES_OF_BLOCKS if splits % _PAGES_OF_BLOCKS == 0 else 1)
            last = splits * xqa.KEYS_HOPPER if splits < most else None
            lengths = (Interval(whole * xqa.KEYS_HOPPER + 1, last),)
            dims = Interval(16, xqa.MOST_HOPPER)
            yield _explanation("batch_decode", (None, None, pairs), queries, dims, splits, lengths)


def _mla(grid: tuple[int, int, int], gpu: GpuFacts) -> Iterator[Explanation]:
    cluster, splits, batch = grid
    if (cluster, splits) == (xqa.MLA_CLUSTER, 1) and _sms(gpu, (12,)):
        every = (Interval(1, None),)
        yield _explanation("batch_mla", (batch, None, None), _ONE, Interval(576, 576), 1, every)


def _explanation(
    entry: Entry, sizes: tuple[int | None, int | None, int | None], queries: Interval, head_dim: Interval,
    splits: int, lengths: Intervals,
) -> Explanation:  # fmt: skip
    """``sizes``: requests and KV heads, or what is known of both, their product."""
    batch, heads_k, pairs = sizes
    return Explanation(
        "flashinfer", (DEFAULT_VERSION, DEFAULT_VERSION), entry, False, batch, heads_k, pairs, queries,
        head_dim, splits, True, lengths,
    )  # fmt: skip
