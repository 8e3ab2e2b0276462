"""From a call of ``flash_attn.cute`` to its launches: checks, tile, splits, tile scheduler, grid.

Source: flash_attn/cute of the wheel: interface.py ``_flash_attn_fwd``. Agrees with launches recorded from
the wheel's own host code, in tests/data/golden.
"""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.flash_attn4.launches import (
    Shape,
    before,
    combine_launch,
    main_launch,
)
from attnprof.dispatch.flash_attn4.mla import MlaPlan, is_mla, mla_launch, mla_plan
from attnprof.dispatch.flash_attn4.rules import FwdConfig, Rules, fwd_config
from attnprof.dispatch.flash_attn4.sparse_mla import (
    DECODE,
    decode_launch,
    padded,
    sparse_plan,
    sparse_refusal,
)
from attnprof.dispatch.flash_attn4.wide import wide_launch, wide_refusal
from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction, Reason

AUTOMATIC = -1
_ALIGNMENT = {"fp8": 16}


def predict_call(
    call: AttentionCall, gpu: Gpu, version: str, rules: Rules, *, clc: bool = False
) -> Prediction:
    """The launches of a forward call.

    ``call.num_splits``: 0 is the functions' own default of one split, -1 automatic.  ``clc``: FA_CLC=1 in the
    environment, which lets the hardware hand out tiles.
    Raises UsageError for what is not modelled.
    """
    if call.entry == "fwd_kvcache":
        raise UsageError("flash_attn_4 has no fwd_kvcache", hint="give --entry fwd or --entry varlen_fwd")
    arch = gpu.sm_major * 10 + gpu.sm_minor
    if error := refusal(call, arch):
        return Prediction(error=error)
    shape = settle(call, arch, gpu, rules)
    wide = shape.arch // 10 in (10, 11) and call.head_dim == _v(call) == rules.unsplit_head_dim
    asked = {0: 1, AUTOMATIC: 0}.get(call.num_splits, call.num_splits)
    mla = is_mla(call)
    try:
        config = fwd_config(
            arch, gpu.num_sms, call.batch, call.seqlen_q, call.seqlen_k, call.num_heads, call.num_heads_k,
            call.head_dim, _v(call), shape.pack_gqa, shape.causal, shape.local, shape.window,
            1 if mla else asked, version,
        )  # fmt: skip
    except ValueError as error:
        return Prediction(error=str(error))
    if call.batch * call.seqlen_q == 0 or call.total_q == 0 or call.seqlen_k == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries or no keys"),))
    refused = wide_refusal(call, shape) if wide else kernel_refusal(call, shape, config, rules)
    if refused is not None:
        return Prediction(error=refused)
    plan = None
    if wide:
        scheduler, launch = wide_launch(call, shape, version)
        launches = [launch]
    elif mla and call.index_topk:
        if (refused := sparse_refusal(call, shape, rules, asked)) is not None:
            return Prediction(error=refused)
        plan = sparse_plan(call, shape, config, gpu, rules)
        config = plan.config
        if plan.kind == DECODE:
            scheduler, launch = decode_launch(call, shape, plan, gpu, version)
            shape = replace(shape, varlen=False)  # its partial results are one sequence's
            call = replace(call, seqlen_q=shape.total_q, batch=1)
        else:
            scheduler, launch = mla_launch(call, padded(call, shape, plan, rules), plan, version)
        launches = [launch]
    elif mla:
        plan = mla_plan(call, shape, config, gpu, asked, rules)
        config = plan.config
        scheduler, launch = mla_launch(call, shape, plan, version)
        launches = [launch]
    else:
        shape = replace(shape, pairs=_pairs(call, shape, config, gpu))
        asked_clc = clc and _hands_out(call, shape)
        by_tma = call.page_block_size in (None, config.tile_n)
        shape = replace(shape, asked_clc=asked_clc, clc=asked_clc and by_tma)
        scheduler, launch = main_launch(call, shape, config, gpu, version)
        launches = [*before(call, shape, config, version), launch]
    splits = max(1, config.num_splits)  # 0 splits run as one
    if splits > 1:
        launches.append(combine_launch(call, shape, _v(call), version))
    reasons = _reasons(call, shape, config, gpu, asked, scheduler, plan)
    return Prediction(tuple(launches), splits, reasons=reasons)


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
    if call.dtype == "fp8" and arch // 10 != 10:
        return "FP8 is only supported on SM100 (compute capability 10.x) for FA4 CuTe."
    return None


