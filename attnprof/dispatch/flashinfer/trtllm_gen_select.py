"""Which trtllm-gen kernel FlashInfer launches for a call, and how many thread blocks.

Source: include/flashinfer/trtllm/fmha/fmhaKernels.cuh ``selectKernel``, ``computeCtaAndClusterConfig`` and
``run``; csrc/fmhaReduction.cu; csrc/trtllm_fmha_kernel_launcher.cu for what they are asked. Versions
0.6.8.post1, 0.6.13 and 0.7.2 to 0.7.4; the latter fetch their kernel table from elsewhere when they first
run, so what it lacks is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnprof.dispatch.flashinfer.trtllm_gen_ask import Ask, MissingKernelError
from attnprof.dispatch.flashinfer.trtllm_gen_kernels import (
    CAUSAL,
    DENSE,
    DYNAMIC_PAGE,
    SLIDING,
    Kind,
    Mode,
    Traits,
)
from attnprof.dispatch.flashinfer.trtllm_gen_mla import grouped_mla, of_mla
from attnprof.dispatch.heuristic import ceil_div, float32
from attnprof.model import KernelLaunch

REDUCTION = "tensorrt_llm::kernels::fmhaReductionKernel"
_REDUCTION_THREADS = 512
CLUSTER_MOST = 16  # thread blocks of a cluster
_KEYS_PER_BLOCK_CLAMPED = 4096
_LOOP_COST = {128: 2.2, 64: 1.68, 32: 1.48, 16: 1.2, 8: 1.0}
_MEETING_COST = {128: 1.32, 64: 1.2, 32: 1.08, 16: 1.03, 8: 1.0}
_MEETING_KEYS = 128.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Thread blocks along x, y and z; ``blocks_q`` and ``blocks_kv`` of one sequence; the cluster along x."""

    x: int
    y: int
    z: int
    blocks_q: int
    blocks_kv: int
    cluster: int

    @property
    def blocks(self) -> int:
        return self.x * self.y * self.z


@dataclass(frozen=True, slots=True)
class Selected:
    """The kernel and its grid. ``unless_clusters``: the traits where too few clusters are resident."""

    traits: Traits
    grid: Grid
    launches: tuple[KernelLaunch, ...]
    unless_clusters: Traits | None = None


def select(ask: Ask) -> Selected:
    """The launches. Raises MissingKernelError, in upstream's words, where it refuses."""
    first = _with_kernel(ask, _start(ask), forced=False)
    if ask.lacks(first):
        phase = "ragged attention" if ask.separate else "(context)" if ask.context else "(decode)"
        raise MissingKernelError(f"Missing TRTLLM-GEN kernel {phase}: {_described(ask, first)}")
    traits, grid = _settled(ask, _start(ask), forced=False)
    unless = None
    if traits.mode is Mode.CLUSTER:
        resident = None if ask.active_clusters is None else ask.active_clusters * grid.cluster
        other, other_grid = _settled(ask, replace(traits, mode=Mode.GLOBAL), forced=True)
        if resident is not None and resident < grid.blocks:
            traits, grid = other, other_grid
        elif resident is None:
            unless = other
    main = KernelLaunch(traits.name(ask.sm103), (grid.x, grid.y, grid.z), (traits.threads, 1, 1))
    return Selected(traits, grid, (main, *_reduction(ask, traits, grid)), unless)


def _described(ask: Ask, traits: Traits) -> str:
    """The traits that a kernel is looked up by, as upstream prints them."""
    if ask.oldest and ask.latent:  # which looks latent attention's up as causal
        traits = replace(traits, mask=CAUSAL)
    fields = {
        "qkvLayout": 0 if traits.separate else 2, "maskType": traits.mask, "kernelType": traits.kind.number,
        "tileScheduler": int(traits.persistent), "multiCtasKvMode": traits.mode.value,
        "headDimPerCtaV": traits.head_dim_per_cta_v, "headDimQk": traits.head_dim,
        "headDimV": traits.head_dim_v, "tileSizeQ": traits.tile_q, "tileSizeKv": traits.tile_kv,
        "numTokensPerPage": traits.page, "dynamicNumTokensPerPage": int(traits.dynamic),
        "reuseSmemKForV": 0, "uses2CtaMma": int(traits.two_cta),
        "sparseMla" if ask.oldest else "sparseMlaType": traits.sparse.value, "skipsSoftmax": 0,
    }  # fmt: skip
    if ask.oldest:
        del fields["dynamicNumTokensPerPage"]
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def _start(ask: Ask) -> Traits:
    mask = (CAUSAL if ask.causal else DENSE) if ask.context else DENSE if ask.latent else CAUSAL
    if ask.window_first and ask.slides and mask == CAUSAL:
        mask = SLIDING
    return Traits(
        ask.dtype, ask.head_dim, ask.head_dim_v, ask.head_dim_v, Kind.CONTEXT if ask.context else Kind.SWAPS,
        Mode.NONE if ask.context else Mode.GLOBAL, mask, 0 if ask.separate else 1 if ask.topk else ask.page,
        False, ask.context, 128, 128, False, ask.separate, ask.sparse,
    )  # fmt: skip


