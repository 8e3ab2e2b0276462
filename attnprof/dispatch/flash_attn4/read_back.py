"""From launches of ``flash_attn.cute`` back to the calls that make them.

Names say the architecture and no more, so sizes speak alone: which tile scheduler has such a grid, the split
count where a combine kernel follows, and the KV lengths for which the library would choose it. Head dims,
masks and the queries of a block stay open. FA_CLC=1, which no version has by default, is left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_attn4.read_vllms import read_vllms
from attnprof.dispatch.flash_attn4.rules import MAX_SPLITS, VERSIONS, Rules
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.gpus import GPUS
from attnprof.model import Entry, KernelLaunch

LIBRARY = "flash_attn_4"
UNSEEN = 0  # a split count that no size shows
_NAMED = re.compile(
    r"kernel_cutlass_kernel_(?P<copy>vllmvllm_)?flash_attncuteflash_fwd\w{0,40}?"
    r"FlashAttention(?P<kind>ForwardSm80|ForwardSm90|ForwardSm100|ForwardSm120|"
    r"MLAForwardSm100|MLAForward1CtaSm100|MLAForward1CtaKb64Sm100|ForwardCombine)_object_at_"
)
_BLOCKS = {
    "ForwardSm80": (128,), "ForwardSm120": (128,), "ForwardSm90": (384, 512), "ForwardSm100": (512,),
    "MLAForwardSm100": (384, 512), "MLAForward1CtaSm100": (384, 512), "MLAForward1CtaKb64Sm100": (384, 512),
    "ForwardCombine": (256,),
}  # fmt: skip
_MOST_ROWS = 256  # query rows of a block at most, in any kernel
_FEWEST_BLOCKS = 4
_TILES_N = (64, 80, 96, 112, 128, 144)
_MLA_WIDTH = 4  # thread blocks of the combine kernel over 512 elements
_ANY: Intervals = (Interval(1, None),)
_HEAD_DIM, _LATENT = Interval(8, 256), Interval(64, 512)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A way to such a grid. ``tiles``: query blocks of all heads and sequences before splitting."""

    entry: Entry
    num_splits: int
    batch: int | None
    heads: int | None
    blocks: int | None
    tiles: int | None


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches exactly ``seen``; None of other kernels and of unknown copies."""
    if (own := read_vllms(seen, gpu)) is not None:
        return own
    named = _NAMED.search(seen.main.kernel)
    if named is None or named["kind"] == "ForwardCombine":
        return None
    version = "vllm-0.33.0" if named["copy"] else "4.0.0b36"
    kind, rules = named["kind"], VERSIONS[version]
    if seen.unread:
        return ReadBack(
            (_explanation(version, kind, _Kind("fwd", 1, None, None, None, None), _ANY),), seen.unread
        )
    wrong = _wrong(seen, kind, named["copy"], rules)
    if wrong:
        return ReadBack(nearest=wrong)
    found = tuple(
        dict.fromkeys(
            _explanation(version, kind, each, lengths, chosen)
            for each in _kinds(seen, kind, gpu)
            if _adds_up(each, seen, kind, bool(named["copy"]), gpu.num_sms)
            for lengths, chosen in _lengths(each, kind, gpu, rules)
        )
    )
    return ReadBack(found, nearest="" if found else "grid, unless FA_CLC=1 is set")


def _wrong(seen: Observed, kind: str, copy: str | None, rules: Rules) -> str:
    """What no call has, whatever the grid; "" where all is possible."""
    if seen.main.block not in {(threads, 1, 1) for threads in _BLOCKS[kind]}:
        return "block"
    if seen.combine is None:
        return "kernel before it" if _plans(seen.before) else ""
    combine = _NAMED.search(seen.combine.kernel)
    if combine is None or combine["kind"] != "ForwardCombine" or combine["copy"] != copy:
        return "kernel after it"
    if seen.combine.block != (256, 1, 1):
        return "block of the combine kernel"
    if seen.before is not None and _plans(seen.before) and _plans_wrongly(seen.before):
        return "grid or block of the kernel before it"
    splits = kind in ("ForwardSm100", "MLAForward1CtaSm100", "MLAForward1CtaKb64Sm100")
    return "" if splits or (kind == "ForwardSm90" and rules.sm90_splits) else "kernel after it"


def _plans_wrongly(before: KernelLaunch) -> bool:
    """Whether no batch has such a plan: a warp for 31 sequences, a power of two of them, up to 32 a block."""
    x, y, z = before.block
    warps = x // 32
    whole = x % 32 == 0 and warps in (1, 2, 4, 8, 16, 32) and (y, z) == (1, 1)
    return not whole or before.grid[1:] != (1, 1) or (before.grid[0] > 1 and warps < 32)


def _rows_of_block(main: KernelLaunch, columns: int, copy: bool) -> int:
    """Query rows of a block of a kernel that splits; 0 where none has V so wide.

    columns: 1, or 2 for V beyond 128.  On Hopper the threads tell; on Blackwell two stages of 128, which hold
    fewer rows too. A head dim of 256 has one there, and in vLLM's copy a kernel of another name.
    """
    if "ForwardSm90" in main.kernel:
        return (main.block[0] - 128) // 2
    return 256 if columns == 1 else 0 if copy else 128


def _adds_up(each: _Kind, seen: Observed, kind: str, copy: bool, num_sms: int | None) -> bool:
    """Whether the combine kernel has the rows of the main kernel's query blocks.

    Queries x heads are both the rows of all blocks and what the combine kernel's x is made of, whether or not
    the heads of a KV group are packed.
    """
    combine, main = seen.combine, seen.main
    if combine is None or kind.startswith("MLA"):
        return True
    if each.entry == "varlen_fwd":
        counts: Sequence[int] = (1,)
        if _plans(seen.before):  # blocks x splits, or as many as there are SMs
            if main.grid[0] == (num_sms or main.grid[0]):
                return True
            counts = [count for count in range(2, main.grid[0] + 1) if main.grid[0] % count == 0]
        return any(
            _packed_adds_up(main, main.grid[0] // count, combine.grid[0], columns, copy)
            for count in counts
            for columns in (1, 2)
        )
    columns = combine.grid[1]
    rows = _rows_of_block(main, columns, copy) if columns in (1, 2) else 0
    if not rows or each.batch is None:
        return False
    if each.heads is not None and each.blocks is not None:
        pairs = [(each.heads, each.blocks)]
    else:
        of_one = (each.tiles or 0) // each.batch
        pairs = [(heads, of_one // heads) for heads in range(1, of_one + 1) if of_one % heads == 0]
    for step, (heads, blocks) in itertools.product((8,) if columns == 2 else (8, 16), pairs):
        low, high = (combine.grid[0] - 1) * step + 1, combine.grid[0] * step
        first = max((blocks - 1) * rows + 1, -(-low // heads))
        if first <= min(blocks * rows, high // heads):
            return True
    return False


def _packed_adds_up(main: KernelLaunch, across: int, combined: int, columns: int, copy: bool) -> bool:
    """The same of a packed batch, of which each sequence is rounded up; of how many sequences is open.

    Both grids are (rows + sequences x (block - 1)) / block, times heads and columns.
    """
    rows = _rows_of_block(main, columns, copy)
    if not rows or combined % columns:
        return False
    wanted = combined // columns
    for step, heads in itertools.product((8,) if columns == 2 else (8, 16), range(1, across + 1)):
        if across % heads:
            continue
        whole = across // heads * rows
        # One sequence more takes rows - 1 queries away, until none is left to take.
        enough = max(1, (whole - 1) // (rows - 1))
        fewest = min(
            heads * max(1, whole - count * (rows - 1)) + count * (step - 1) for count in (enough, enough + 1)
        )
        most = heads * whole + step - 1
        if fewest <= wanted * step + step - 1 and wanted * step <= most:
            return True
    return False


def _plans(before: KernelLaunch | None) -> bool:
    return before is not None and "FlashPrepareScheduler" in before.kernel


def _kinds(seen: Observed, kind: str, gpu: GpuFacts) -> Iterator[_Kind]:
    x, y, z = seen.main.grid
    if seen.combine is None:
        yield from _unsplit(kind, x, y, z)
        return
    _, width, batch = seen.combine.grid
    mla = kind.startswith("MLA")
    flat = (width, batch) == (1, 1)
    if _plans(seen.before):
        # The hardware's SMs work off a plan: the split count shows nowhere.
        if flat and (y, z) == (1, 1) and x <= (gpu.num_sms or x) and not mla:
            yield _Kind("varlen_fwd", UNSEEN, None, None, None, None)
        return
    if mla and width not in (_MLA_WIDTH, 1):
        return
    if z == 1 and y >= 2 and kind != "MLAForward1CtaKb64Sm100":
        if flat and (kind != "ForwardSm100"):
            yield _Kind("varlen_fwd", y, None, None, None, None)
        if not mla and x % batch == 0:  # longest first: all tiles in one dimension, splits in another
            yield _Kind("fwd", y, batch, None, None, x)
    for splits in range(2, y + 1):
        if y % splits == 0 and z == batch:
            yield _Kind("fwd", splits, z, y // splits, x, x * y // splits * z)
        if y % splits == 0 and mla and flat and z == 1:
            yield _Kind("varlen_fwd", splits, None, y // splits, None, None)
    for splits in range(2, z + 1) if mla else ():  # tiles handed out by the hardware
        if z % splits == 0 and z // splits == batch:
            yield _Kind("fwd", splits, batch, y, x, None)
        if splits == z and flat:
            yield _Kind("varlen_fwd", splits, None, y, None, None)


def _unsplit(kind: str, x: int, y: int, z: int) -> Iterator[_Kind]:
    flat = (y, z) == (1, 1)
    if flat:
        yield _Kind("varlen_fwd", 1, None, None, None, None)
    if kind == "ForwardSm100":
        if flat:  # persistent, or longest first
            yield _Kind("fwd", 1, None, None, None, None)
        return
    if kind == "MLAForwardSm100" and x % 2:
        return
    if kind == "ForwardSm90" and flat:
        yield _Kind("fwd", 1, None, None, None, x)
    yield _Kind("fwd", 1, z, y, x, x * y * z)
    if kind.startswith("MLA") and z == 1:
        yield _Kind("varlen_fwd", 1, None, y, None, None)


def _lengths(each: _Kind, kind: str, gpu: GpuFacts, rules: Rules) -> Iterator[tuple[Intervals, bool]]:
    """(KV lengths, whether the library chose the split count from them)."""
    yield _ANY, False  # asked for by the caller, as one split is by default
    mla = kind.startswith("MLA")
    if each.num_splits == 1:
        return
    if each.tiles is None or gpu.num_sms is None or mla or not rules.counts_query_heads:
        yield _ANY, True
        return
    most = min(gpu.num_sms // each.tiles, MAX_SPLITS)
    if each.num_splits > most:
        return
    blocks = each.num_splits
    fewest = max(blocks, _FEWEST_BLOCKS + 1) if blocks == most else blocks
    if fewest <= _FEWEST_BLOCKS:
        return
    low = (fewest - 1) * min(_TILES_N) + 1
    high = None if blocks == most else blocks * max(_TILES_N)
    yield (Interval(low, high),), True
    yield (Interval(1, None),), True  # a window reads fewer keys than there are


def _explanation(
    version: str, kind: str, each: _Kind, lengths: Intervals, chosen: bool = False
) -> Explanation:
    rows = None if each.blocks is None else each.blocks * _MOST_ROWS
    batch_heads = each.batch * each.heads if each.batch and each.heads else None
    return Explanation(
        LIBRARY, (version, version), each.entry, False, each.batch, each.heads, batch_heads,
        Interval(1, rows), _LATENT if kind.startswith("MLA") else _HEAD_DIM, each.num_splits, chosen, lengths,
    )  # fmt: skip


def window_may_tell(one: Sequence[KernelLaunch], other: Sequence[KernelLaunch]) -> bool:
    """Whether a window may be why two main kernels of one step differ: it takes splits away.

    Splits are rows of the grid, or multiply its blocks up to the SMs, which then take turns; where neither
    is split, clusters of two are rounded up. MLA has no windows.
    """
    (main, *added), (its, *others) = one, other
    kinds = [found["kind"] if (found := _NAMED.search(each.kernel)) else "" for each in (main, its)]
    if not kinds[0].startswith("ForwardSm") or kinds[0] != kinds[1] or main.block != its.block:
        return False
    if added and others and added != others:
        return False  # whose rows no window changes
    fewer, more = sorted((main.grid[0], its.grid[0]))
    turns = more in {model.num_sms for model in GPUS} | {model.num_sms // 2 * 2 for model in GPUS}
    if not (added or others):
        step = more - fewer  # of one cluster more for each head of each sequence, where blocks are odd
        rounded = step > 0 and fewer % step == 0 and fewer // step % 2 == 1
        return main.grid[1:] == its.grid[1:] and (turns or rounded)
    return main.grid[1:] != its.grid[1:] or not fewer or more % fewer == 0 or turns
