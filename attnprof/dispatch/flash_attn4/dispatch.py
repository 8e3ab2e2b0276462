"""From a call of ``flash_attn.cute`` to its launches: checks, tile, splits, tile scheduler, grid.

Source: flash_attn/cute of the wheel: interface.py ``_flash_attn_fwd`` and ``_flash_attn_fwd_combine``,
tile_scheduler.py ``get_grid_shape``, flash_fwd.py, flash_fwd_sm90.py, flash_fwd_sm100.py and
flash_fwd_combine.py.
Read, not recorded: grids, threads and schedulers agree with no launch that anybody has seen yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.flash_attn4.rules import FwdConfig, Rules, Window, fwd_config
from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

AUTOMATIC = -1
_THREADS_SM80, _THREADS_SM100, _THREADS_COMBINE = 128, 512, 256
_ALIGNMENT = {"fp8": 16}
_PREFIX = {"vllm-0.33.0": "vllmvllm_flash_attncute"}


@dataclass(frozen=True, slots=True)
class Shape:
    """A call as the library sees it: heads that count, rows of a query block, masks in its form."""

    arch: int
    pack_gqa: bool
    heads: int
    rows: int
    causal: bool
    local: bool
    window: Window
    varlen: bool


def predict_call(call: AttentionCall, gpu: Gpu, version: str, rules: Rules) -> Prediction:
    """The launches of a forward call.

    ``call.num_splits``: 0 is the functions' own default of one split, -1 automatic.
    Raises UsageError for what is not modelled.
    """
    if call.entry == "fwd_kvcache":
        raise UsageError("flash_attn_4 has no fwd_kvcache", hint="give --entry fwd or --entry varlen_fwd")
    arch = gpu.sm_major * 10 + gpu.sm_minor
    if error := refusal(call, arch):
        return Prediction(error=error)
    shape = settle(call, arch, gpu, rules)
    if shape.arch // 10 in (10, 11) and call.head_dim == _v(call) == rules.unsplit_head_dim:
        raise UsageError(
            f"head dim {call.head_dim} on {gpu.name} is not modelled: "
            f"flash_attn_4 {version} has a kernel of its own for it",
            hint="give --version 4.0.0b36, whose grid is known",
        )
    asked = {0: 1, AUTOMATIC: 0}.get(call.num_splits, call.num_splits)
    try:
        config = fwd_config(
            arch, gpu.num_sms, call.batch, call.seqlen_q, call.seqlen_k, call.num_heads, call.num_heads_k,
            call.head_dim, _v(call), shape.pack_gqa, shape.causal, shape.local, shape.window, asked, version,
        )  # fmt: skip
    except ValueError as error:
        return Prediction(error=str(error))
    if config.num_splits > 1 and arch // 10 in (8, 9):
        return Prediction(error=f"SplitKV not supported on SM {arch // 10}.0")
    if call.batch * call.seqlen_q == 0 or call.total_q == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    scheduler, launch = _main(call, shape, config, gpu, version)
    launches = [launch, *([_combine(call, config, shape)] if config.num_splits > 1 else [])]
    return Prediction(
        tuple(launches), config.num_splits, reasons=_reasons(call, shape, config, gpu, asked, scheduler)
    )


def _v(call: AttentionCall) -> int:
    return call.head_dim if call.head_dim_v is None else call.head_dim_v


def refusal(call: AttentionCall, arch: int) -> str | None:
    """Upstream's words where it refuses head dims or an architecture; None where it takes them.

    Source: interface.py, ``_validate_head_dims``.
    """
    head_dim, head_dim_v = call.head_dim, _v(call)
    if arch // 10 not in (8, 9, 10, 11, 12):
        return f"Unsupported compute capability: {arch}. Supported: 8.x, 9.x, 10.x, 11.x, 12.x"
    if call.num_heads % call.num_heads_k:
        return "num_head must be divisible by num_head_kv"
    alignment = _ALIGNMENT.get(call.dtype, 8)
    aligned = head_dim % alignment == head_dim_v % alignment == 0
    if arch // 10 == 9 and not (8 <= head_dim <= 256 and 8 <= head_dim_v <= 256 and aligned):
        return (
            f"(head_dim, head_dim_v)=({head_dim}, {head_dim_v}) is not supported on SM90. "
            f"head_dim and head_dim_v must be between 8 and 256 and divisible by {alignment}."
        )
    pairs = ((192, 128), (256, 256), (64, 512), (512, 512))
    usual = 8 <= head_dim <= 128 and 8 <= head_dim_v <= 128
    if arch // 10 in (10, 11) and not ((usual or (head_dim, head_dim_v) in pairs) and aligned):
        return (
            f"(head_dim, head_dim_v)=({head_dim}, {head_dim_v}) is not supported on SM100/SM110. head_dim "
            f"and head_dim_v must be between 8 and 128 and divisible by {alignment}, or (192, 128) for "
            "DeepSeek, or (256, 256) for hd256."
        )
    if arch // 10 in (8, 12) and call.page_block_size is not None:
        where = "SM 8.0" if arch // 10 == 8 else "SM 12.0 in this PR"
        return f"{'paged' if arch // 10 == 8 else 'Paged'} KV not supported on {where}"
    return None


def settle(call: AttentionCall, arch: int, gpu: Gpu, rules: Rules) -> Shape:
    """Masks as ``_resolve_causal_local_window`` leaves them, and whether query heads are packed."""
    left, right = (None if bound < 0 else bound for bound in call.window)
    if call.causal:
        right = 0
    causal, local = (True, False) if (left, right) == (None, 0) else (False, (left, right) != (None, None))
    window = (None, None) if causal else (left, right)
    groups = call.num_heads // call.num_heads_k
    pack = groups > 1 if call.pack_gqa is None else call.pack_gqa
    hd256 = arch // 10 in (10, 11) and call.head_dim == _v(call) == 256
    one_split = call.num_splits in (0, 1)
    if call.pack_gqa is None and hd256 and rules.unsplit_head_dim is None and 128 % max(1, groups):
        few = one_split and 2 * call.batch * call.num_heads <= gpu.num_sms
        pack = pack and not (call.seqlen_q > 128 or few)
    heads = call.num_heads_k if pack else call.num_heads
    rows = call.seqlen_q * (groups if pack else 1)
    return Shape(arch, pack, heads, rows, causal, local, window, call.entry == "varlen_fwd")


def _main(
    call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, version: str
) -> tuple[str, KernelLaunch]:
    """The tile scheduler and the main kernel."""
    generation = shape.arch // 10
    masked = shape.causal or shape.local
    if generation in (10, 11):
        return _blackwell(call, shape, config, gpu, version)
    blocks = ceil_div(shape.rows, config.tile_m)
    threads = _THREADS_SM80 if generation in (8, 12) else 2 * config.tile_m + 128
    if shape.varlen:
        scheduler, grid = "SingleTileVarlenScheduler", _packed(call, shape, config.tile_m, 1, 1)
    elif generation == 9 and masked and not shape.local:
        scheduler, grid = "SingleTileLPTScheduler", (blocks * shape.heads * call.batch, 1, 1)
    else:
        scheduler, grid = "SingleTileScheduler", (blocks, shape.heads, call.batch)
    return scheduler, KernelLaunch(_name(shape.arch, version), grid, (threads, 1, 1))


def _blackwell(
    call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, version: str
) -> tuple[str, KernelLaunch]:
    """SM 10.x and 11.x: persistent, by clusters of two blocks, or a block per tile."""
    masked, split = shape.causal or shape.local, config.num_splits > 1
    one_block = shape.rows <= config.q_stage * config.tile_m
    cluster = 2 if _pairs(call, shape, config, gpu, one_block) else 1
    persistent = (not masked and not shape.varlen and not split) or (
        one_block and not split and not (cluster == 2 and not shape.varlen and masked)
    )
    rows_per_block = config.q_stage * config.tile_m
    blocks = ceil_div(shape.rows, rows_per_block * (cluster if not persistent else 1))
    if persistent and (shape.varlen or not masked):
        total = ceil_div(blocks, cluster) * shape.heads * call.batch
        grid = (min(gpu.num_sms // cluster * cluster, total * cluster), 1, 1)
        scheduler = "StaticPersistentTileScheduler"
    elif shape.varlen:
        scheduler = "SingleTileVarlenScheduler"
        grid = _packed(call, shape, rows_per_block, config.num_splits, cluster)
    elif masked:
        scheduler = "SingleTileLPTScheduler"
        physical = 1 if persistent else cluster
        grid = (blocks * shape.heads * call.batch * physical, config.num_splits, 1)
    else:
        scheduler = "SingleTileScheduler"
        grid = (blocks * cluster, shape.heads * config.num_splits, call.batch)
    return scheduler, KernelLaunch(_name(shape.arch, version), grid, (_THREADS_SM100, 1, 1))


def _pairs(call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, one_block: bool) -> bool:
    """Whether two thread blocks of a cluster share a matrix product (``use_2cta_instrs``)."""
    head_dim, head_dim_v = (ceil_div(size, 16) * 16 for size in (call.head_dim, _v(call)))
    wide = call.head_dim == _v(call) == 256
    few = wide and 2 * call.batch * shape.heads <= gpu.num_sms
    groups = call.num_heads // call.num_heads_k
    return (
        config.num_splits == 1
        and (not shape.varlen or wide)
        and call.page_block_size in (None, 128)
        and (not one_block or few)
        and (not shape.pack_gqa or config.tile_m % groups == 0)
        and (wide or (not shape.causal and not shape.local and head_dim in (128, 192) and head_dim_v == 128))
    )


def _packed(
    call: AttentionCall, shape: Shape, rows_per_block: int, num_splits: int, cluster: int
) -> tuple[int, int, int]:
    """The grid of a packed batch: as many blocks as its sequences may need, whatever their lengths."""
    total = call.batch * call.seqlen_q if call.total_q is None else call.total_q
    if shape.pack_gqa:
        total *= call.num_heads // call.num_heads_k
    most = (total + call.batch * (cluster * rows_per_block - 1)) // rows_per_block
    return (most // cluster * cluster * shape.heads, num_splits, 1)


def _combine(call: AttentionCall, config: FwdConfig, shape: Shape) -> KernelLaunch:
    """Source: ``_flash_attn_fwd_combine`` and flash_fwd_combine.py."""
    head_dim = _v(call)
    columns = 64 if head_dim <= 64 else 128
    rows = 8 if columns == 128 else 16
    if shape.varlen:
        total = call.batch * call.seqlen_q if call.total_q is None else call.total_q
        most = (total * call.num_heads + call.batch * (rows - 1)) // rows
        grid = (most * ceil_div(head_dim, columns), 1, 1)
    else:
        rows_of_all = ceil_div(call.seqlen_q * call.num_heads, rows)
        grid = (rows_of_all, ceil_div(head_dim, columns), call.batch)
    return KernelLaunch(
        _kernel("flash_fwd_combineFlashAttentionForwardCombine", ""), grid, (_THREADS_COMBINE, 1, 1)
    )


def _name(arch: int, version: str) -> str:
    module, name = {
        8: ("flash_fwd", "FlashAttentionForwardSm80"),
        9: ("flash_fwd_sm90", "FlashAttentionForwardSm90"),
        12: ("flash_fwd_sm120", "FlashAttentionForwardSm120"),
    }.get(arch // 10, ("flash_fwd_sm100", "FlashAttentionForwardSm100"))
    return _kernel(f"{module}{name}", version)


def _kernel(spelled: str, version: str) -> str:
    """A kernel's name up to its arguments, which the DSL writes behind it."""
    return f"kernel_cutlass_kernel_{_PREFIX.get(version, 'flash_attncute')}{spelled}_object_at_"