def _settled(ask: Ask, traits: Traits, *, forced: bool) -> tuple[Traits, Grid]:
    """Selection is repeated until computing the grid asks for no other kernel."""
    for _ in range(4):
        traits = _with_kernel(ask, traits, forced=forced)
        _found(ask, traits)
        wanted, grid = _grid(ask, traits, forced=forced)
        if wanted == traits:
            return traits, grid
        traits = wanted
    raise MissingKernelError("trtllm-gen kernel selection did not converge in 4 passes.")


def _found(ask: Ask, traits: Traits) -> None:
    if ask.lacks(traits):
        raise MissingKernelError(f"Trtllm-gen kernels not found: {_described(ask, traits)}")


def _with_kernel(ask: Ask, traits: Traits, *, forced: bool) -> Traits:
    """``selectKernel``: page, kind, tile and mask."""
    even = ask.head_dim == ask.head_dim_v and (ask.newer or ask.group > 1) and not ask.oldest
    if even and traits.page >= DYNAMIC_PAGE:
        if ask.page & (ask.page - 1):
            raise MissingKernelError(
                f"Dynamic numTokensPerPage requires a power-of-2 page size, got {ask.page}."
            )
        traits = replace(traits, dynamic=True, page=DYNAMIC_PAGE)
    if ask.mla:
        traits = replace(of_mla(ask, traits), mask=DENSE)
    elif not ask.context:
        traits = _gqa(ask, traits, forced=forced)
    wide = ask.head_dim_v > 256 and not ask.mla and not ask.oldest
    if wide and traits.kind is not Kind.SWAPS:
        traits = replace(traits, head_dim_per_cta_v=256)
    if ask.slides and (traits.mask == CAUSAL or not ask.context):
        traits = replace(traits, mask=SLIDING)
    return traits


def _gqa(ask: Ask, traits: Traits, *, forced: bool) -> Traits:
    if traits.transforms:  # whose kernels take one query token a thread block
        return replace(traits, tile_q=8 if ask.group <= 8 else 16, kind=Kind.SWAPS)
    rows = ask.group * ask.seqlen_q
    tile = next((tile for tile in (8, 16, 32, 64) if rows <= tile), 128)
    traits = _of_tile(ask, traits, tile)
    if ask.seqlen_q > 1:
        traits = _of_tile(ask, traits, _cheapest_tile(ask, traits, forced=forced))
    return traits


def _of_tile(ask: Ask, traits: Traits, tile: int) -> Traits:
    """The kind of kernel that goes with a tile; 0.7.2 also keeps wide heads and their meeting in step."""
    traits = replace(traits, tile_q=tile, kind=Kind.KEEPS if tile >= 64 else Kind.SWAPS)
    return _in_step(ask, traits) if ask.newer else traits


def _in_step(ask: Ask, traits: Traits) -> Traits:
    """``syncGqaGenerationTraitsForKernelHash`` of 0.7.2."""
    if traits.kind is Kind.KEEPS and ask.head_dim_v > 256:
        mode = Mode.NONE if traits.mode is Mode.NONE else Mode.REDUCTION_KERNEL
        return replace(traits, head_dim_per_cta_v=256, mode=mode)
    mode = Mode.GLOBAL if traits.mode is Mode.REDUCTION_KERNEL else traits.mode
    return replace(traits, head_dim_per_cta_v=ask.head_dim_v, mode=mode)


def _cheapest_tile(ask: Ask, traits: Traits, *, forced: bool) -> int:
    """``selectTileSizeQForGqaGeneration``: upstream's model of the time, in float32."""
    _found(ask, traits)
    probe, grid = _grid(ask, traits, forced=forced)
    if grid.blocks * 2 > ask.num_sms or probe.tile_q <= 8:
        return traits.tile_q
    best, least = traits.tile_q, float("inf")
    for tile in (128, 64, 32, 16, 8):
        if tile > traits.tile_q or tile < ask.group:
            continue
        probe = replace(probe, tile_q=tile, kind=Kind.KEEPS if tile >= 64 else Kind.SWAPS)
        if ask.newer:
            probe = _in_step(ask, probe)
        _found(ask, probe)
        step = probe.step_kv
        probe, grid = _grid(ask, probe, forced=forced)
        keys = ceil_div(ceil_div(ask.seqlen_k, step), max(grid.blocks_kv, 1)) * step
        meeting = float32(float32(float32(_MEETING_COST[tile]) * _MEETING_KEYS) * grid.blocks_kv)
        time = float32(float32(float32(_LOOP_COST[tile]) * float32(keys)) + meeting)
        time = float32(time * ceil_div(grid.blocks, ask.num_sms))
        if time < least:
            best, least = tile, time
    return best


