"""From AITER's launches back to the call: heads, sequences, blocks of queries, and MLA's split count.

Neither Composable Kernel's forward nor the assembly's ever splits, so no kernel adds up after them. MLA's
first stage states queries, sequences and splits, its second sequences and heads. The assembly's paged
attention is named only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from attnprof.dispatch.aiter import assembly
from attnprof.dispatch.aiter.planned_mla import REDUCE, REDUCE_PERSISTENT
from attnprof.dispatch.aiter.read_planned import planned_names, read_planned, read_split, split_names
from attnprof.dispatch.aiter.rules import BLOCK_M, DEFAULT_VERSION, TAGGED, THREADS, WAVE
from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack, merged
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.symbols import own_name
from attnprof.model import Entry

LIBRARY = "aiter"
_CK = "ck_tile::FmhaFwdKernel"
_ANY: Intervals = (Interval(1, None),)
_FP8_BITS = 8  # of a query's number
_MOST_SEARCHED = 16  # splits of MLA that AITER takes itself
_QUERIES = range(1, 17)  # of a decode step; from 9 on nothing else is told


def template_fields(kernel: str) -> tuple[tuple[str, object], ...] | None:
    """What the name of an assembly kernel that is predicted states; how it rounds is the caller's choice."""
    if own_name(kernel) not in (*_forward_names(), *_mla_steps(), *split_names(), *planned_names()):
        return None
    fields = tuple(field for field in parse_kernel_name(kernel).stated if field[0] != "rounding")
    bits = dict(fields).get("q_bits")
    return fields if bits is None else (*fields, ("dtype", "fp8" if bits == _FP8_BITS else "bf16"))


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches exactly ``seen``; None of kernels whose launches are not predicted."""
    if _CK in seen.main.kernel:
        return _composable_kernel(seen, gpu)
    name = own_name(seen.main.kernel)
    if name in (assembly.STAGE2, REDUCE, REDUCE_PERSISTENT):
        return ReadBack(nearest="kernel before it", cut=True)
    if name in _forward_names():
        return _forward(seen, gpu, name)
    if name == assembly.OPUS:
        return _opus(seen, gpu)
    told = [_mla(seen, name)] if name in _mla_steps() else []
    if name in split_names():
        told.append(read_split(seen, gpu, name))
    if name in planned_names():
        told.append(read_planned(seen, gpu, name))
    return merged(told)


def _composable_kernel(seen: Observed, gpu: GpuFacts) -> ReadBack:
    heads, blocks, batch = seen.main.grid
    named = dict(parse_kernel_name(seen.main.kernel).stated)
    stated, waves = named.get("block_m"), named.get("waves")
    rows = stated if isinstance(stated, int) else BLOCK_M
    queries = Interval((blocks - 1) * rows + 1, blocks * rows) if blocks else Interval(1, None)
    kinds: tuple[tuple[Entry, bool, Interval], ...] = (("fwd", False, queries), ("fwd", True, queries))
    small = rows < WAVE  # a tile that is taken by no more queries than it holds, and by no packed batch
    if not small:
        kinds = (*kinds, ("varlen_fwd", False, Interval(1, queries.high)))
    explained = tuple(
        _explanation(entry, batch or None, heads or None, one, Interval(1, 256), folded=folded)
        for entry, folded, one in kinds
    )
    if seen.unread:
        return ReadBack(explained, seen.unread)
    if small and blocks != 1:
        return ReadBack(nearest="grid")
    unnamed = stated is None and blocks == 1 and gpu.sm in (None, assembly.GFX950)
    threads = {WAVE} if small else {THREADS, WAVE} if unnamed else {THREADS}
    if isinstance(waves, int):
        threads = {waves * WAVE}
    return _unless(_alone(seen, {(one, 1, 1) for one in threads}), explained)


def _alone(seen: Observed, blocks: set[tuple[int, int, int]]) -> str:
    """What no kernel has that never splits; "" where nothing is wrong."""
    if seen.combine is not None:
        return "kernel after it"
    return "" if seen.main.block in blocks else "block"


def _unless(wrong: str, explained: tuple[Explanation, ...]) -> ReadBack:
    return ReadBack(nearest=wrong) if wrong else ReadBack(explained, nearest="" if explained else "grid")


@cache
def _forward_names() -> dict[str, tuple[int, bool, bool, tuple[int, int]]]:
    """Head dim of Q, causal, packed, and the GPUs of each code object that is shipped."""
    found = {}
    for causal in (False, True):
        for group in (False, True):
            for arch, dim, rounding in (
                *((assembly.GFX942, 128, one) for one in assembly.ROUNDINGS),
                *(((assembly.GFX942, 192, one) for one in assembly.ROUNDINGS) if group else ()),
                (assembly.GFX950, 128, ""), (assembly.GFX950, 192, ""),
            ):  # fmt: skip
                name = assembly.forward_name(dim, causal=causal, rounding=rounding, group=group)
                found[name] = (dim, causal, group, arch)
    return found


def _forward(seen: Observed, gpu: GpuFacts, name: str) -> ReadBack:
    dim, causal, group, arch = _forward_names()[name]
    entry: Entry = "varlen_fwd" if group else "fwd"
    if group:
        heads, batch, blocks = seen.main.grid
    else:
        blocks, heads, batch = seen.main.grid
    newer = arch == assembly.GFX942 and dim == 192  # of v0.1.20.post1, a tile a thread block
    step = assembly.ROWS[dim] * (2 if causal and not newer else 1)
    least = 1 if group else assembly.LEAST_QUERIES
    queries = Interval(max(least, (blocks - 1) * step + 1), blocks * step or None)
    one = _explanation(entry, batch or None, heads or None, queries, Interval(dim, dim))
    explained = (replace(one, versions=(TAGGED, TAGGED)) if newer else one,)
    if seen.unread:
        return ReadBack(explained, seen.unread)
    if gpu.vendor == "amd" and gpu.sm not in (None, arch):
        return ReadBack(nearest="kernel, of another GPU")
    return _unless(_alone(seen, {(assembly.THREADS[dim], 1, 1)}), explained)


def _opus(seen: Observed, gpu: GpuFacts) -> ReadBack:
    """A packed batch of head dims 192 and 128; of a mask its template tells, which is not read."""
    heads, batch, blocks = seen.main.grid
    rows = assembly.OPUS_ROWS
    queries = Interval(max(1, (blocks - 1) * rows + 1), 2 * blocks * rows or None)
    one = _explanation("varlen_fwd", batch or None, heads or None, queries, Interval(192, 192))
    explained = (replace(one, versions=(TAGGED, TAGGED)),)
    if seen.unread:
        return ReadBack(explained, seen.unread)
    if gpu.sm not in (None, assembly.GFX950):
        return ReadBack(nearest="kernel, of another GPU")
    return _unless(_alone(seen, {(assembly.OPUS_THREADS, 1, 1)}), explained)


@cache
def _mla_steps() -> dict[str, list[tuple[int, int, int, str]]]:
    """Heads, queries, rows of a block and dtype of the steps that each first stage serves."""
    found: dict[str, list[tuple[int, int, int, str]]] = {}
    for heads in assembly.MLA_HEADS:
        for dtype in ("bf16", "fp8"):
            for queries in _QUERIES:
                kernel = assembly.mla_kernel(heads, queries, dtype)
                if not isinstance(kernel, str):
                    found.setdefault(kernel[0], []).append((heads, queries, kernel[1], dtype))
    return found


def _mla(seen: Observed, name: str) -> ReadBack:
    blocks, batch, splits = seen.main.grid
    steps = _mla_steps()[name]
    heads, _, rows, _ = steps[0]
    first, last = min(one[1] for one in steps), max(one[1] for one in steps)
    if seen.unread:
        return ReadBack((_mla_explanation(None, heads, Interval(first, None), 1, chosen=True),), seen.unread)
    if seen.main.block != (assembly.MLA_THREADS, 1, 1):
        return ReadBack(nearest="block")
    low = max(first, (blocks - 1) * rows // heads + 1)
    high = blocks * rows // heads
    high = high if last == _QUERIES[-1] else min(high, last)
    if low > high or ceil_div(low * heads, rows) != blocks or min(batch, splits) < 1:
        return ReadBack(nearest="grid")
    whole = [
        assembly.writes_result(splits, queries, dtype)
        for _, queries, _, dtype in steps
        if low <= queries <= high
    ]
    if seen.combine is None:
        if not any(whole):
            return ReadBack(nearest="kernel after it", cut=True)
        low, high = (4, 4) if steps[0][3] == "bf16" else (low, high)
    else:
        after = seen.combine
        if own_name(after.kernel) != assembly.STAGE2 or all(whole or [False]):
            return ReadBack(nearest="kernel after it")
        if after.block != (assembly.STAGE2_THREADS, 1, 1):
            return ReadBack(nearest="block of the kernel after it")
        if after.grid != (batch, heads, 1):
            return ReadBack(nearest="grid of the kernel after it")
    return ReadBack(tuple(_mla_counts(batch, heads, Interval(low, high), splits)))


def _mla_counts(batch: int, heads: int, queries: Interval, splits: int) -> Iterator[Explanation]:
    """Asked for by the caller, or of up to 16 AITER's own."""
    yield _mla_explanation(batch, heads, queries, splits, chosen=False)
    if splits <= _MOST_SEARCHED:
        yield _mla_explanation(batch, heads, queries, splits, chosen=True)


def _mla_explanation(
    batch: int | None, heads: int, queries: Interval, splits: int, *, chosen: bool
) -> Explanation:
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "fwd_kvcache", False, batch, heads,
        batch * heads if batch else None, queries, Interval(576, 576), splits, chosen, _ANY,
    )  # fmt: skip


def _explanation(
    entry: Entry, batch: int | None, heads: int | None, queries: Interval, head_dim: Interval,
    *, folded: bool = False,
) -> Explanation:  # fmt: skip
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), entry, folded, batch, heads,
        batch * heads if batch and heads else None, queries, head_dim, 1, True, _ANY,
    )  # fmt: skip