def kernel_refusal(call: AttentionCall, shape: Shape, config: FwdConfig, rules: Rules) -> str | None:
    """Upstream's words where the kernel refuses what the function took."""
    generation, paged = shape.arch // 10, call.page_block_size is not None
    split = config.num_splits > 1
    if generation in (8, 12) and paged:
        where = "SM 8.0" if generation == 8 else "SM 12.0 in this PR"
        return f"{'paged' if generation == 8 else 'Paged'} KV not supported on {where}"
    if split and (generation == 8 or (generation == 9 and not rules.sm90_splits)):
        return f"SplitKV not supported on SM {generation}.0"
    by_tma = call.page_block_size in (None, config.tile_n)
    irregular = any(size % 16 for size in (call.head_dim, _v(call)))
    if generation in (9, 10, 11) and not by_tma and irregular and not is_mla(call):
        return "Paged KV does not support irregular head dim"
    if is_mla(call) and shape.local:
        return "local not yet supported with qv"
    if is_mla(call) and call.softcap:
        return "assert softcap is None"
    if call.dtype == "fp8" and any(size % 32 for size in (call.head_dim, _v(call))):
        return "Operation creation failed:"  # the DSL's, of a tile that its matrix product does not divide
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
    total = call.batch * call.seqlen_q if call.total_q is None else call.total_q
    varlen = call.entry == "varlen_fwd"
    return Shape(arch, pack, heads, rows, causal, local, window, varlen, total, max(1, groups))


def _pairs(call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu) -> bool:
    """Whether two thread blocks of a cluster share a matrix product (``use_2cta_instrs``)."""
    head_dim, head_dim_v = (ceil_div(size, 16) * 16 for size in (call.head_dim, _v(call)))
    wide = call.head_dim == _v(call) == 256
    few = wide and 2 * call.batch * shape.heads <= gpu.num_sms
    one_block = shape.rows <= config.q_stage * config.tile_m
    return (
        shape.arch // 10 in (10, 11)
        and config.num_splits == 1
        and (not shape.varlen or wide)
        and call.page_block_size in (None, 128)
        and (not one_block or few)
        and (not shape.pack_gqa or config.tile_m % shape.groups == 0)
        and (wide or (not shape.masked and head_dim in (128, 192) and head_dim_v == 128))
    )


def _hands_out(call: AttentionCall, shape: Shape) -> bool:
    """Whether the function has the tiles of a call handed out by the hardware where FA_CLC=1 asks for it."""
    packed = shape.varlen or call.page_block_size is not None
    wide = call.head_dim == _v(call) == 256
    return (
        shape.arch // 10 in (10, 11)
        and not (packed and shape.groups == 1)
        and (packed or shape.masked)
        and not (wide and shape.pairs)
    )


def _reasons(
    call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, asked: int, scheduler: str,
    plan: MlaPlan | None,
) -> tuple[Reason, ...]:  # fmt: skip
    blocks = ceil_div(shape.rows, config.q_stage * config.tile_m) * shape.heads * call.batch
    packed = f"{call.num_heads // call.num_heads_k} query heads share a query block" if shape.pack_gqa else ""
    mla = () if plan is None else (Reason("mla kernel", plan.kind, plan.why),)
    if plan is not None and config.num_splits == 1:
        why = plan.why
    elif asked >= 1:
        why = "the function's own default" if call.num_splits == 0 else "the caller's argument"
    elif config.num_splits == 0:
        why = "more query blocks than SMs; the kernel takes it for one"
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
        *mla,
        Reason("num_splits", str(config.num_splits), why),
        Reason(
            "scheduler",
            "persistent" if "Persistent" in scheduler else "a thread block per tile",
            scheduler,
        ),
    )
