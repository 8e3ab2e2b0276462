"""How FlashInfer's fa2 kernels are launched once their occupancy is asked: decode, single calls, merging.

Source: include/flashinfer/attention of the flashinfer-python 0.7.2.post1 wheel: scheduler.cuh
``BatchDecodeWithPagedKVCacheWorkEstimationDispatched`` and ``DecodePlan``; decode.cuh; prefill.cuh
``SinglePrefillWithKVCacheDispatched``; cascade.cuh ``MergeStates`` and ``VariableLengthMergeStates``.
Elements of 2 bytes, no position encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnprof.dispatch.flashinfer.registers import UnknownBlocksError, resident_blocks
from attnprof.dispatch.flashinfer.rules import cta_tile_q
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import Gpu, KernelLaunch

BATCH_DECODE = "flashinfer::BatchDecodeWithPagedKVCacheKernel"  # templates that are compiled on demand
SINGLE_DECODE = "flashinfer::SingleDecodeWithKVCacheKernel"
SINGLE_PREFILL = "flashinfer::SinglePrefillWithKVCacheKernel"
MERGE_LENGTHS = "flashinfer::PersistentVariableLengthMergeStatesKernel"
MERGE_MANY = "flashinfer::MergeStatesLargeNumIndexSetsKernel"
MERGE = "flashinfer::MergeStatesKernel"
GROUPS = (1, 2, 3, 4, 6, 8, 16)  # query heads per KV head that the decode kernels are compiled for
_THREADS = 128
_LEAST_CHUNK = 256  # keys of a chunk of one sequence
_LEAST_KEYS = 128  # of a batch's
_MERGE_STAGES = 4


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What the planner of decode without tensor cores answers; ``kv_chunk_size`` is in keys."""

    split_kv: bool
    num_work_items: int
    padded_batch_size: int
    kv_chunk_size: int
    blocks_per_sm: int
    most_chunks: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """Threads of a decode kernel: along a head, over the heads of a group, over keys."""

    bdx: int
    bdy: int
    bdz: int
    threads: int
    tile: int

    @property
    def block(self) -> tuple[int, int, int]:
        return self.bdx, self.bdy, self.bdz


