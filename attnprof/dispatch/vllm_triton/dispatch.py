"""From a step of vLLM's Triton backend to its launches."""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.heuristic import DIVIDES, ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.dispatch.vllm_triton.mla import predict_mla
from attnprof.dispatch.vllm_triton.rules import (
    LEAST_GRID_2D,
    MOST_QUERIES_3D,
    REDUCE,
    WARPS,
    Rules,
    block_m,
    segments_and_rows,
    segments_with_keys,
    sequences_3d,
    tile,
)
from attnprof.dispatch.vllm_triton.turboquant import predict_turboquant
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

_PAGE_SIZE = 16  # of a call that does not say
_LARGE_TILE, _LARGE_BLOCK_M, _LARGE_WARPS = 128, 32, 8


@dataclass(frozen=True, slots=True)
class Choice:
    """What a step runs: rows and queries of a block, keys of a tile, segments (1 in 2D), and why.

    ``threshold`` is in sequences, query blocks or blocks of the grid, as the version counts them.
    """

    block_m: int
    block_q: int
    tile: int
    segments: int
    threshold: int
    warps: int
    why: str


def predict_call(call: AttentionCall, gpu: Gpu, rules: Rules) -> Prediction:
    """The main kernel, and in 3D what adds up its segments. Raises UsageError for other entries."""
    if call.entry == "batch_mla":
        return predict_mla(call, gpu, rules)
    if call.entry == "batch_decode":
        return predict_turboquant(call, gpu, rules)
    if call.entry != "batch_paged":
        raise UsageError(
            f"{call.entry} of vllm_triton is not modelled: known are steps over a paged cache",
            hint="give --entry batch_paged, batch_mla for a latent cache or batch_decode for TURBOQUANT's",
        )
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    groups = call.num_heads // call.num_heads_k
    refusal = _refusal(call, rules, groups)
    if refusal:
        return Prediction(error=refusal)
    chosen = choose(call, gpu, rules, lengths, groups)
    blocks = lengths.tokens // chosen.block_q + call.batch
    threads = chosen.warps * (64 if gpu.vendor == "amd" else 32)
    in_3d = chosen.segments > 1
    grid = (blocks, call.num_heads_k, chosen.segments)
    launches = [KernelLaunch(rules.main_3d if in_3d else rules.main_2d, grid, (threads, 1, 1))]
    used: tuple[int, ...] = ()
    if in_3d:
        launches.append(KernelLaunch(REDUCE, (lengths.tokens, call.num_heads, 1), (threads, 1, 1)))
        key_tile = (call.page_block_size or _PAGE_SIZE) if rules.by_page else chosen.tile
        used = tuple(segments_with_keys(keys, chosen.segments, key_tile) for keys in lengths.seqlens_k)
    plan = {
        "block_m": chosen.block_m, "block_q": chosen.block_q, "tile": chosen.tile,
        "segments": chosen.segments,
    }  # fmt: skip
    if rules.threshold != "blocks":
        plan["threshold"] = chosen.threshold
    return Prediction(
        tuple(launches),
        chosen.segments,
        reasons=_reasons(call, rules, chosen, lengths, groups, used),
        plan=tuple(plan.items()),
        splits_of_requests=used,
        all_lengths_known=lengths.known_k,
    )


def _refusal(call: AttentionCall, rules: Rules, groups: int) -> str:
    """Upstream's words, "" where it takes the call."""
    if not call.causal and not rules.non_causal:
        return "Only causal attention is supported"
    if rules.by_page and call.dtype == "fp8" and (call.page_block_size or _PAGE_SIZE) < 32:
        return "Block size must be at least 32 for fp8"
    if not groups or (not rules.grows and groups > block_m(groups, rules)):
        return DIVIDES
    return ""


