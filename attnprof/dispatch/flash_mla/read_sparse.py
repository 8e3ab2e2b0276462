"""From launches of FlashMLA's sparse kernels back to the steps: requests, queries and heads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_mla.dense import COMBINE_THREADS
from attnprof.dispatch.flash_mla.names import halves
from attnprof.dispatch.flash_mla.rules import VERSIONS, Build
from attnprof.dispatch.flash_mla.sparse import COMBINE, Kernel, combine_name, decode_kernels, prefill_kernels
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.family import bounded
from attnprof.dispatch.names.spelling import spelling_difference
from attnprof.dispatch.names.symbols import own_name
from attnprof.model import AttentionCall, KernelLaunch

LIBRARY = "flash_mla"
_DECODE = "flash_fwd_splitkv_mla_fp8_sparse_kernel"
# The namespaces of these builds: others' kernels of these names launch otherwise.
SPARSE = bounded(
    r"\bsm90::(?:decode::sparse|prefill::sparse_fwd)::(?:flash_fwd_splitkv_mla_fp8|sparse_attn_fwd_)"
    r"|\b(?:legacy::sm100::decode::|sm100::(?:decode::sparse::|prefill::sparse_fwd(?:_for_small_topk)?::))"
    r"head(?:64|128)::"
    r"(?:flash_fwd_splitkv_mla_fp8|sparse_attn_fwd_)"
)
UNSEEN = 0
_EVERY = Interval(1, None)


@cache
def _decoding(build: Build) -> tuple[tuple[AttentionCall, bool, Kernel], ...]:
    return tuple(decode_kernels(build))


@cache
def _prefilling(build: Build) -> tuple[tuple[AttentionCall, Kernel], ...]:
    return tuple(prefill_kernels(build))


def _named(kernel: Kernel, name: str) -> bool:
    """Whether a kernel has the name, as far as it can be read."""
    return own_name(kernel.name) == own_name(name) and not spelling_difference(kernel.name, name)


def read_sparse(seen: Observed, gpu: GpuFacts) -> ReadBack:
    """Every kind of step that launches exactly ``seen``, whose name SPARSE finds; of each build that may."""
    answers = [_read(seen, gpu, build) for build in VERSIONS.values()]
    found = tuple(one for answer in answers for one in answer.explanations)
    named = [answer for answer in answers if answer.nearest != "template"] or answers
    return replace(named[0], explanations=found) if found else named[0]


def _read(seen: Observed, gpu: GpuFacts, build: Build) -> ReadBack:
    prefill = _DECODE not in seen.main.kernel
    built = _prefilling(build) if prefill else [(call, kernel) for call, _, kernel in _decoding(build)]
    taken = [(call, kernel) for call, kernel in built if _named(kernel, seen.main.kernel)]
    if not taken:
        return ReadBack(nearest="template")
    if seen.unread:
        return ReadBack((_explained((call for call, _ in taken), build, None, _EVERY, UNSEEN),), seen.unread)
    if min(seen.main.grid) < 1:
        return ReadBack(nearest="grid")
    return _prefill(seen, taken, build) if prefill else _decode(seen, gpu, build)


def _explained(
    calls: Iterable[AttentionCall], build: Build, batch: int | None, seqlen_q: Interval, num_splits: int
) -> Explanation:
    """Of the kernel that these calls take, whose entry is one."""
    calls = tuple(calls)
    dims = [call.head_dim for call in calls]
    return Explanation(
        LIBRARY, (build.version, build.version), calls[0].entry, False, batch, None, None, seqlen_q,
        Interval(min(dims), max(dims)), num_splits, True, (_EVERY,),
    )  # fmt: skip


def _prefill(seen: Observed, taken: list[tuple[AttentionCall, Kernel]], build: Build) -> ReadBack:
    """One thread block, or two, for each query of all requests."""
    blocks, *rest = seen.main.grid
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    threaded = [(call, one) for call, one in taken if seen.main.block == (one.threads, 1, 1)]
    if not threaded:
        return ReadBack(nearest="block")
    fits = [(call, one.blocks) for call, one in threaded if blocks % one.blocks == 0]
    if rest != [1, 1] or not fits:
        return ReadBack(nearest="grid")
    queries = Interval(1, blocks // min(each for _, each in fits))
    return ReadBack((_explained((call for call, _ in fits), build, None, queries, 1),))


def _decode(seen: Observed, gpu: GpuFacts, build: Build) -> ReadBack:
    """On Blackwell 128 heads of 576 are two launches of 64 in a row, and then what adds up."""
    kernel, grid, combine = seen.main.kernel, seen.main.grid, seen.combine
    hopper, wide = "sm90::" in kernel, "small_topk" in kernel
    taken = [one for one in _decoding(build) if _named(one[2], kernel)]
    if seen.main.block not in [(one.threads, 1, 1) for *_, one in taken]:
        return ReadBack(nearest="block")
    heads, queries, parts = _hopper_sizes(grid) if hopper else _blackwell_sizes(grid, wide=wide)
    if halves(kernel) and combine is not None:
        heads = (64,) if seen.again is None else (128,)
    taken = [one for one in taken if one[0].num_heads in heads]
    if not taken or not queries:
        return ReadBack(nearest="grid")
    calls = [call for call, *_ in taken]
    if not any(split for _, split, _ in taken):
        if combine is not None:
            return ReadBack(nearest="kernel after it")
        return ReadBack((_explained(calls, build, parts, Interval(queries, queries), 1),))
    a_query = heads[0] // 64 if hopper else 2 if wide else 1
    major = 9 if hopper else 10
    counts = {one.num_sms for one in gpu.candidates() if one.sm_major == major}
    if not any(parts == max(sms // queries // a_query, 1) for sms in counts):
        return ReadBack(nearest="number of shares of the SMs")
    if combine is None:
        return ReadBack(nearest="kernel after it", cut=True)
    batch, unlike = _combined(combine, queries, heads, parts, build)
    if unlike:
        return ReadBack(nearest=unlike)
    return ReadBack((_explained(calls, build, batch, Interval(queries, queries), UNSEEN),))


def _hopper_sizes(grid: tuple[int, int, int]) -> tuple[tuple[int, ...], int, int]:
    """(heads, queries a request, parts)."""
    blocks, queries, parts = grid
    return (64 * blocks,), queries, parts


def _blackwell_sizes(grid: tuple[int, int, int], *, wide: bool) -> tuple[tuple[int, ...], int, int]:
    blocks, parts, one = grid
    if one != 1 or (wide and blocks % 2):
        return (), 0, 0
    return ((128,), blocks // 2, parts) if wide else ((64, 128), blocks, parts)


def _combined(
    combine: KernelLaunch, queries: int, heads: tuple[int, ...], parts: int, build: Build
) -> tuple[int, str]:
    """The requests of what adds up, and in what it is unlike the main kernel's, "" in nothing."""
    if COMBINE not in combine.kernel or combine.block != COMBINE_THREADS:
        return 0, "kernel after it"
    if spelling_difference(combine_name(parts, build), combine.kernel):
        return 0, "template of the kernel after it"
    batch, of_request, eights = combine.grid
    if not build.vllms:  # requests times queries
        batch, of_request = (
            (batch // queries, queries) if of_request == 1 and batch % queries == 0 else (0, 0)
        )
    fits = batch > 0 and of_request == queries and eights in [n // 8 for n in heads]
    return batch, "" if fits else "grid of the kernel after it"
