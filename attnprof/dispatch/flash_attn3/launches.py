"""From a settled FlashAttention-3 call to the kernels a trace shows.

Source: flash_attn hopper/flash_fwd_launch_template.h, flash_fwd_combine_launch_template.h,
flash_prepare_scheduler.cu and tile_scheduler.hpp. Dynamic shared memory is a sizeof inside the kernels'
templates, which no rule gives: it is 0 in every launch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.flash_attn3.names import PREPARE_KERNEL, MainKernel, combine_kernel, prepare_kernel
from attnprof.dispatch.flash_attn3.rules import HEAD_DIMS_V, MAX_PLANNED_BATCH, Rules, head_dim_bucket
from attnprof.dispatch.flash_attn3.tiles import Tile, TileQuery, tile_sm8x
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import AttentionCall, KernelLaunch

_COMBINE_THREADS = 256
_PREPARE_THREADS = 1024
_PRODUCER_THREADS = 128
_BATCH_PER_WARP = 31
_MAX_WARPS = 32
_ONE_MMA_GROUP_QUERIES = 64
_HEAD_BLOCKS = (4, 8, 16)


@dataclass(slots=True)
class Settled:
    """A call as the host code hands it to the launch templates.

    ``arch`` is 10 x major + minor.  ``packed_q``: cu_seqlens_q is given.  ``varlen``: any lengths are.
    ``paged``: there is a page table, read by TMA if ``paged_tma``.  ``dynamic_split``: a kernel on the device
    chooses the splits of each sequence.
    """

    call: AttentionCall
    rules: Rules
    arch: int
    num_sms: int
    packed_q: bool
    varlen: bool
    dynamic_split: bool
    causal: bool
    local: bool = False
    paged_tma: bool = False
    num_splits: int = 0
    pack_gqa: bool = False

    @property
    def fp8(self) -> bool:
        return self.call.dtype == "fp8"

    @property
    def paged(self) -> bool:
        return self.call.page_block_size is not None

    @property
    def paged_without_tma(self) -> bool:
        return self.paged and not self.paged_tma

    @property
    def append(self) -> bool:
        return self.call.seqlen_knew is not None

    @property
    def split(self) -> bool:
        return self.num_splits > 1

    @property
    def groups(self) -> int:
        """Query heads per KV head."""
        return self.call.num_heads // self.call.num_heads_k

    @property
    def head_dim_v(self) -> int:
        return self.call.head_dim if self.call.head_dim_v is None else self.call.head_dim_v

    @property
    def total_q(self) -> int:
        return self.call.batch * self.call.seqlen_q if self.call.total_q is None else self.call.total_q

    @property
    def one_mma_group(self) -> bool:
        """vLLM's fork: few enough queries for one warp group."""
        return (
            self.rules.one_mma_group
            and self.call.head_dim in (64, 128)
            and (self.rules.local_in_one_group or not self.local)
            and self.call.seqlen_q * self.groups <= _ONE_MMA_GROUP_QUERIES
        )

    def heuristic_tile(self, *, paged: bool) -> Tile:
        """The tile that the library's own choices reckon with; the kernel's may differ."""
        head_dim = head_dim_bucket(self.call.head_dim)
        if self.arch < 90:
            append = self.append and self.rules.append_counts
            return self.sm8x_tile(head_dim, varlen_split=self.varlen, append=append)
        same = self.head_dim_v == self.call.head_dim
        head_dim_v = head_dim if same else head_dim_bucket(self.head_dim_v, HEAD_DIMS_V)
        return self.sm90_tile(head_dim, head_dim_v, paged=paged, one_mma_group=self.one_mma_group)

    def kernel_tile(self) -> Tile:
        """The tile of the kernel that is launched."""
        head_dim, head_dim_v = self.kernel_head_dims()
        if self.arch < 90:
            return self.sm8x_tile(
                head_dim, varlen_split=self.varlen and self.split, append=self.append and self.varlen
            )
        one_group = self.one_mma_group and head_dim == head_dim_v
        return self.sm90_tile(head_dim, head_dim_v, paged=self.paged_without_tma, one_mma_group=one_group)

    def sm90_tile(self, head_dim: int, head_dim_v: int, *, paged: bool, one_mma_group: bool) -> Tile:
        softcap = self.call.softcap > 0
        return self.rules.tile(
            TileQuery(head_dim, head_dim_v, self.causal, self.local, paged, softcap, self.fp8, one_mma_group)
        )

    def sm8x_tile(self, head_dim: int, *, varlen_split: bool, append: bool) -> Tile:
        return tile_sm8x(
            head_dim, small_smem=self.arch in (86, 89), local=self.local, paged=self.paged,
            varlen_split=varlen_split, append=append,
        )  # fmt: skip

    def kernel_head_dims(self) -> tuple[int, int]:
        """The head dims of Q/K and of V that the kernel was compiled for."""
        head_dim = head_dim_bucket(self.call.head_dim)
        if self.arch >= 90 and head_dim == 64 and not self.fp8 and self.head_dim_v > 64:
            return head_dim, 512 if self.head_dim_v > 256 else 256
        if self.arch >= 90 and head_dim == 192 and self.head_dim_v <= 128:
            return head_dim, 128
        return head_dim, head_dim

    @property
    def prepares(self) -> bool:
        """Whether a kernel plans the packed batch before the main one."""
        return self.dynamic_split and not self.call.scheduler_metadata

    @property
    def sorts(self) -> bool:
        """Whether packed sequences are worked on from the longest to the shortest."""
        return self.rules.sorts_batches and not self.local

    @property
    def persistent(self) -> bool:
        if self.arch >= 90:
            return self.varlen or not self.split
        return self.split if self.varlen else self.causal


