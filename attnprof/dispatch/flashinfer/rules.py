"""FlashInfer's plans of a paged batch, backends fa2 and fa3: query tile, KV chunk, work items, grid.

Source: include/flashinfer of the flashinfer-python wheel: attention/scheduler.cuh ``PrefillSplitQOKVIndptr``,
``PrefillBinarySearchKVChunkSize``, ``PrefillPlanImpl``, ``PrefillSM90Plan``; utils.cuh
``FA2DetermineCtaTileQ``; attention/prefill.cuh; attention/hopper. Decode with tensor cores takes it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

DEFAULT_VERSION = "0.7.2.post1"  # what vLLM 0.33.0 asks for
OLDER = "0.6.13"  # the last whose trtllm-gen kernels were published as a package
OLDEST = "0.6.8.post1"  # what vLLM 0.20 and 0.21 require; its kernels are a package too
BEFORE, NEWEST = "0.7.2", "0.7.4"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a version does otherwise.

    ``newer``: trtllm-gen's selection of 0.7.  ``oldest``: that of 0.6.8.  ``planned``: the entries that were
    read beside trtllm-gen, None for all.  ``clamps``: no more than 16 thread blocks share keys that are few.
    ``window_first``: whether a window binds is known when tiles are weighed.  ``more_on_cudnn``: on Blackwell
    ``auto`` leaves more to it.  ``short_on_fa2``: on Hopper ``auto`` keeps batches of 64 queries a sequence
    and less on fa2.  ``build``: whose kernels' registers are asked for, "" for 0.7.2's.
    """

    newer: bool = True
    oldest: bool = False
    planned: tuple[str, ...] | None = None
    clamps: bool = True
    window_first: bool = False
    more_on_cudnn: bool = False
    short_on_fa2: bool = False
    build: str = ""


VERSIONS = {
    DEFAULT_VERSION: Rules(),
    NEWEST: Rules(window_first=True, more_on_cudnn=True, short_on_fa2=True, build="0.7.4"),
    BEFORE: Rules(clamps=False),
    OLDER: Rules(newer=False, planned=()),
    OLDEST: Rules(newer=False, oldest=True, planned=("batch_paged", "batch_mla"), build="0.6.8"),
}
BLOCKS_PER_SM = 2
_LEAST_KEYS = 128  # in a chunk
_INT64_MAX = (1 << 63) - 1
TOO_MANY = (
    "new batch size should not exceed padded batch size. If you are using fixed split size, please consider "
    "disabling cuda graph."
)


