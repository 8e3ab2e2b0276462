"""A call that launches just what a trace shows, by the forward prediction; of any library.

Where one is looked for, the explanations read back tell; whether it is one, the prediction alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import Explanation, ReadBack
from attnprof.dispatch.flash_attn4.mla import LATENT
from attnprof.dispatch.flex_attention.rules import main_grid
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from tests.spoil import flashinfer_scenes, triton_scenes
from tests.support.sized_witnesses import sized

Launches = tuple[KernelLaunch, ...]
_LONG = 1 << 20  # keys
# Head dims of Q and V whose results are added up in one column, and in two.
_DIMS_OF_FLASH_ATTN_4: tuple[tuple[tuple[int, int | None], ...], ...] = (
    ((64, None), (96, None), (128, None), (192, 128), (128, 64)),
    ((256, None), (192, None), (64, 256), (96, 256)),
)


def shown(launches: Launches) -> list[object]:
    """What a trace holds of a call's launches: no shared memory, and no metadata that a step makes once."""
    return [
        (one.kernel, one.grid, one.block)
        for one in launches
        if parse_kernel_name(one.kernel).role != "metadata"
    ]


def witness(
    launches: Launches, gpu: Gpu, call: AttentionCall, version: str, back: ReadBack
) -> AttentionCall | None:
    """A call near ``call``, or that an explanation names, which launches just these; None where none is."""
    if call.library == "flex_attention":
        return _main_of_flex_attention(launches, call)
    if call.library == "flashinfer":
        found = flashinfer_scenes.witness(launches, gpu, call)
    else:
        asked = {call.library, *(one.library for one in back.explanations)}
        found = triton_scenes.witness(launches, gpu) if asked & set(triton_scenes.VERSIONS) else None
    if call.library == "flash_mla" and len(launches) > 1:
        found = _asked(_of_flash_mla(launches, call), launches, gpu, (version,))
    if call.library == "flash_attn_4" and len(launches) > 1:
        whole = _split_by_flash_attn_4(launches, call) if len(launches) == 2 else ()
        latent = _latent_by_flash_attn_4(launches, call) if call.head_dim_v == LATENT else ()
        near = itertools.chain(latent, _packed_by_flash_attn_4(launches, call), whole)
        found = _asked(near, launches, gpu, (version,))
    found = found or _by_own_version(sized(launches, call, back), launches, gpu)
    return found or _first(launches, gpu, call, version, back)


def _main_of_flex_attention(launches: Launches, call: AttentionCall) -> AttentionCall | None:
    """A call whose main kernel, of BLOCK_M 16 and warps that kernel_options give, is the launch."""
    (main,) = launches
    x, batch, heads = main.grid
    warps, left = divmod(main.block[0], 32)
    asked = replace(call, batch=batch, seqlen_q=x * 16, num_heads=heads, num_heads_k=heads)
    same = main_grid(asked.batch, asked.seqlen_q, asked.num_heads, 16) == main.grid
    threads = left == 0 and warps in (1, 2, 4, 8, 16, 32) and main.block[1:] == (1, 1)
    return asked if same and threads else None