def launches(settled: Settled) -> tuple[KernelLaunch, ...]:
    """The attention kernels in launch order: prepare, main, combine, as far as each is needed."""
    found = [prepare_launch(settled)] if settled.prepares else []
    found.append(main_launch(settled))
    if settled.split:
        found.append(combine_launch(settled))
    return tuple(found)


def prepare_launch(settled: Settled) -> KernelLaunch:
    if not settled.rules.plans_any_batch:
        return KernelLaunch(PREPARE_KERNEL, (1, 1, 1), (_PREPARE_THREADS, 1, 1))
    batch = settled.call.batch
    warps = min(_MAX_WARPS, 1 << (ceil_div(batch, _BATCH_PER_WARP) - 1).bit_length())
    grid = (ceil_div(batch, MAX_PLANNED_BATCH), 1, 1)
    return KernelLaunch(prepare_kernel(warps, sort=settled.sorts), grid, (warps * 32, 1, 1))


def main_launch(settled: Settled) -> KernelLaunch:
    call, rules, arch, split = settled.call, settled.rules, settled.arch, settled.split
    head_dim, head_dim_v = settled.kernel_head_dims()
    tile, paged, varlen = settled.kernel_tile(), settled.paged_without_tma, settled.varlen
    m_blocks = ceil_div(call.seqlen_q * (settled.groups if settled.pack_gqa else 1), tile.block_m)
    wide = head_dim == 192 if settled.fp8 else head_dim >= 128
    plain = not (settled.causal or settled.local or split or paged or varlen)
    cluster = 2 if arch >= 90 and wide and plain and m_blocks % 2 == 0 else 1
    block_h = None
    if rules.sparse_flag:
        block_h = 1
    elif rules.head_blocks:
        whole = settled.pack_gqa and head_dim == head_dim_v and call.dtype != "fp16" and not split
        loads_blocks = whole and not settled.one_mma_group and settled.groups in _HEAD_BLOCKS
        if rules.blocks_of_8:
            loads_blocks = head_dim == head_dim_v and settled.groups == 8
        block_h = settled.groups if loads_blocks else 1
    threads = tile.warps * 32
    q_by_tma = not settled.pack_gqa or (block_h or 1) > 1
    producers = 32 if q_by_tma and not (paged or settled.fp8) else _PRODUCER_THREADS
    kernel = MainKernel(
        arch=arch, dtype=call.dtype, block_m=tile.block_m, block_n=tile.block_n, head_dim=head_dim,
        head_dim_v=head_dim_v if rules.head_dim_v else None, stages=tile.stages,
        in_registers=tile.in_registers, overlap=tile.overlap, cluster=cluster, mma_threads=threads,
        producer_threads=producers if arch >= 90 else threads, causal=settled.causal, local=settled.local,
        softcap=call.softcap > 0, varlen=varlen, paged=paged, append=settled.append and varlen,
        pack_gqa=settled.pack_gqa, split=split, persistent=settled.persistent,
        has_epilogue_split=rules.epilogue_split, sorts=settled.sorts if rules.plans_any_batch else None,
        block_h=block_h, qv_flags=2 if rules.second_qv_flag else 1, has_qv=call.has_qv,
        sparse_flag=rules.sparse_flag,
    )  # fmt: skip
    if settled.persistent:
        per_sm = 2 if arch < 90 and threads == 128 else 1
        grid = (settled.num_sms * per_sm, 1, 1)
    else:
        heads = call.num_heads_k if settled.pack_gqa else call.num_heads
        splits = settled.num_splits if split else 1
        grid = (ceil_div(m_blocks, cluster) * cluster, heads * splits, call.batch)
    block = threads + _PRODUCER_THREADS if arch >= 90 else threads
    return KernelLaunch(kernel.name(), grid, (block, 1, 1))


def combine_launch(settled: Settled) -> KernelLaunch:
    call, rules = settled.call, settled.rules
    head_dim_v, varlen, arch = settled.head_dim_v, settled.packed_q, settled.arch
    if rules.combine_by_head_dim_block:
        block_k = 64 if head_dim_v <= 64 else 128
    else:
        block_k = 64 if head_dim_v <= 64 else 128 if head_dim_v <= 128 else 256
    block_m = 16 if block_k == 64 else 8
    log_max_splits = max(4 if block_m == 16 else 5, (settled.num_splits - 1).bit_length())
    if not rules.combine_by_head_dim_block:
        # A packed batch is one long sequence here.
        grid = (ceil_div(settled.total_q * call.num_heads, block_m), 1, 1)
        varlen, arch = False, 80
    else:
        grid = (
            ceil_div(call.seqlen_q * call.num_heads, block_m),
            ceil_div(head_dim_v, block_k),
            call.batch,
        )
        sparse = 2 * ceil_div(settled.total_q, block_m) < call.batch * ceil_div(call.seqlen_q, block_m)
        if rules.sparse_combine and varlen and sparse:
            grid = (ceil_div(settled.total_q * call.num_heads, block_m) + call.batch, grid[1], 1)
    name = combine_kernel(block_m, block_k, log_max_splits, varlen=varlen, dtype=call.dtype, arch=arch)
    return KernelLaunch(name, grid, (_COMBINE_THREADS, 1, 1))