def choose(call: AttentionCall, gpu: Gpu, rules: Rules, lengths: Lengths, groups: int) -> Choice:
    """2D or 3D and its sizes, as ``unified_attention`` decides."""
    rows, warps = block_m(groups, rules), WARPS
    large = (
        rules.non_causal and call.head_dim == 256 and lengths.max_q > 1 and groups <= 16
        and gpu.vendor == "nvidia" and gpu.sm_major == 10
    )  # fmt: skip
    if large:
        rows, warps = _LARGE_BLOCK_M, _LARGE_WARPS
    queries = rows // groups
    threshold, segments, why = _segments(call, gpu, rules, lengths, queries, large)
    size = 1 if call.dtype == "fp8" else 2
    keys = tile(call.head_dim, call.window[0], size, segments > 1)
    if rules.by_page:
        keys = call.page_block_size or _PAGE_SIZE
    elif large:
        keys = _LARGE_TILE
    return Choice(rows, queries, keys, segments, threshold, warps, why)


def _segments(
    call: AttentionCall, gpu: Gpu, rules: Rules, lengths: Lengths, block_q: int, large: bool
) -> tuple[int, int, str]:
    """(threshold, segments, why): one segment is the 2D kernel."""
    if rules.threshold == "blocks":
        blocks = (lengths.tokens // block_q + call.batch) * call.num_heads_k
        if lengths.max_q > 1:
            return LEAST_GRID_2D, 1, "a request has more than one query"
        if blocks > LEAST_GRID_2D:
            return LEAST_GRID_2D, 1, f"{blocks} blocks of the 2D grid are more than {LEAST_GRID_2D}"
        return LEAST_GRID_2D, 16, f"{blocks} blocks of the 2D grid are at most {LEAST_GRID_2D}"
    threshold = sequences_3d(call.num_heads_k, call.cuda_graph)
    segments, rows = segments_and_rows(
        rules, threshold, call.batch, lengths.tokens, call.num_heads_k, gpu.num_sms,
        gpu.vendor == "nvidia" and (gpu.sm_major, gpu.sm_minor) == (12, 0), call.uniform_q_len,
    )  # fmt: skip
    several = lengths.max_q > 1
    longest = MOST_QUERIES_3D if rules.threshold == "query blocks" else 1
    work = call.batch * (ceil_div(lengths.max_q, block_q) if rules.threshold == "query blocks" else 1)
    counted = "query blocks" if rules.threshold == "query blocks" else "sequences"
    if call.disable_split_kv:
        why = "batch invariance turns segments off"
    elif lengths.max_q > longest:
        why = f"a request has {lengths.max_q} queries, more than {longest}"
    elif several and not call.causal:
        why = "several queries without a causal mask"
    elif several and large:
        why = "a head dim of 256 with several queries has a tile of its own on sm 10.x"
    elif work > threshold:
        why = f"{work} {counted} are more than {threshold}"
    elif lengths.tokens > rows:
        why = f"there is room for the partial results of {rows} queries, not of {lengths.tokens}"
    else:
        return threshold, segments, f"{work} {counted} are at most {threshold}"
    return threshold, 1, why


def _reasons(
    call: AttentionCall, rules: Rules, chosen: Choice, lengths: Lengths, groups: int, used: tuple[int, ...]
) -> tuple[Reason, ...]:
    in_3d = chosen.segments > 1
    wanted = LEAST_GRID_2D // call.num_heads_k
    nearest = f", {wanted} moved to the nearest captured size" if call.cuda_graph else ""
    made = f"{LEAST_GRID_2D} // {call.num_heads_k} KV heads{nearest}"
    if rules.threshold == "blocks":
        made = "blocks of the 2D grid that are enough"
    reasons = [
        Reason("query block", str(chosen.block_q), f"{chosen.block_m} rows of {groups} heads per KV head"),
        Reason("threshold", str(chosen.threshold), made),
        Reason("kernel", "3D" if in_3d else "2D", chosen.why),
        Reason("key tile", str(chosen.tile), "a page" if rules.by_page else "keys at a time"),
        Reason(
            "num_splits", str(chosen.segments),
            "each request's keys are cut into so many, however long" if in_3d else "2D never splits keys",
        ),
    ]  # fmt: skip
    if used:
        reasons.append(
            Reason("segments with keys", split_range(used), lengths.said("the others end at once; read"))
        )
    why = f"{lengths.tokens} queries // {chosen.block_q} + {call.batch} sequences: an upper bound"
    reasons.append(Reason("query blocks", str(lengths.tokens // chosen.block_q + call.batch), why))
    return tuple(reasons)