def _reasons(
    call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, asked: int, scheduler: str
) -> tuple[Reason, ...]:
    blocks = ceil_div(shape.rows, config.q_stage * config.tile_m) * shape.heads * call.batch
    packed = f"{call.num_heads // call.num_heads_k} query heads share a query block" if shape.pack_gqa else ""
    if asked >= 1:
        why = "the function's own default" if call.num_splits == 0 else "the caller's argument"
    elif config.num_splits == 1:
        why = "few key blocks, or query blocks for every SM"
    else:
        why = f"{gpu.num_sms} SMs for {blocks} query blocks, no more than key blocks and 128"
    return (
        Reason("pack_gqa", "yes" if shape.pack_gqa else "no", packed or "each query head has its own blocks"),
        Reason(
            "tile",
            f"{config.tile_m} x {config.tile_n}",
            f"queries x keys, {config.q_stage} query tile{'s' * (config.q_stage > 1)} a block",
        ),
        Reason(
            "query blocks", str(blocks), f"of {config.q_stage * config.tile_m} rows, all heads and sequences"
        ),
        Reason("num_splits", str(config.num_splits), why),
        Reason(
            "scheduler",
            "persistent" if "Persistent" in scheduler else "a thread block per tile",
            f"{scheduler}; read in the source, not recorded",
        ),
    )
