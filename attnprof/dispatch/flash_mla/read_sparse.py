"""From launches of FlashMLA's sparse kernels back to the steps: requests, queries and heads."""

from __future__ import annotations

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_mla.dense import COMBINE_THREADS
from attnprof.dispatch.flash_mla.names import halves
from attnprof.dispatch.flash_mla.rules import DEFAULT_VERSION, combine_room
from attnprof.dispatch.flash_mla.sparse import COMBINE
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.arguments import template_arguments
from attnprof.dispatch.names.family import bounded
from attnprof.model import KernelLaunch

LIBRARY = "flash_mla"
_DECODE = "flash_fwd_splitkv_mla_fp8_sparse_kernel"
# The namespaces of this build: others' kernels of these names launch otherwise.
SPARSE = bounded(
    r"legacy::sm90::(?:decode::sparse|prefill::sparse_fwd)::(?:flash_fwd_splitkv_mla_fp8|sparse_attn_fwd_)"
    r"|sm100::(?:decode::(?:sparse::)?|prefill::sparse_fwd(?:_for_small_topk)?::)head(?:64|128)::"
    r"(?:flash_fwd_splitkv_mla_fp8|sparse_attn_fwd_)"
)
UNSEEN = 0
_EVERY = Interval(1, None)
_HEAD_DIM = Interval(512, 576)
_MODELS = {"0": 576, "4": 576, "1": 512, "2": 512}  # ModelType -> head dim
_MODEL = bounded(r"\(ModelType\)(\d)")
_HOPPER_HEADS = bounded(r"\(ModelType\)\d, (64|128)>")


def read_sparse(seen: Observed, gpu: GpuFacts) -> ReadBack:
    """Every kind of step that launches exactly ``seen``, whose name SPARSE finds."""
    prefill = _DECODE not in seen.main.kernel
    if seen.unread:
        entry = "varlen_fwd" if prefill else "fwd_kvcache"
        anything = _explained(seen.main.kernel, entry, None, _EVERY, UNSEEN)
        return ReadBack((anything,), seen.unread)
    if min(seen.main.grid) < 1:
        return ReadBack(nearest="grid")
    return _prefill(seen) if prefill else _decode(seen, gpu)


def _explained(
    kernel: str, entry: str, batch: int | None, seqlen_q: Interval, num_splits: int
) -> Explanation:
    model = _MODEL.search(kernel)
    wide = _MODELS.get(model.group(1)) if model else None
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), entry, False, batch, None, None,  # type: ignore[arg-type]
        seqlen_q, Interval(wide, wide) if wide else _HEAD_DIM, num_splits, True, (_EVERY,),
    )  # fmt: skip


def _prefill(seen: Observed) -> ReadBack:
    """One thread block, or two, for each query of all requests."""
    kernel, (blocks, *rest) = seen.main.kernel, seen.main.grid
    threads = {(512, 1, 1)} if "head128" in kernel else {(384, 1, 1)}
    each = {2} if "head128" in kernel else {1} if "head64" in kernel else {1, 2}
    if "small_heads" in kernel:
        each, threads = {1}, {(128, 1, 1), (256, 1, 1)}
        if (arguments := template_arguments(kernel)) and arguments[-1] in ("16", "32"):
            threads = {(8 * int(arguments[-1]), 1, 1)}
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    if seen.main.block not in threads:
        return ReadBack(nearest="block")
    if rest != [1, 1] or all(blocks % one for one in each):
        return ReadBack(nearest="grid")
    queries = Interval(1, blocks // min(each))
    return ReadBack((_explained(kernel, "varlen_fwd", None, queries, 1),))


def _decode(seen: Observed, gpu: GpuFacts) -> ReadBack:
    """On Blackwell 128 heads of 576 are two launches of 64 in a row, and then what adds up."""
    kernel, grid, combine = seen.main.kernel, seen.main.grid, seen.combine
    hopper, wide = "sm90::" in kernel, "small_topk" in kernel
    if seen.main.block != ((512, 1, 1) if wide else (384, 1, 1)):
        return ReadBack(nearest="block")
    heads, queries, parts = _hopper_sizes(kernel, grid) if hopper else _blackwell_sizes(grid, wide=wide)
    if not heads or not queries:
        return ReadBack(nearest="grid")
    if not hopper and _unsplit(kernel, wide=wide):
        if combine is not None:
            return ReadBack(nearest="kernel after it")
        return ReadBack((_explained(kernel, "fwd_kvcache", parts, Interval(queries, queries), 1),))
    a_query = heads[0] // 64 if hopper else 2 if wide else 1
    major = 9 if hopper else 10
    counts = {one.num_sms for one in gpu.candidates() if one.sm_major == major}
    if not any(parts == max(sms // queries // a_query, 1) for sms in counts):
        return ReadBack(nearest="number of shares of the SMs")
    if combine is None:
        return ReadBack(nearest="kernel after it", cut=True)
    if halves(kernel):
        heads = (64,) if seen.again is None else (128,)
    if unlike := _combine_unlike(combine, queries, heads, parts):
        return ReadBack(nearest=unlike)
    told = _explained(kernel, "fwd_kvcache", combine.grid[0], Interval(queries, queries), UNSEEN)
    return ReadBack((told,))


def _hopper_sizes(kernel: str, grid: tuple[int, int, int]) -> tuple[tuple[int, ...], int, int]:
    """(heads, queries a request, parts); no heads where the name states others."""
    blocks, queries, parts = grid
    stated = _HOPPER_HEADS.search(kernel)
    heads = 64 * blocks
    agrees = heads in (64, 128) and (stated is None or int(stated.group(1)) == heads)
    return ((heads,) if agrees else ()), queries, parts


def _blackwell_sizes(grid: tuple[int, int, int], *, wide: bool) -> tuple[tuple[int, ...], int, int]:
    blocks, parts, one = grid
    if one != 1 or (wide and blocks % 2):
        return (), 0, 0
    return ((128,), blocks // 2, parts) if wide else ((64, 128), blocks, parts)


def _unsplit(kernel: str, *, wide: bool) -> bool:
    """Whether the template says that nothing is split."""
    return "(SparseAttnFwdMode)1" in kernel if wide else "false}" in kernel


def _combine_unlike(combine: KernelLaunch, queries: int, heads: tuple[int, ...], parts: int) -> str:
    if COMBINE not in combine.kernel or combine.block != COMBINE_THREADS:
        return "kernel after it"
    arguments = template_arguments(combine.kernel)
    if arguments is not None and arguments[3:4] != [str(combine_room(parts))]:
        return "parts that the kernel after it is built for"
    batch, of_request, eights = combine.grid
    fits = batch > 0 and of_request == queries and eights in [n // 8 for n in heads]
    return "" if fits else "grid of the kernel after it"