def decode_lanes(head_dim: int, group: int, single: bool) -> Lanes:
    """``single``: one sequence, whose kernel has more threads for groups of 8 and a larger tile for 1."""
    bdx = head_dim // max(8, head_dim // 32)
    threads = max(512 if single and group == 8 else _THREADS, bdx * group)
    whole = 4 if head_dim >= 512 or not single else 8
    return Lanes(bdx, group, threads // (bdx * group), threads, whole if group == 1 else 1)


def batch_decode_plan(
    seqlens_k: Sequence[int], num_heads: int, num_heads_k: int, head_dim: int, page: int, cuda_graph: bool,
    gpu: Gpu, build: str = "",
) -> DecodePlan | str:  # fmt: skip
    """The plan, or upstream's words. Raises UnknownBlocksError where nobody compiled such a kernel."""
    group = num_heads // num_heads_k
    if group not in GROUPS:
        return f"Unsupported group_size: {group}"
    blocks = batch_decode_blocks(head_dim, group, gpu, build)
    pages = [ceil_div(length, page) for length in seqlens_k]
    most_grid = blocks * gpu.num_sms
    if len(pages) * num_heads_k >= most_grid:
        split, chunk, planned = False, max([1, *pages]), len(pages)
    else:
        chunk = _fewest_pages(pages, num_heads_k, most_grid, max(_LEAST_KEYS // page, 1))
        planned = sum(ceil_div(max(one, 1), chunk) for one in pages)
        split = planned != len(pages) or cuda_graph
    items = [ceil_div(max(one, 1), chunk) for one in pages]
    padded = (most_grid // num_heads_k if split else len(pages)) if cuda_graph else planned
    return DecodePlan(split, sum(items), padded, chunk * page, blocks, max(items))


def batch_decode_blocks(head_dim: int, group: int, gpu: Gpu, build: str = "") -> int:
    """Thread blocks of the decode kernel of a batch that an SM admits. Raises UnknownBlocksError."""
    lanes = decode_lanes(head_dim, group, single=False)
    keys = 4 * lanes.tile * lanes.bdy * lanes.bdz * head_dim * 2
    smem = keys + max(lanes.tile * lanes.threads * 8, 2 * lanes.bdy * lanes.bdz * 4)
    return resident_blocks("batch_decode", head_dim, group, lanes.threads, smem, gpu, build)


def _fewest_pages(pages: Sequence[int], num_heads_k: int, most_grid: int, least: int) -> int:
    """``PartitionPagedKVCacheBinarySearchMinNumPagePerBatch``."""
    low, high = least, max(pages)
    while low < high:
        middle = (low + high) // 2
        if sum(ceil_div(one, middle) for one in pages) * num_heads_k > most_grid:
            low = middle + 1
        else:
            high = middle
    return low


def batch_decode_launches(
    plan: DecodePlan, batch: int, num_heads: int, num_heads_k: int, head_dim: int, gpu: Gpu, build: str = ""
) -> tuple[KernelLaunch, ...]:
    """The decode kernel and, where keys are split, the merge kernel."""
    lanes = decode_lanes(head_dim, num_heads // num_heads_k, single=False)
    rows = lanes.bdy * lanes.bdz
    keys = max(4 * lanes.tile * rows * head_dim * 2, rows * head_dim * 4)
    smem = keys + max(lanes.tile * lanes.threads * 8, 2 * rows * 4)
    main = KernelLaunch(BATCH_DECODE, (plan.padded_batch_size, num_heads_k, 1), lanes.block, smem)
    return (main, merge_lengths(batch, num_heads, head_dim, gpu, build)) if plan.split_kv else (main,)


def merge_lengths(rows: int, num_heads: int, head_dim: int, gpu: Gpu, build: str = "") -> KernelLaunch:
    """The kernel that adds up the chunks of sequences of any lengths. Raises UnknownBlocksError."""
    bdx = head_dim // max(8, head_dim // 32)
    bdy = _THREADS // bdx
    smem = _MERGE_STAGES * bdy * head_dim * 2 + _THREADS * 4
    resident = resident_blocks("merge", head_dim, 0, _THREADS, smem, gpu, build)
    blocks = min(resident, ceil_div(rows * num_heads, gpu.num_sms))
    return KernelLaunch(MERGE_LENGTHS, (gpu.num_sms * blocks, 1, 1), (bdx, bdy, 1), smem)


def merge_one(chunks: int, rows: int, num_heads: int, head_dim: int) -> KernelLaunch:
    """``MergeStates``: the kernel that adds up the chunks of one sequence's ``rows`` queries."""
    bdx = head_dim // max(8, head_dim // 32)
    if chunks < rows:
        return KernelLaunch(MERGE, (rows, 1, 1), (bdx, num_heads, 1))
    bdy = _THREADS // bdx
    smem = _MERGE_STAGES * bdy * head_dim * 2 + _THREADS * 4
    return KernelLaunch(MERGE_MANY, (rows, num_heads, 1), (bdx, bdy, 1), smem)


@dataclass(frozen=True, slots=True)
class SingleCall:
    """How one sequence is launched; ``num_chunks`` is 1 where its keys are not split.

    ``blocks_per_sm`` is None where nobody asked. ``kv_chunk_size`` is in keys.
    """

    launches: tuple[KernelLaunch, ...]
    num_chunks: int
    kv_chunk_size: int
    blocks_per_sm: int | None
    cta_tile_q: int = 1


def single_decode(
    num_heads: int, num_heads_k: int, head_dim: int, seqlen_k: int, gpu: Gpu, build: str = ""
) -> SingleCall | str:
    """``single_decode_with_kv_cache`` without tensor cores. Raises UnknownBlocksError."""
    group = num_heads // num_heads_k
    if group not in GROUPS:
        return f"Unsupported group_size: {group}"
    lanes = decode_lanes(head_dim, group, single=True)
    rows = lanes.bdy * lanes.bdz
    smem = max(4 * rows * lanes.tile * head_dim * 2, rows * head_dim * 4) + 2 * rows * 4
    if seqlen_k <= _LEAST_CHUNK:
        main = KernelLaunch(SINGLE_DECODE, (1, num_heads_k, 1), lanes.block, smem)
        return SingleCall((main,), 1, seqlen_k, None)
    blocks = resident_blocks("single_decode", head_dim, group, lanes.threads, smem, gpu, build)
    most = blocks * gpu.num_sms // num_heads_k
    if most == 0:
        raise UnknownBlocksError(f"{num_heads_k} KV heads are more than the GPU holds thread blocks")
    chunk = max(ceil_div(seqlen_k, most), _LEAST_CHUNK)
    chunks = ceil_div(seqlen_k, chunk)
    main = KernelLaunch(SINGLE_DECODE, (chunks, num_heads_k, 1), lanes.block, smem)
    return SingleCall((main, merge_one(chunks, 1, num_heads, head_dim)), chunks, chunk, blocks)


def single_prefill(
    num_heads: int,
    num_heads_k: int,
    head_dim: int,
    seqlen_q: int,
    seqlen_k: int,
    causal: bool,
    gpu: Gpu,
    build: str = "",
) -> SingleCall | str:
    """``single_prefill_with_kv_cache``, backend fa2. Raises UnknownBlocksError."""
    if causal and seqlen_k < seqlen_q:
        return (
            "When mask_mode is set to MaskMode::kCausal, kv_len must be greater than or equal to qo_len, "
            f"got kv_len{seqlen_k} and qo_len {seqlen_q}"
        )
    rows = seqlen_q * (num_heads // num_heads_k)
    tile = cta_tile_q(rows, head_dim, head_dim, gpu.smem_per_block_optin, gpu.sm_major)
    warps_q = 4 if tile > 16 else 1
    warps_kv = 4 // warps_q
    blocks = single_prefill_blocks(tile, head_dim, causal, gpu, build)
    smem = key_steps(tile, head_dim, gpu)[1]
    tiles = ceil_div(rows, tile)
    most = blocks * gpu.num_sms // (num_heads_k * tiles)
    chunk = max(ceil_div(seqlen_k, most), _LEAST_CHUNK) if most else max(seqlen_k, 1)
    chunks = max(ceil_div(seqlen_k, chunk), 1)
    block = (32, warps_q, warps_kv)
    main = KernelLaunch(SINGLE_PREFILL, (tiles, chunks, num_heads_k), block, smem)
    launches = (main,) if chunks <= 1 else (main, merge_one(chunks, seqlen_q, num_heads, head_dim))
    return SingleCall(launches, chunks, chunk, blocks, tile)


def single_prefill_blocks(tile: int, head_dim: int, causal: bool, gpu: Gpu, build: str = "") -> int:
    """Thread blocks of such a prefill kernel that an SM admits. Raises UnknownBlocksError."""
    steps, smem = key_steps(tile, head_dim, gpu)
    return resident_blocks("single_prefill", head_dim, (tile, steps, causal), _THREADS, smem, gpu, build)


def key_steps(tile: int, head_dim: int, gpu: Gpu) -> tuple[int, int]:
    """(NUM_MMA_KV, bytes of shared memory): as many as leave room for a second thread block.

    head_dim: below 512, K and V alike.  Raises UnknownBlocksError where not one fits.
    """
    warps_kv, most = (1 if tile > 16 else 4), (4 if tile > 64 else 8)
    fixed = tile * head_dim * 2
    step = 2 * head_dim * 16 * warps_kv * 2
    resident = 2 if gpu.smem_per_sm >= 2 * (fixed + step) else 1
    room = min(gpu.smem_per_sm // resident, gpu.smem_per_block_optin)
    steps = min((room - fixed) // step, most)
    if steps < 1:
        raise UnknownBlocksError(f"head dim {head_dim} does not fit the shared memory of {gpu.name}")
    steps = 1 << (steps.bit_length() - 1)
    return steps, fixed + steps * step
