"""The launches of a call once everything is decided, as flash_fwd_launch_template.h makes them.

Source: flash_attn csrc/flash_attn/src/flash_fwd_launch_template.h, and PyTorch's copy of it.
"""

from __future__ import annotations

from attnprof.dispatch.flash_attn2.rules import (
    SPLIT_BLOCK_M,
    Rules,
    Tile,
    block_n,
    combine_block_m,
    head_dim_bucket,
    kernel_name,
    narrow_block_n,
)
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.limits import drops_out
from attnprof.model import AttentionCall, Gpu, KernelLaunch

_SPLIT_WARPS, _ELEMENT_BYTES = 4, 2
ELEMENT = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t"}


class Launches:
    """Kernels of a call; the attributes are the library's local variables when it launches."""

    call: AttentionCall
    gpu: Gpu
    rules: Rules
    seqlen_q: int
    num_heads: int
    head_dim: int
    causal: bool
    window_left: int
    window_right: int
    dropout_p: float
    return_softmax: bool
    num_splits: int
    cu_seqlens: bool

    def is_local(self) -> bool:
        windowed = "Is_local" in self.rules.templates and (self.window_left >= 0 or self.window_right >= 0)
        return windowed and not (self.causal and self.rules.local_excludes_causal)

    def even(self, bucket: int, tile: Tile) -> tuple[bool, bool]:
        """(Is_even_MN, Is_even_K): whether whole tiles cover the sequences, and the head dim its bucket."""
        even_k = self.head_dim == bucket
        even_mn = (
            not self.cu_seqlens
            and self.call.seqlen_k % tile.block_n == 0
            and self.seqlen_q % tile.block_m == 0
            and even_k
            and not self.is_local()
            and not (self.return_softmax and self.rules.softmax_clears_even_mn)
            and not (self.call.alibi and self.rules.alibi_clears_even)
            and bucket <= self.rules.even_mn_max_head_dim
        )
        if self.call.alibi and self.rules.alibi_clears_even:
            even_k = False
        return even_mn, even_k

    def masks(self) -> list[bool]:
        """The template arguments that both kernels share, before the even ones."""
        local = self.is_local()
        values = {"Is_causal": self.causal and not local, "Is_local": local, "Has_alibi": self.call.alibi}
        return [on for name, on in values.items() if name == "Is_causal" or name in self.rules.templates]

    def plain_launch(self) -> KernelLaunch:
        call, rules = self.call, self.rules
        bucket = head_dim_bucket(self.head_dim, rules.tiles)
        dropout = drops_out(self.dropout_p)
        tile = rules.tiles[bucket](self.causal, dropout, self.gpu)
        softcap = call.softcap > 0
        even_mn, even_k = self.even(bucket, tile)
        if self.return_softmax and rules.softmax_clears_even_k:
            even_k = False
        flags = [dropout and not softcap, *self.masks(), even_mn, even_k]
        if "Is_softcap" in rules.templates:
            flags.append(softcap)
        flags.append(self.return_softmax and dropout and not softcap)
        grid = (ceil_div(self.seqlen_q, tile.block_m), call.batch, self.num_heads)
        return self.launch("flash_fwd_kernel", bucket, tile, flags, grid)

    def split_launches(self) -> tuple[KernelLaunch, ...]:
        call, rules = self.call, self.rules
        bucket = head_dim_bucket(self.head_dim, rules.tiles)
        narrow = rules.one_split_narrows and self.num_splits == 1
        tile = Tile(SPLIT_BLOCK_M, narrow_block_n(bucket) if narrow else block_n(bucket), _SPLIT_WARPS)
        splits = self.num_splits > 1
        append = call.seqlen_knew is not None
        even_mn, even_k = self.even(bucket, tile)
        flags = [*self.masks(), even_mn and not append, even_k]
        if "Is_softcap" in rules.templates:
            flags.append(call.softcap > 0)
        flags += [splits, append]
        m_blocks = ceil_div(self.seqlen_q, tile.block_m)
        if not splits:
            grid = (m_blocks, call.batch, self.num_heads)
            return (self.launch("flash_fwd_splitkv_kernel", bucket, tile, flags, grid),)
        grid = (m_blocks, self.num_splits, call.batch * self.num_heads)
        rows = combine_block_m(bucket)
        log_max_splits = max(1, (self.num_splits - 1).bit_length())
        combine_grid = (ceil_div(call.batch * self.num_heads * self.seqlen_q, rows), 1, 1)
        # The combine kernel looks at the head dim alone, whatever clears Is_even_K of the split kernel.
        arguments = [rows, log_max_splits, self.head_dim == bucket]
        return (
            self.launch("flash_fwd_splitkv_kernel", bucket, tile, flags, grid),
            self.launch(
                "flash_fwd_splitkv_combine_kernel", bucket, tile, arguments, combine_grid, dynamic_smem=0
            ),
        )

    def launch(
        self,
        name: str,
        bucket: int,
        tile: Tile,
        arguments: list[bool] | list[int],
        grid: tuple[int, int, int],
        dynamic_smem: int | None = None,
    ) -> KernelLaunch:
        kernel = kernel_name(name, bucket, tile, ELEMENT[self.call.dtype], arguments, self.rules)
        if dynamic_smem is None:
            dynamic_smem = (tile.block_m + 2 * tile.block_n) * bucket * _ELEMENT_BYTES
        return KernelLaunch(kernel, grid, (tile.warps * 32, 1, 1), dynamic_smem)
