"""From a trtllm-gen launch back to its call: the name states the kernel, the grid its blocks."""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flashinfer.rules import DEFAULT_VERSION, OLDER, OLDEST
from attnprof.dispatch.flashinfer.trtllm_gen import stated
from attnprof.dispatch.flashinfer.trtllm_gen_ask import Ask, MissingKernelError
from attnprof.dispatch.flashinfer.trtllm_gen_kernels import (
    CAUSAL,
    DENSE,
    DYNAMIC_PAGE,
    SLIDING,
    Kind,
    Mode,
    Sparse,
    Traits,
    exists,
)
from attnprof.dispatch.flashinfer.trtllm_gen_select import CLUSTER_MOST, Selected, reduction_grid, select
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.model import Entry

_ANY: Intervals = (Interval(1, None),)
_LONGEST = 1 << 22  # keys
_MASKS = {"dense": DENSE, "causal": 1, "sliding or chunked": SLIDING}
_MODES = {
    "no": Mode.NONE, "in global memory": Mode.GLOBAL, "GmemSep": Mode.REDUCTION_KERNEL,
    "in a cluster": Mode.CLUSTER,
}  # fmt: skip
_SPARSE = {"no": Sparse.NO, "static": Sparse.STATIC, "dynamic": Sparse.DYNAMIC}
_DTYPES: dict[tuple[str, ...], str] = {
    ("bf16", "bf16", "bf16"): "bf16", ("fp16", "fp16", "fp16"): "fp16", ("fp8", "fp8", "bf16"): "fp8",
    ("bf16", "fp8", "bf16"): "bf16/fp8", ("fp16", "fp8", "fp16"): "fp16/fp8",
    ("fp8", "nvfp4", "fp8"): "fp8/nvfp4",
}  # fmt: skip
_REDUCTION_BLOCK = (512, 1, 1)
_LARGEST_TILE = 128