def _of_flash_mla(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """Steps whose requests x queries and heads, eight a block, are the combine kernel's grid."""
    heads_k, (rows, _, eights) = launches[-2].grid[1], launches[-1].grid
    for queries in (count for count in range(1, rows + 1) if rows % count == 0):
        for heads in range(8 * eights - 7, 8 * eights + 1):
            if heads % heads_k == 0:
                yield replace(
                    call, batch=rows // queries, seqlen_q=queries, num_heads=heads, num_heads_k=heads_k
                )


def _asked(
    calls: Iterable[AttentionCall], launches: Launches, gpu: Gpu, versions: Iterable[str]
) -> AttentionCall | None:
    """The first of the calls that launches just these."""
    wanted = shown(launches)
    for asked in calls:
        for version in versions:
            try:
                if shown(libraries.predict(asked, gpu, version).launches) == wanted:
                    return asked
            except UsageError:
                continue
    return None


def _by_own_version(calls: Iterable[AttentionCall], launches: Launches, gpu: Gpu) -> AttentionCall | None:
    """The first of the calls that its library launches just these for, in its default version or another."""

    def versions(name: str) -> tuple[str, ...]:
        return libraries.default_version(name), *libraries.library(name).known_versions()

    return next((one for one in calls if _asked((one,), launches, gpu, versions(one.library))), None)


def _split_by_flash_attn_4(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """Calls whose queries x heads are the rows that the combine kernel adds up."""
    (x, y, z), (combined, width, batch) = (one.grid for one in launches)
    masked = z == 1 and x % batch == 0  # all tiles in one dimension, longest first
    counts = [y] if masked else [count for count in range(2, y + 1) if y % count == 0]
    for splits, (head_dim, head_dim_v) in itertools.product(counts, _DIMS_OF_FLASH_ATTN_4[width == 2]):
        step = 16 if head_dim <= 64 else 8
        blocks = x // batch if masked else x
        most = blocks if masked else y // splits
        for heads in (count for count in range(1, most + 1) if masked or count == most):
            for rows in range(-(-((combined - 1) * step + 1) // heads), combined * step // heads + 1):
                for causal in {masked, call.causal}:
                    yield replace(
                        call, entry="fwd", batch=batch, seqlen_q=rows, seqlen_k=max(rows, call.seqlen_k),
                        num_heads=heads, num_heads_k=heads, head_dim=head_dim, num_splits=splits,
                        causal=causal, head_dim_v=head_dim_v,
                    )  # fmt: skip


def _packed_by_flash_attn_4(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """Packed batches of which the combine kernel, with each sequence rounded up, has so many blocks."""
    main, combined = launches[-2].grid, launches[-1].grid[0]
    warps = launches[0].block[0] // 32
    counts = {main[1]} if main[1] > 1 else {2, 3, call.num_splits} | {main[0]}
    for splits, heads, batch, (head_dim, head_dim_v) in itertools.product(
        sorted(counts), (1, 2, 4, 5, call.num_heads, *main[:1]),
        dict.fromkeys((1, 2, 3, 5, call.batch, 31 * warps, *range(4, 60, 5))),
        (pair for dims in _DIMS_OF_FLASH_ATTN_4 for pair in dims),
    ):  # fmt: skip
        step = 16 if head_dim <= 64 else 8
        columns = 2 if (head_dim, head_dim_v) in _DIMS_OF_FLASH_ATTN_4[1] else 1
        total = (combined // columns * step - batch * (step - 1)) // heads
        for rows in (total, total + 1, total + step // heads):
            if rows > 0:
                yield replace(
                    call, entry="varlen_fwd", batch=batch, seqlen_q=rows, total_q=rows, num_heads=heads,
                    num_heads_k=heads, head_dim=head_dim, head_dim_v=head_dim_v, num_splits=splits,
                    seqlen_k=max(call.seqlen_k, rows),
                )  # fmt: skip


def _latent_by_flash_attn_4(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """Packed batches of MLA: the combine kernel has eight rows a block, the main one 64, with each sequence
    rounded up, or a query's heads."""
    (across, *splits), combined = launches[-2].grid, launches[-1].grid[0] // 4
    for batch, low in ((n, 8 * combined - 7 * n) for n in range(1, 2 * across + 100)):
        for rows, heads in itertools.product(range(max(low, 1), low + 8), (128, 64, 32, 16, 8, 4, 2, 1)):
            total = rows // heads
            fits = rows % heads == 0 and across in (total, (rows + 63 * batch) // 64)
            for queries in dict.fromkeys((-(-total // batch), total)) if fits else ():
                yield replace(
                    call, batch=batch, seqlen_q=queries, total_q=total, num_heads=heads,
                    num_splits=max(splits), seqlens_q=(), seqlens_k=(),
                )  # fmt: skip


def _first(
    launches: Launches, gpu: Gpu, call: AttentionCall, version: str, back: ReadBack
) -> AttentionCall | None:
    for one in back.explanations:
        versions = dict.fromkeys((version, *one.versions)) if one.library == call.library else one.versions
        if found := _asked(_calls(one, launches, call), launches, gpu, versions):
            return found
    return None


def _calls(one: Explanation, launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """The calls of an explanation, at the ends of what it leaves open."""
    lengths = _lengths(one, launches, call)
    keys = [end for interval in one.seqlen_k for end in _ends(interval.low, interval.high, call.seqlen_k)]
    counts = (0, -1) if one.chosen else dict.fromkeys((one.num_splits or call.num_splits, call.num_splits, 0))
    dims = dict.fromkeys(_ends(one.head_dim.low, one.head_dim.high, call.head_dim)[:3])
    base = replace(call, library=one.library, entry=one.entry, seqlens_q=(), seqlens_k=(), total_q=None)
    for head_dim, (batch, heads), length, capacity, count in itertools.product(
        dims, _sizes(one, launches, call), lengths, keys, counts
    ):
        sized = replace(base, batch=batch, seqlen_k=capacity, num_splits=count, head_dim=head_dim)
        if one.folded:
            folded = replace(sized, num_heads=heads * length, num_heads_k=heads, seqlen_q=1, causal=False)
            yield _packed(folded, one)
            continue
        own = call.num_heads // call.num_heads_k
        for group in dict.fromkeys((own, 1) if "flash" in one.library else (own, 1, 2, 4, 8, 16, heads)):
            if heads % group == 0:
                grouped = replace(sized, num_heads=heads, num_heads_k=heads // group, seqlen_q=length)
                yield from _flagged(grouped, one)


def _packed(call: AttentionCall, one: Explanation) -> AttentionCall:
    return replace(call, total_q=call.batch * call.seqlen_q if one.entry == "varlen_fwd" else None)


def _flagged(call: AttentionCall, one: Explanation) -> Iterator[AttentionCall]:
    """With what a caller may pass beside the sizes, as far as the explanation leaves it open."""
    plain = replace(
        _packed(call, one), sm_margin=one.sm_margin, seqlen_knew=call.seqlen_q if one.appends else None
    )
    yield plain
    if call.library == "flash_attn_3" and one.entry == "fwd_kvcache":
        for lengths, planned, packed in itertools.product((True, False), repeat=3):
            total = call.batch * call.seqlen_q if packed else None
            yield replace(plain, cache_seqlens=lengths, scheduler_metadata=planned, total_q=total)
    if call.library == "flash_attn":
        yield replace(plain, page_block_size=256, cache_seqlens=one.entry == "fwd_kvcache")
    if call.library == "flash_attn_4":
        yield replace(plain, causal=not plain.causal)
    if call.library == "vllm_flash_attn":
        yield replace(plain, scheduler_metadata=True)


def _sizes(one: Explanation, launches: Launches, call: AttentionCall) -> list[tuple[int, int]]:
    """(batch, heads) that an explanation leaves open, the call's own where it says nothing of them."""
    if one.batch and one.heads:
        return [(one.batch, one.heads)]
    if one.batch_heads:
        own = [(one.batch_heads // heads, heads) for heads in (call.num_heads, call.num_heads_k, 1)]
        return [pair for pair in (*own, (1, one.batch_heads)) if pair[0] * pair[1] == one.batch_heads]
    last = launches[-1].grid
    if one.batch or one.heads:
        batches = [one.batch] if one.batch else sorted({call.batch, 1, *last})
        heads = (
            [one.heads, one.heads * (call.num_heads // call.num_heads_k)] if one.heads else [call.num_heads]
        )
        return list(itertools.product(batches, heads))
    if len(launches) == 1:
        return [(call.batch, call.num_heads), (1, 1)]
    rows = [last[0] * block_m for block_m in (8, 16, 32)]  # of the kernel that adds up
    pairs = [(call.batch, call.num_heads), (last[2], call.num_heads), (1, 1), (last[2], 1)]
    pairs += [(launches[0].block[0] // 32 * 31, 1)]  # sequences that a plan has warps for
    pairs += [(count, 1) for count in rows] + [(last[2], count) for count in rows]
    return list(dict.fromkeys(pairs))


def _lengths(one: Explanation, launches: Launches, call: AttentionCall) -> list[int]:
    """Queries: the ends of what is left open, and whole tiles of as many as a grid has."""
    sizes = {size for launch in launches for size in launch.grid}
    whole = [size * tile for size in sizes for tile in (8, 16, 64, 128, 192, 256)]
    ends = _ends(one.seqlen_q.low, one.seqlen_q.high, call.seqlen_q)
    return list(dict.fromkeys((*ends, *(length for length in whole if length in one.seqlen_q))))


def _ends(low: int, high: int | None, own: int) -> list[int]:
    last = max(low, _LONG) if high is None else high
    inside: Iterable[int] = (own,) if low <= own <= last else ()
    return list(dict.fromkeys((*inside, max(low, 1), last)))