def _grid(ask: Ask, traits: Traits, *, forced: bool) -> tuple[Traits, Grid]:
    """``computeCtaAndClusterConfig``: the grid, and the traits it would rather have."""
    wanted = traits
    blocks_q = ceil_div(ask.seqlen_q, traits.step_q)
    if ask.seqlen_q > 1 and not ask.context:
        tokens = max(1, traits.step_q // ask.group) if _groups_tokens(ask, traits) else 1
        blocks_q = ceil_div(ask.seqlen_q, tokens)
    heads = 1 if ask.context else min(ask.group, traits.step_q)
    all_heads = ask.num_heads // heads
    if heads * all_heads != ask.num_heads:
        raise MissingKernelError("The numHeadsQ/numHeadsKv is not supported.")
    per_dim = ask.head_dim_v // traits.head_dim_per_cta_v
    x, y, z = blocks_q, all_heads * per_dim, ask.batch
    if ask.mla and traits.two_cta:
        if (all_heads, per_dim) != (2, 2):
            raise MissingKernelError("Internal error: numCtasPerHeadDim should be 2.")
        x, y = x * 2, y // 4
    blocks_kv = 1
    if traits.mode is not Mode.NONE:
        blocks_kv = _blocks_kv(ask, traits, x * y * z, forced=forced)
        x *= blocks_kv
        if blocks_kv <= 1:
            wanted = replace(wanted, mode=Mode.NONE, persistent=True)
        elif _meets_in_cluster(ask, wanted, blocks_kv, forced=forced):
            wanted = replace(wanted, mode=Mode.CLUSTER)
    cluster = 2 if traits.two_cta else 1
    if wanted.mode is Mode.CLUSTER:
        cluster *= blocks_kv
    splits_dim = ask.mla and wanted == traits and not traits.two_cta
    if splits_dim and not (ask.newer and grouped_mla(ask)) and traits.head_dim_per_cta_v == 512:
        factor = 1 if ask.least_latency else 2
        if x * y * z * factor <= ask.num_sms:
            narrow = x * y * z * 2 * factor <= ask.num_sms
            wanted = replace(wanted, head_dim_per_cta_v=128 if narrow else 256)
    return wanted, Grid(x, y, z, blocks_q, blocks_kv, cluster)


def _groups_tokens(ask: Ask, traits: Traits) -> bool:
    return traits.groups_tokens or (ask.newer and ask.mla and grouped_mla(ask))


def keys_to_share(ask: Ask, traits: Traits) -> int:
    """The keys of a sequence that its thread blocks may share out: of a window, those that it can touch."""
    if traits.mask == SLIDING and ask.window is not None:
        return min(ask.seqlen_k, ask.window + traits.step_kv - 1)
    return ask.keys


def _blocks_kv(ask: Ask, traits: Traits, others: int, *, forced: bool) -> int:
    """Thread blocks that share a sequence's keys: as many as leave no SM idle, each with two steps to do."""
    keys = keys_to_share(ask, traits)
    most = ceil_div(keys, 2 * traits.step_kv)
    blocks = min(most, max(1, ask.num_sms // others)) if others else most
    clamped = (
        ask.newer
        and ask.clamps
        and blocks > CLUSTER_MOST
        and (ask.seqlen_q == 1 or ask.head_dim_v != 256)
        and ask.head_dim_v < 512
        and not ask.least_latency
        and not forced
        and traits.kind is Kind.SWAPS
        and ceil_div(keys, CLUSTER_MOST) <= _KEYS_PER_BLOCK_CLAMPED
        and traits.mode in (Mode.CLUSTER, Mode.GLOBAL)
    )
    return CLUSTER_MOST if clamped else blocks


def _meets_in_cluster(ask: Ask, traits: Traits, blocks_kv: int, *, forced: bool) -> bool:
    small = 1 < blocks_kv <= CLUSTER_MOST and traits.kind is Kind.SWAPS and traits.mode is Mode.GLOBAL
    fits = (not ask.mla or traits.tile_q < 32) if ask.oldest else ask.head_dim_v < 512
    usual = not ask.least_latency and fits
    narrow = (
        ask.newer
        and ask.least_latency
        and ask.seqlen_q == 1
        and (traits.page, traits.head_dim_per_cta_v, traits.tile_q) == (32, 128, 16)
    )
    return small and not forced and (usual or narrow)


def _reduction(ask: Ask, traits: Traits, grid: Grid) -> tuple[KernelLaunch, ...]:
    if traits.mode is not Mode.REDUCTION_KERNEL:
        return ()
    heads = ask.num_heads // min(ask.group, traits.tile_q)
    blocks = reduction_grid(traits, grid.blocks_q, heads, ask.batch, ask.num_sms)
    return (KernelLaunch(REDUCTION, blocks, (_REDUCTION_THREADS, 1, 1)),)


def reduction_grid(
    traits: Traits, blocks_q: int, heads: int, batch: int, num_sms: int
) -> tuple[int, int, int]:
    """``runFmhaReduction``, for ``heads`` blocks of heads."""
    per_block = traits.head_dim_per_cta_v * (2 if traits.two_cta else 1)
    slices = per_block * 2 * traits.tile_q // (_REDUCTION_THREADS * 16)
    y = heads * (traits.head_dim_v // per_block)
    share = min(num_sms * 2 // (blocks_q * y * batch), slices)
    return blocks_q * share, y, batch