def read_back_trtllm_gen(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches it; None where the kernel is in no table that was read."""
    traits = traits_of(seen.main.kernel)
    if traits is None:
        return None
    unread = list(seen.unread)
    if gpu.num_sms is None:
        unread.append("SM count")
    wrong = _wrong(seen, traits, gpu)
    if wrong:
        return ReadBack((), tuple(unread), wrong)
    return ReadBack(tuple(_explanations(seen, traits, gpu)), tuple(unread))


def traits_of(kernel: str) -> Traits | None:
    """The traits of a kernel in the table of flashinfer-cubin 0.6.13; None of others."""
    told = dict(stated(kernel))
    elements = tuple(str(told.get(name)) for name in ("dtype", "kv_dtype", "out_dtype"))
    dtype = _DTYPES.get(elements)
    mode, mask = _MODES.get(str(told.get("multi_cta"))), _MASKS.get(str(told.get("mask")))
    separate, sparse = told.get("kv_layout") == "separate", _SPARSE.get(str(told.get("sparse")))
    if dtype is None or mode is None or mask is None or sparse is None:
        return None
    if not separate and told.get("kv_layout") != "paged":
        return None
    sizes = {name: int(str(told[name])) for name in ("head_dim", "head_dim_v", "block_m", "block_n")}
    page = 0 if separate else told["page_size"]
    kind = next((kind for kind in Kind if kernel.endswith(kind.value)), Kind.CONTEXT)
    if "/" in dtype and kind is Kind.SWAPS and mask == DENSE:
        mask = CAUSAL  # as the table has it
    traits = Traits(
        dtype, sizes["head_dim"], sizes["head_dim_v"],
        int(str(told.get("head_dim_v_per_cta", sizes["head_dim_v"]))), kind, mode, mask,
        DYNAMIC_PAGE if page is None else int(str(page)), page is None, told["scheduler"] == "persistent",
        sizes["block_m"], sizes["block_n"], "2Cta" in kernel, separate, sparse,
    )  # fmt: skip
    known = exists(traits) and kernel in (traits.name(False), traits.name(True))
    return traits if known else None


def _wrong(seen: Observed, traits: Traits, gpu: GpuFacts) -> str:
    """In what the launches differ from any of this kernel, "" where in nothing."""
    x, y, z = seen.main.grid
    per_dim = 1 if traits.two_cta else traits.head_dim_v // traits.head_dim_per_cta_v
    if any(seen.main.block) and seen.main.block != (traits.threads, 1, 1):
        return "block"
    shares = traits.mode is not Mode.NONE
    if traits.persistent == shares or (traits.kind is Kind.CONTEXT and shares):
        return "scheduler"
    reduces = traits.mode is Mode.REDUCTION_KERNEL
    if reduces != (seen.combine is not None):
        return "number of kernels"
    if seen.combine is not None and seen.combine.block not in ((0, 0, 0), _REDUCTION_BLOCK):
        return "reduction kernel's block"
    if not any(seen.main.grid):
        return ""
    if y % per_dim or (traits.two_cta and x % 2):
        return "grid"
    if seen.combine is not None and any(seen.combine.grid) and not _adds_up(seen, traits, gpu):
        return "reduction kernel's grid"
    if _narrowed_in_vain(seen, traits, gpu):
        return "grid"
    if not shares:
        return "grid" if x > 1 and _tile_too_small(traits, y * z, gpu) else ""
    least = 4 if traits.two_cta else 2
    crowded = gpu.num_sms is not None and x * y * z > gpu.num_sms  # each SM takes one at most
    blocks = x // 2 if traits.two_cta else x  # query blocks x those that share the keys
    meets = traits.mode is not Mode.CLUSTER or any(blocks % one == 0 for one in range(2, CLUSTER_MOST + 1))
    return "grid" if crowded or x < least or not meets else ""


def _narrowed_in_vain(seen: Observed, traits: Traits, gpu: GpuFacts) -> bool:
    """Whether V was shared out among thread blocks though the keys' blocks leave too few SMs idle.

    Grouped drafts narrow it by other sizes; they keep A and B and pick no keys.
    """
    grouped = traits.kind is Kind.KEEPS and traits.sparse is Sparse.NO
    narrow = traits.head_dim_v == 512 and traits.head_dim_per_cta_v < 512 and not traits.two_cta
    if not traits.mla or grouped or not narrow or gpu.num_sms is None:
        return False
    x, y, z = seen.main.grid
    before = x * y * z * traits.head_dim_per_cta_v // traits.head_dim_v
    factor = 1 if z == 1 and traits.head_dim == 576 else 2
    return before * factor * (2 if traits.head_dim_per_cta_v == 128 else 1) > gpu.num_sms


def _adds_up(seen: Observed, traits: Traits, gpu: GpuFacts) -> bool:
    """Whether some of the main kernel's query blocks go with the reduction kernel's grid."""
    x, y, z = seen.main.grid
    grid = seen.combine.grid if seen.combine is not None else (0, 0, 0)
    if gpu.num_sms is None:
        return grid[2] == z
    heads = 2 if traits.two_cta else y * traits.head_dim_per_cta_v // traits.head_dim_v
    blocks = x // 2 if traits.two_cta else x
    shared = (one for one in range(1, blocks // 2 + 1) if blocks % one == 0)
    return any(reduction_grid(traits, one, heads, z, gpu.num_sms) == grid for one in shared)


def _tile_too_small(traits: Traits, others: int, gpu: GpuFacts) -> bool:
    """Whether drafts would have taken a larger tile, that holds all rows of a sequence.

    A smaller one is weighed where twice the thread blocks of the larger fit the SMs.
    """
    small = traits.groups_tokens and traits.tile_q < _LARGEST_TILE
    return small and gpu.num_sms is not None and 2 * others > gpu.num_sms


def _explanations(seen: Observed, traits: Traits, gpu: GpuFacts) -> list[Explanation]:
    grid = seen.main.grid
    known = any(grid)
    per_dim = 1 if traits.two_cta else traits.head_dim_v // traits.head_dim_per_cta_v
    heads, batch = (_heads(traits, grid[1] // per_dim), grid[2]) if known else (None, None)
    others = traits.separate or traits.transforms or traits.sparse is not Sparse.NO  # not of the oldest
    both = (OLDER if others else OLDEST, OLDER if traits.dtype == "bf16/fp8" else DEFAULT_VERSION)
    if traits.kind is Kind.CONTEXT:
        last = grid[0] * traits.step_q if known else None
        first = last - traits.step_q + 1 if last else 1
        whole: Entry = "varlen_fwd" if traits.separate else "batch_paged"
        return [_made(traits, both, whole, batch, heads, Interval(first, last), 1, _ANY)]
    entry: Entry = "batch_mla" if traits.mla else "batch_decode"
    shares = traits.mode is not Mode.NONE
    splits = (grid[0] // (2 if traits.two_cta else 1) if shares else 1) if known else 0
    found = []
    told = (
        known and gpu.num_sms is not None and not traits.mla
    )  # whose kernel changes to and fro with the keys
    if told and gpu.num_sms:
        for version in dict.fromkeys((OLDER, both[1])):  # the former launches these as 0.6.8 does
            lengths = _lengths(seen, traits, gpu.num_sms, version != OLDER)
            if lengths:
                found.append(
                    _made(traits, (version, version), entry, batch, heads, Interval(1, 1), splits, lengths)
                )
    # Drafts: query blocks and key blocks share x, or the one query block takes them all.
    drafts = Interval(2 if told else 1, None)
    found.append(_made(traits, both, entry, batch, heads, drafts, 0 if shares else 1, _ANY))
    return found


def _heads(traits: Traits, blocks: int) -> int | None:
    """KV heads, or latent attention's query heads where one tile does not hold them.

    None where a tile serves larger groups too: one of 16 over a cache of another dtype.
    """
    if traits.transforms and traits.kind is Kind.SWAPS and traits.tile_q == 16:
        return None
    if not traits.mla:
        return blocks
    return 2 * traits.tile_q if traits.two_cta else blocks * traits.tile_q if blocks > 1 else 1


def _made(
    traits: Traits, versions: tuple[str, str], entry: Entry, batch: int | None, heads: int | None,
    queries: Interval, splits: int, lengths: Intervals,
) -> Explanation:  # fmt: skip
    """``num_splits`` is 0 where the launch does not tell it."""
    product = batch * heads if batch and heads else None
    return Explanation(
        "flashinfer", versions, entry, False, batch, heads, product, queries,
        Interval(traits.head_dim, traits.head_dim), splits, True, lengths,
    )  # fmt: skip


def _lengths(seen: Observed, traits: Traits, num_sms: int, newer: bool) -> Intervals:
    """The KV lengths of one-query calls that launch this, found by asking; all of sliding windows' calls.

    The grid grows with the keys, and so does the kernel change with it: ends of the run are bisected.
    """
    grid = seen.main.grid
    ask = _ask(traits, grid, num_sms, newer)
    low, high = _first(ask, traits, grid, 0), _first(ask, traits, grid, 1)
    if high <= low or not _same(_asked(ask, traits, low), traits, grid):
        return ()
    if traits.mask == SLIDING:
        return _ANY
    return (Interval(low, None if high > _LONGEST else high - 1),)


def _ask(traits: Traits, grid: tuple[int, int, int], num_sms: int, newer: bool) -> Ask:
    """With as many query heads per KV head as the tile holds: any that need this tile are alike."""
    heads_k = max(grid[1] // (traits.head_dim_v // traits.head_dim_per_cta_v), 1)
    return Ask(
        traits.dtype, False, grid[2], 1, 1, heads_k * traits.tile_q, heads_k, traits.head_dim,
        traits.head_dim_v, traits.page, None, True, num_sms, newer=newer,
    )  # fmt: skip


def _asked(ask: Ask, traits: Traits, keys: int) -> Selected | None:
    window = max(keys - 1, 1) if traits.mask == SLIDING else None
    clusters = 0 if traits.mode is Mode.GLOBAL else None  # which of the two kernels only the GPU decides
    try:
        return select(replace(ask, seqlen_k=keys, window=window, active_clusters=clusters))
    except MissingKernelError:
        return None


def _same(found: Selected | None, traits: Traits, grid: tuple[int, int, int]) -> bool:
    return found is not None and found.traits == traits and found.launches[0].grid == grid


def _first(ask: Ask, traits: Traits, grid: tuple[int, int, int], more: int) -> int:
    """The fewest keys whose grid is ``more`` blocks wider than ``grid``, or wider still."""
    low, high = 2 if traits.mask == SLIDING else 1, _LONGEST + 1  # a single key slides over none
    while low < high:
        middle = (low + high) // 2
        found = _asked(ask, traits, middle)
        if found is not None and found.launches[0].grid[0] >= grid[0] + more:
            high = middle
        else:
            low = middle + 1
    return low
