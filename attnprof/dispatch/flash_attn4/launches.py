"""flash_attn.cute's launches: tile schedulers, grids, threads, and how the CuTe DSL spells the kernels.

Source: tile_scheduler.py ``get_grid_shape``, flash_fwd.py, flash_fwd_sm90.py, flash_fwd_sm100.py,
flash_fwd_combine.py and prepare_scheduler.py of flash_attn/cute.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.flash_attn4.rules import FwdConfig, Window
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import AttentionCall, Gpu, KernelLaunch

SINGLE, LPT = "SingleTileScheduler", "SingleTileLPTScheduler"
PACKED, PERSISTENT = "SingleTileVarlenScheduler", "StaticPersistentTileScheduler"
DYNAMIC = "DynamicPersistentVarlenScheduler"
MANY_SEQUENCES = 256  # with more in a packed batch, tables help a block to find its sequence
_THREADS_SM80, _THREADS_SM100, _THREADS_COMBINE = 128, 512, 256
_THREADS_COUNT, _THREADS_INVERT = 1024, 128
_PREFIX = {"vllm-0.33.0": "vllmvllm_flash_attncute"}
Scheduled = tuple[str, KernelLaunch]


@dataclass(frozen=True, slots=True)
class Shape:
    """A call as the library sees it: heads that count, rows of a query block, masks in its form.

    ``total_q``: packed queries.  ``clc``: tiles are handed out by the hardware (cluster launch control);
    ``asked_clc``: the function asked for that, also where the kernel cannot.
    ``pairs``: two thread blocks of a cluster share a matrix product.
    """

    arch: int
    pack_gqa: bool
    heads: int
    rows: int
    causal: bool
    local: bool
    window: Window
    varlen: bool
    total_q: int
    groups: int
    clc: bool = False
    asked_clc: bool = False
    pairs: bool = False

    @property
    def masked(self) -> bool:
        return self.causal or self.local

    @property
    def total_rows(self) -> int:
        """Rows of all sequences of a packed batch."""
        return self.total_q * (self.groups if self.pack_gqa else 1)


def main_launch(call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, version: str) -> Scheduled:
    """The tile scheduler and the main kernel."""
    generation = shape.arch // 10
    if generation in (10, 11):
        return _blackwell(call, shape, config, gpu, version)
    blocks, splits = ceil_div(shape.rows, config.tile_m), max(1, config.num_splits)
    threads = _THREADS_SM80 if generation in (8, 12) else 2 * config.tile_m + 128
    if shape.varlen:
        scheduler, grid = PACKED, packed(call, shape, config.tile_m, splits, 1)
    elif generation == 9 and shape.causal:
        scheduler, grid = LPT, (blocks * shape.heads * call.batch, splits, 1)
    else:
        scheduler, grid = SINGLE, (blocks, shape.heads * splits, call.batch)
    return scheduler, KernelLaunch(_name(shape.arch, version), grid, (threads, 1, 1))


def _blackwell(call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, version: str) -> Scheduled:
    """SM 10.x and 11.x: persistent, by clusters of two blocks, or a block per tile."""
    splits = max(1, config.num_splits)
    split, cluster = splits > 1, 2 if shape.pairs else 1
    rows_per_block = config.q_stage * config.tile_m
    one_block = shape.rows <= rows_per_block
    static = (not shape.masked and not shape.varlen and not split) or (
        one_block and not split and not (shape.pairs and not shape.varlen and shape.masked)
    )
    planned = split and shape.varlen and not shape.asked_clc
    persistent = static or shape.clc or planned
    blocks = ceil_div(shape.rows, rows_per_block * (1 if persistent else cluster))
    grid: tuple[int, int, int]
    if planned:
        scheduler = DYNAMIC
        most = packed(call, shape, rows_per_block, splits, 1)
        grid = (min(gpu.num_sms, most[0] * most[1]), 1, 1)
    elif static and not shape.clc and (shape.varlen or not shape.masked):
        scheduler = PERSISTENT
        total = ceil_div(blocks, cluster) * shape.heads * call.batch
        grid = (min(gpu.num_sms // cluster * cluster, total * cluster), 1, 1)
    elif shape.varlen:
        scheduler, grid = PACKED, packed(call, shape, rows_per_block, splits, cluster)
    elif shape.clc:
        scheduler = LPT
        grid = (ceil_div(blocks, cluster) * cluster, shape.heads, call.batch * splits)
    elif shape.masked:
        scheduler, physical = LPT, 1 if persistent else cluster
        grid = (blocks * shape.heads * call.batch * physical, splits, 1)
    else:
        scheduler, grid = SINGLE, (blocks * cluster, shape.heads * splits, call.batch)
    return scheduler, KernelLaunch(_name(shape.arch, version), grid, (_THREADS_SM100, 1, 1))


def packed(
    call: AttentionCall, shape: Shape, rows_per_block: int, num_splits: int, cluster: int
) -> tuple[int, int, int]:
    """The grid of a packed batch: as many blocks as its sequences may need, whatever their lengths."""
    most = (shape.total_rows + call.batch * (cluster * rows_per_block - 1)) // rows_per_block
    return (most // cluster * cluster * shape.heads, num_splits, 1)


def before(call: AttentionCall, shape: Shape, config: FwdConfig, version: str) -> list[KernelLaunch]:
    """What plans a packed batch: split counts of each sequence, and tables where there are many."""
    found = []
    planned = config.num_splits > 1 and shape.varlen and shape.arch // 10 in (10, 11)
    if planned:
        warps = 1 << (min(ceil_div(call.batch, 31), 32) - 1).bit_length()
        plan = _kernel("prepare_schedulerFlashPrepareScheduler", version)
        found.append(KernelLaunch(plan, (ceil_div(call.batch, 31 * 32), 1, 1), (32 * warps, 1, 1)))
    if shape.varlen and call.batch > MANY_SEQUENCES and (shape.asked_clc or not planned):
        blocks = (shape.total_rows + call.batch * (config.tile_m - 1)) // config.tile_m + 1
        count = _kernel("cu_blocks_kernelCuSeqlensToBlocksKernel", version)
        invert = _kernel("cu_blocks_kernelCuBlocksToBatchKernel", version)
        found.append(KernelLaunch(count, (1, 1, 1), (_THREADS_COUNT, 1, 1)))
        found.append(KernelLaunch(invert, (ceil_div(blocks, _THREADS_INVERT), 1, 1), (_THREADS_INVERT, 1, 1)))
    return found


def combine_launch(call: AttentionCall, shape: Shape, head_dim: int, version: str) -> KernelLaunch:
    """What adds up the splits."""
    columns = 64 if head_dim <= 64 else 128
    rows = 8 if columns == 128 else 16
    grid: tuple[int, int, int]
    if shape.varlen:
        most = (shape.total_q * call.num_heads + call.batch * (rows - 1)) // rows
        grid = (most * ceil_div(head_dim, columns), 1, 1)
    else:
        grid = (ceil_div(call.seqlen_q * call.num_heads, rows), ceil_div(head_dim, columns), call.batch)
    name = _kernel("flash_fwd_combineFlashAttentionForwardCombine", version)
    return KernelLaunch(name, grid, (_THREADS_COMBINE, 1, 1))


def _name(arch: int, version: str) -> str:
    module, name = {
        8: ("flash_fwd", "FlashAttentionForwardSm80"),
        9: ("flash_fwd_sm90", "FlashAttentionForwardSm90"),
        12: ("flash_fwd_sm120", "FlashAttentionForwardSm120"),
    }.get(arch // 10, ("flash_fwd_sm100", "FlashAttentionForwardSm100"))
    return _kernel(f"{module}{name}", version)


def mla_name(kind: str, version: str) -> str:
    """One of the kernels for MLA: ``kind`` is the class's name without FlashAttentionMLAForward."""
    module = {"Sm100": "", "1CtaSm100": "1cta_", "1CtaKb64Sm100": "1cta_kb64_", "DecodeSm100": "decode_"}[
        kind
    ]
    name = kind if kind == "DecodeSm100" else f"Forward{kind}"
    return _kernel(f"flash_fwd_mla_{module}sm100FlashAttentionMLA{name}", version)


def wide_name(version: str) -> str:
    """vLLM's kernel for head dim 256 on Blackwell."""
    return _kernel("sm100_hd256_2cta_fmha_forwardBlackwellFusedMultiHeadAttentionForward", version)


def _kernel(spelled: str, version: str) -> str:
    """A kernel's name up to its arguments, which the DSL writes behind it."""
    return f"kernel_cutlass_kernel_{_PREFIX.get(version, 'flash_attncute')}{spelled}_object_at_"
