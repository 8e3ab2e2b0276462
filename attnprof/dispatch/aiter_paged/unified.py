"""AITER's unified attention: 2D, or 3D with segments that are added up; segments, tiles and waves by version.

Source: the amd-aiter 0.1.7.post2.dev18 wheel, aiter/ops/triton/unified_attention.py, and ROCm/aiter at
v0.1.20.post1, aiter/ops/triton/attention/unified_attention.py: ``use_2d_kernel``, ``select_2d_config``,
``select_3d_config``; there ``make_kernel_repr`` spells the constants of a split launch out in its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.heuristic import DIVIDES, ceil_div
from attnprof.dispatch.names.spelled_constants import REDUCE, UNIFIED_3D
from attnprof.dispatch.requests import Lengths
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

UNIFIED_2D = "kernel_unified_attention_2d"
_PLAIN = (UNIFIED_3D, REDUCE)
WAVE = 64
BLOCKS_PER_CU = 4
SHORT_KEYS = 512  # up to which it never splits
LONG_QUERIES = 256  # from which a block has more of them
LONG_BLOCK_M = 128
MOST_SEGMENTS = 128
WAVES, LONG_WAVES = 2, 4
WIDE, WIDEST = 256, 512  # head dims from which blocks stay small, and prompts are never split
_OCCUPANCY = {WAVES: 4, LONG_WAVES: 2}  # blocks that fill a SIMD, by the waves of one
_LARGE_TILE, _FP8_TILE = 64, 32  # keys
_DEFAULT_PAGE = 16
_UNEVEN_PAGE = "TILE_SIZE needs to be divisible by block_size"


@dataclass(frozen=True, slots=True)
class _Split:
    """How the 3D kernel cuts keys: segments of each request, the waves of both kernels, keys of a tile."""

    segments: int
    waves: int
    reduce_waves: int
    tile: int


def block_m(groups: int) -> int:
    """Query rows of a block: 16, or from 17 query heads a KV head on the next power of two."""
    return 16 if groups <= 16 else power_of_2(groups)


def segments(blocks: int, num_cus: int, page: int) -> tuple[int, int]:
    """(segments of each request's keys, waves of what adds them up) of 0.1.7; blocks: of the 2D grid."""
    least = 16 if page <= 16 else 8
    wanted = min(power_of_2(ceil_div(num_cus * BLOCKS_PER_CU, blocks)), MOST_SEGMENTS)
    return (wanted, WAVES) if wanted > least else (least, 1)


def tagged_segments(blocks: int, num_cus: int, page: int, keys: int, head_dim: int) -> tuple[int, int]:
    """The same of v0.1.20.post1: no more than the longest request has tiles; keys: its own."""
    tiles = min(MOST_SEGMENTS, ceil_div(keys, min(_LARGE_TILE, power_of_2(page))))
    least = min(16 if head_dim >= WIDEST else 8, tiles)
    waves = LONG_WAVES if head_dim >= WIDEST else WAVES
    wanted = ceil_div(num_cus * BLOCKS_PER_CU * _OCCUPANCY[waves], blocks)
    count = power_of_2(max(min(wanted, tiles), least))
    return count, 1 if count == least else WAVES


def predict_unified(call: AttentionCall, gpu: Gpu, lengths: Lengths, *, tagged: bool) -> Prediction:
    """The launches of ``unified_attention``. ``tagged``: of v0.1.20.post1, else of 0.1.7."""
    if not call.causal:
        return Prediction(error="Only causal attention is supported")
    groups = call.num_heads // call.num_heads_k
    longest = max(call.seqlen_k, *lengths.seqlens_k)
    if not groups:
        return Prediction(error=DIVIDES)
    queries = block_m(groups) // groups
    blocks = _blocks(lengths, queries, tagged)
    programs, most = blocks * call.num_heads_k, gpu.num_sms * BLOCKS_PER_CU
    why = _why_2d(call, longest, programs, most, wide=tagged and lengths.max_q > 1)
    if why:
        rows, waves = _tile_2d(call, groups, lengths.max_q, tagged)
        queries = rows // groups
        if not queries and not (tagged and lengths.max_q == 1):
            return Prediction(error=DIVIDES)
        grid = (call.num_heads_k, _blocks(lengths, queries, tagged), 1)
        made: tuple[KernelLaunch, ...] = (KernelLaunch(UNIFIED_2D, grid, (waves * WAVE, 1, 1)),)
        count, kernel = 1, "2D"
    else:
        split = _split(call, gpu, longest, programs, tagged)
        if isinstance(split, str):
            return Prediction(error=split)
        count, kernel = split.segments, "3D"
        made = _launches_3d(call, lengths, split, (blocks, call.num_heads_k, count), tagged)
        why = f"{programs} blocks of the 2D grid are at most {most}"
    each = "each request's keys are cut into so many" if count > 1 else "its keys are not split"
    return Prediction(
        made,
        count,
        reasons=(
            Reason("query block", str(queries), f"queries of {groups} heads per KV head"),
            Reason("kernel", kernel, why),
            Reason("num_splits", str(count), each),
            Reason(
                "combine", "follows" if len(made) > 1 else "none",
                "over queries and heads" if len(made) > 1 else "one segment",
            ),
        ),
        plan=(("block_q", queries), ("segments", count)),
    )  # fmt: skip


def _blocks(lengths: Lengths, queries: int, tagged: bool) -> int:
    """Blocks of queries, at least as many as there are; of steps of one query each, those of v0.1.20."""
    alone = tagged and lengths.max_q == 1
    return lengths.call.batch if alone else lengths.tokens // queries + lengths.call.batch


def _tile_2d(call: AttentionCall, groups: int, longest: int, tagged: bool) -> tuple[int, int]:
    """(query rows, waves) of a block that sees all keys of its request."""
    if tagged and call.head_dim >= WIDE:
        many = call.head_dim >= WIDEST
        return block_m(groups), LONG_WAVES if many else WAVES
    return (LONG_BLOCK_M, LONG_WAVES) if longest >= LONG_QUERIES else (block_m(groups), WAVES)


def _split(call: AttentionCall, gpu: Gpu, longest: int, programs: int, tagged: bool) -> _Split | str:
    """How keys are cut, or upstream's refusal."""
    page = call.page_block_size or _DEFAULT_PAGE
    if not tagged:
        count, adding = segments(programs, gpu.num_sms, page)
        return _Split(count, WAVES, adding, 0)
    tile = key_tile(page, fp8=call.dtype == "fp8")
    if tile > page and tile % page:
        return _UNEVEN_PAGE
    count, adding = tagged_segments(programs, gpu.num_sms, page, longest, call.head_dim)
    return _Split(count, LONG_WAVES if call.head_dim >= WIDEST else WAVES, adding, tile)


def key_tile(page: int, *, fp8: bool) -> int:
    """Keys of a tile of v0.1.20.post1's split launches."""
    tile = min(_LARGE_TILE, power_of_2(page))
    return max(_FP8_TILE, tile) if fp8 else tile


def _launches_3d(
    call: AttentionCall, lengths: Lengths, split: _Split, grid: tuple[int, int, int], tagged: bool
) -> tuple[KernelLaunch, ...]:
    first, second = names_3d(call, split.segments, split.tile, lengths.max_q == 1) if tagged else _PLAIN
    made = KernelLaunch(first, grid, (split.waves * WAVE, 1, 1))
    if split.segments == 1:
        return (made,)
    adding = (lengths.tokens, call.num_heads, 1)
    return made, KernelLaunch(second, adding, (split.reduce_waves * WAVE, 1, 1))


def names_3d(call: AttentionCall, count: int, tile: int, alone: bool) -> tuple[str, str]:
    """How both kernels of a split step are called, with their constants. ``alone``: one query a request."""
    fp8 = int(call.dtype == "fp8")
    wide = call.head_dim >= WIDEST
    waves, stages = (LONG_WAVES, 1) if wide else (WAVES, 2)
    sizes = f"TILE_SIZE_{tile}_HEAD_SIZE_{call.head_dim}_NUM_SEGMENTS_PER_SEQ_{count}"
    heads = f"num_query_heads_{call.num_heads}"
    first = (
        f"{UNIFIED_3D}_{heads}_num_queries_per_kv_{call.num_heads // call.num_heads_k}"
        f"_BLOCK_SIZE_{call.page_block_size or _DEFAULT_PAGE}_{sizes}_num_warps_{waves}_waves_per_eu_2"
        f"_num_stages_{stages}_ALL_DECODE_{int(alone)}_SHUFFLED_KV_CACHE_0_IS_Q_FP8_{fp8}_IS_KV_FP8_{fp8}"
    )
    return first, f"{REDUCE}_{heads}_{sizes}"


def _why_2d(call: AttentionCall, longest: int, programs: int, most: int, *, wide: bool) -> str:
    if wide and call.head_dim >= WIDEST:
        return f"prompts of a head dim of {call.head_dim} are never split"
    if call.window[0] >= 0:
        return "a sliding window"
    if longest <= SHORT_KEYS:
        return f"the longest request has {longest} keys, at most {SHORT_KEYS}"
    if programs > most:
        return f"{programs} blocks of the 2D grid are more than {BLOCKS_PER_CU} a CU, {most}"
    return ""


def power_of_2(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
