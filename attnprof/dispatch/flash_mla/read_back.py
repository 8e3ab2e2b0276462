"""From launches of FlashMLA back to the steps that make them: sizes of the batch, and never a length.

Each thread block works off one share of all keys, so the grid is the same whatever their lengths.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_mla import dense
from attnprof.dispatch.flash_mla.names import halves
from attnprof.dispatch.flash_mla.read_prefill import KERNEL, read_prefill
from attnprof.dispatch.flash_mla.read_sparse import SPARSE, read_sparse
from attnprof.dispatch.flash_mla.rules import BLOCK_M, VERSIONS, Build, sm_parts
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.spelling import spelling_difference

LIBRARY = "flash_mla"
UNSEEN = 0  # split counts are each request's own: no size shows them
_FP8 = "float_e4m3_t"


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``; None of other kernels than FlashMLA's own."""
    if KERNEL in seen.main.kernel:
        return read_prefill(seen, gpu)
    kernel, sparse = seen.main.kernel, SPARSE.search(seen.main.kernel) is not None
    if not sparse and dense.KERNEL not in kernel and not (dense.FP8_KERNEL in kernel and _FP8 in kernel):
        return None
    if seen.again is not None and not seen.unread and (seen.again != seen.main or not halves(kernel)):
        return ReadBack(nearest="second launch, which is not that of the other half of the heads")
    return read_sparse(seen, gpu) if sparse else _dense(seen, gpu, fp8=dense.KERNEL not in kernel)


def _dense(seen: Observed, gpu: GpuFacts, *, fp8: bool) -> ReadBack:
    blocks, heads_k, parts = seen.main.grid
    rows = Interval(1, blocks * BLOCK_M or None)
    # Over FP8 the extension of both packages is the same.
    builds = tuple(VERSIONS.values()) if fp8 else _of_dense(seen.main.kernel)
    if seen.unread:
        return ReadBack(tuple(_explained(heads_k or None, rows, fp8, one) for one in builds), seen.unread)
    if seen.main.block != dense.THREADS:
        return ReadBack(nearest="block")
    if min(seen.main.grid) < 1 or not any(
        parts == sm_parts(sms, heads_k, blocks * BLOCK_M) for sms in _sms(gpu)
    ):
        return ReadBack(nearest="number of shares of the SMs")
    combine = seen.combine
    if combine is None:
        return ReadBack(nearest="kernel after it", cut=True)
    name = dense.FP8_COMBINE if fp8 else f"{builds[0].old}{dense.COMBINE}"
    threads = dense.FP8_COMBINE_THREADS if fp8 else dense.COMBINE_THREADS
    if name not in combine.kernel or combine.block != threads:
        return ReadBack(nearest="kernel after it")
    if unlike := _named_otherwise(seen, parts, builds[0], fp8=fp8):
        return ReadBack(nearest=unlike)
    if fp8:
        fits = list(_fp8_rows(combine.grid, blocks, heads_k))
        longest = Interval(1, max(fits)) if fits else None
    else:
        queries = list(_queries(combine.grid, blocks, heads_k))
        longest = Interval(min(queries), max(queries)) if queries else None
    if longest is None:
        return ReadBack(nearest="grid of the kernel after it")
    return ReadBack(tuple(_explained(heads_k, longest, fp8, one) for one in builds))


def _named_otherwise(seen: Observed, parts: int, build: Build, *, fp8: bool) -> str:
    """Of which kernel the name is none that goes with the other's; "" where both do, or cannot be read."""
    told = "template"
    for dtype, head_dim, causal in itertools.product(
        ("fp8",) if fp8 else dense.ELEMENTS, dense.HEAD_DIMS, (False, True)
    ):
        main, combine = dense.names(dtype, head_dim, parts, build.old, causal=causal)
        if not spelling_difference(main, seen.main.kernel):
            if seen.combine is None or not spelling_difference(combine, seen.combine.kernel):
                return ""
            told = "template of the kernel after it"
    return told


def _queries(grid: tuple[int, int, int], blocks: int, heads_k: int) -> Iterator[int]:
    """Queries a request with which the combine's grid, requests times queries by heads, gives the main's."""
    products, one, eights = grid
    heads = [n for n in range(8 * eights - 7, 8 * eights + 1) if n > 0 and n % heads_k == 0]
    if one != 1 or not heads:
        return
    most = blocks * BLOCK_M * heads_k // min(heads)
    for queries in range(1, min(products, most) + 1):
        if products % queries == 0 and any(
            ceil_div(queries * n // heads_k, BLOCK_M) == blocks for n in heads
        ):
            yield queries


def _fp8_rows(grid: tuple[int, int, int], blocks: int, heads_k: int) -> Iterator[int]:
    """Query rows of a request and KV head of which the combine has a thread block each."""
    of_all, *rest = grid
    if rest != [1, 1] or of_all % heads_k:
        return
    for rows in range((blocks - 1) * BLOCK_M + 1, blocks * BLOCK_M + 1):
        if of_all // heads_k % rows == 0:
            yield rows


def _sms(gpu: GpuFacts) -> set[int]:
    return {one.num_sms for one in gpu.candidates() if one.sm_major == 9}


def _of_dense(kernel: str) -> tuple[Build, ...]:
    old = "legacy::" * ("legacy::" in kernel)
    return tuple(build for build in VERSIONS.values() if build.old == old)


def _explained(heads_k: int | None, seqlen_q: Interval, fp8: bool, build: Build) -> Explanation:
    head_dim = Interval(576, 576) if fp8 else Interval(512, 576)
    return Explanation(
        LIBRARY, (build.version, build.version), "fwd_kvcache", False, None, heads_k, None, seqlen_q,
        head_dim, UNSEEN, True, (Interval(1, None),),
    )  # fmt: skip