def rules_for(version: str) -> Rules:
    """Raises UsageError for a version whose header nobody has read."""
    found = VERSIONS.get(version.strip())
    if found is None:
        raise UsageError(
            f"flashinfer {version} is not modelled: the rules known are those of {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )
    return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What the planner answers.

    ``num_work_items``: pairs of a query tile and a KV chunk.  ``padded_batch_size``: thread blocks along x,
    which a CUDA graph fixes.  ``kv_chunk_size`` is in keys, wrapped around where splitting is off.
    ``most_chunks`` and ``fewest_chunks``: chunks of the sequences that have most and fewest.
    """

    split_kv: bool
    num_work_items: int
    padded_batch_size: int
    cta_tile_q: int
    kv_chunk_size: int
    grid: tuple[int, int, int]
    fewest_chunks: int
    most_chunks: int

    def fields(self) -> dict[str, object]:
        """The plan as files hold it."""
        return {
            "split_kv": self.split_kv,
            "num_work_items": self.num_work_items,
            "padded_batch_size": self.padded_batch_size,
            "cta_tile_q": self.cta_tile_q,
            "kv_chunk_size": self.kv_chunk_size,
            "grid": list(self.grid),
        }


def cta_tile_q(packed_q: int, head_dim_v: int, head_dim: int, smem_per_block: int, sm_major: int) -> int:
    """Rows of a query tile for so many packed query rows (queries x heads per KV head).

    smem_per_block: bytes a block may opt into, which decides for 16 rows.  Keys of 2 bytes.
    """
    if head_dim_v >= 512:
        return 16 if packed_q <= 32 else 32
    if head_dim >= 512:
        return 16
    if packed_q > 64 and head_dim_v < 256:
        return 128
    if sm_major < 8 or packed_q > 16:
        return 64
    needed = 16 * head_dim * 2 + (head_dim + head_dim_v) * 16 * 4 * 2
    return 64 if needed > smem_per_block else 16


def kv_chunk_size(
    work: Mapping[tuple[int, int], int], most_items: int, least: int, cuda_graph: bool
) -> tuple[bool, int]:
    """(whether keys are split, pages of a chunk): the smallest chunk whose work items fit ``most_items``.

    work: how many sequences have so many (query tiles, pages).
    """
    longest = max([1, *(pages for _, pages in work)])
    low, high = least, longest
    while low < high:
        middle = (low + high) // 2
        items = sum(tiles * ceil_div(max(pages, 1), middle) * times for (tiles, pages), times in work.items())
        if items > most_items:
            low = middle + 1
        else:
            high = middle
    return cuda_graph or low < longest, low


@dataclass(frozen=True, slots=True)
class Batch:
    """A paged batch: queries and keys of each sequence, and what the caller asks of the planner.

    ``fixed_split_size`` is in pages, None for none.
    """

    seqlens_q: Sequence[int]
    seqlens_k: Sequence[int]
    num_heads: int
    num_heads_k: int
    head_dim: int
    head_dim_v: int
    page_size: int
    window_left: int = -1
    cuda_graph: bool = False
    fixed_split_size: int | None = None
    disable_split_kv: bool = False
    uniform_q_len: int = 0
    fixed_uniform_q_len: bool = False

    @property
    def promised(self) -> int:
        """Queries that every sequence has in every plan of the graph, 0 where nobody says so."""
        return self.uniform_q_len if self.cuda_graph else 0


def plan_batch(batch: Batch, num_sms: int, smem_per_block: int, sm_major: int) -> Plan | str:
    """The plan, or upstream's words where it refuses."""
    if batch.num_heads % batch.num_heads_k:
        return f"num_qo_heads {batch.num_heads} should be divisible by num_kv_heads {batch.num_heads_k}"
    groups = batch.num_heads // batch.num_heads_k
    size = len(batch.seqlens_q)
    packed = [queries * groups for queries in batch.seqlens_q]
    rows, promised = sum(batch.seqlens_q), batch.promised
    if (
        promised
        and (other := next((i for i, one in enumerate(packed) if one != promised * groups), None)) is not None
    ):
        return _not_uniform(other, packed[other], promised, groups)
    # A graph keeps its grid for any lengths with as many queries in all.
    longest = (promised or rows - size + 1) * groups if batch.cuda_graph else sum(packed) // size
    tile = cta_tile_q(longest, batch.head_dim_v, batch.head_dim, smem_per_block, sm_major)
    pages = [ceil_div(keys, batch.page_size) for keys in batch.seqlens_k]
    if batch.window_left >= 0:
        seen = ceil_div(batch.window_left + tile, batch.page_size)
        pages = [min(seen, one) for one in pages]
    work = Counter(zip((ceil_div(one, tile) for one in packed), pages, strict=True))
    most_items = BLOCKS_PER_SM * num_sms // batch.num_heads_k
    split, chunk = False, _INT64_MAX
    fixed = batch.fixed_split_size if (batch.fixed_split_size or 0) > 0 else None
    if not batch.disable_split_kv:
        if fixed:
            chunk = fixed
        else:
            least = max(_LEAST_KEYS // batch.page_size, 1)
            split, chunk = kv_chunk_size(work, most_items, least, batch.cuda_graph)
    chunks = {pair: 1 if batch.disable_split_kv else ceil_div(max(pair[1], 1), chunk) for pair in work}
    if fixed and not batch.disable_split_kv:
        split = any(number > 1 for number in chunks.values())
    items = sum(tiles * chunks[tiles, one] * times for (tiles, one), times in work.items())
    padded = items
    if batch.cuda_graph:
        tiles = size * ceil_div(longest, tile) if promised else ceil_div(rows * groups, tile) + size - 1
        padded = max(most_items, tiles)
        if batch.fixed_uniform_q_len and promised and tiles > most_items and not fixed:
            split = False
    if items > padded:
        return TOO_MANY
    keys = (chunk * batch.page_size + (1 << 63)) % (1 << 64) - (1 << 63)
    return Plan(
        split, items, padded, tile, keys, (padded, 1, batch.num_heads_k),
        min(chunks.values()), max(chunks.values()),
    )  # fmt: skip


def _not_uniform(sequence: int, packed: int, promised: int, groups: int) -> str:
    return (
        f"qo_indptr gives request {sequence} a packed qo length of {packed}, "
        f"but uniform_q_len={promised} promises {promised * groups}"
    )


_SAME_SCHEDULE_ABOVE = 4096  # query tiles of a head


def plan_sm90(batch: Batch, num_sms: int) -> Plan | str:
    """The plan of backend fa3: tiles are dealt out to one thread block per SM, and keys are never split.

    Heads are not packed: each has its own query tiles, in one schedule for all where these are many.
    """
    if batch.num_heads % batch.num_heads_k:
        return f"num_qo_heads {batch.num_heads} should be divisible by num_kv_heads {batch.num_heads_k}"
    tile = 192 if batch.head_dim_v == 64 else 128
    tiles = sum(ceil_div(queries, tile) for queries in batch.seqlens_q)
    most = ceil_div(sum(batch.seqlens_q), tile) + len(batch.seqlens_q) - 1
    alike = most > _SAME_SCHEDULE_ABOVE
    items = tiles * (1 if alike else batch.num_heads)
    padded = most * (1 if alike else batch.num_heads) if batch.cuda_graph else items
    grid = (num_sms, batch.num_heads if alike else 1, 1)
    return Plan(False, items, padded, tile, max(batch.seqlens_k, default=0), grid, 1, 1)
