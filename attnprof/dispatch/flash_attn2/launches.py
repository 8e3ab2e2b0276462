"""The launches of a call once everything is decided, as flash_fwd_launch_template.h makes them.

Source: flash_attn csrc/flash_attn/src/flash_fwd_launch_template.h, and PyTorch's copy of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
from attnprof.dispatch.library import LaunchFields
from attnprof.dispatch.limits import drops_out
from attnprof.model import AttentionCall, Gpu

_SPLIT_WARPS, _ELEMENT_BYTES = 4, 2
_BLOCKS = {warps: (warps * 32, 1, 1) for warps in (4, 8)}
ELEMENT = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t"}


class Kernel(NamedTuple):
    """A kernel of a call, whatever the lengths.

    ``names`` where the tiles are cut by an end of the sequences, and where whole ones cover them.
    """

    names: tuple[str, str]
    tile: Tile
    dynamic_smem: int
    bucket: int


class Launches:
    """Kernels of a call; the attributes are the library's local variables when it launches.

    ``batch``, ``seqlen_q``, ``seqlen_k`` and ``num_splits`` may then change from one launch to the next.
    """

    call: AttentionCall
    gpu: Gpu
    rules: Rules
    batch: int
    seqlen_q: int
    seqlen_k: int
    num_heads: int
    head_dim: int
    causal: bool
    window_left: int
    window_right: int
    dropout_p: float
    return_softmax: bool
    num_splits: int
    force_split: bool
    cu_seqlens: bool
    kernels: dict[int, Kernel]  # of the last launch: by 0 for the plain one, by 1 + num_splits up to 3
    combines: dict[int, tuple[str, int]]  # by log_max_splits

    def launches(self) -> tuple[LaunchFields, ...]:
        """What is launched for the lengths and split count that the attributes have."""
        num_splits = self.num_splits
        which = 1 + min(num_splits, 2) if self.force_split or num_splits > 1 else 0
        kernel = self.kernels.get(which)
        if kernel is None:
            kernel = self.kernels[which] = self.split_kernel() if which else self.plain_kernel()
        names, tile, dynamic_smem, bucket = kernel
        batch, seqlen_q, heads = self.batch, self.seqlen_q, self.num_heads
        name = names[self.seqlen_k % tile.block_n == 0 and seqlen_q % tile.block_m == 0]
        m_blocks, block = -(-seqlen_q // tile.block_m), _BLOCKS[tile.warps]
        if num_splits <= 1:
            return ((name, (m_blocks, batch, heads), block, dynamic_smem),)
        log_max_splits = max(1, (num_splits - 1).bit_length())
        known = self.combines.get(log_max_splits)
        if known is None:
            known = self.combines[log_max_splits] = self.combine_kernel(bucket, log_max_splits, tile)
        combine, rows = known
        combine_grid = (-(-batch * heads * seqlen_q // rows), 1, 1)
        return (
            (name, (m_blocks, num_splits, batch * heads), block, dynamic_smem),
            (combine, combine_grid, block, 0),
        )

    def is_local(self) -> bool:
        windowed = "Is_local" in self.rules.templates and (self.window_left >= 0 or self.window_right >= 0)
        return windowed and not (self.causal and self.rules.local_excludes_causal)

    def even(self, bucket: int) -> tuple[bool, bool]:
        """(Is_even_MN where whole tiles cover the sequences, Is_even_K: the head dim is its bucket)."""
        even_k = self.head_dim == bucket
        even_mn = (
            not self.cu_seqlens
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

    def plain_kernel(self) -> Kernel:
        rules = self.rules
        bucket = head_dim_bucket(self.head_dim, rules.tiles)
        dropout = drops_out(self.dropout_p)
        tile = rules.tiles[bucket](self.causal, dropout, self.gpu)
        softcap = self.call.softcap > 0
        even_mn, even_k = self.even(bucket)
        if self.return_softmax and rules.softmax_clears_even_k:
            even_k = False
        after = [even_k]
        if "Is_softcap" in rules.templates:
            after.append(softcap)
        after.append(self.return_softmax and dropout and not softcap)
        before = [dropout and not softcap, *self.masks()]
        return self.kernel("flash_fwd_kernel", bucket, tile, before, even_mn, after)

    def split_kernel(self) -> Kernel:
        call, rules = self.call, self.rules
        bucket = head_dim_bucket(self.head_dim, rules.tiles)
        narrow = rules.one_split_narrows and self.num_splits == 1
        tile = Tile(SPLIT_BLOCK_M, narrow_block_n(bucket) if narrow else block_n(bucket), _SPLIT_WARPS)
        append = call.seqlen_knew is not None
        even_mn, even_k = self.even(bucket)
        after = [even_k]
        if "Is_softcap" in rules.templates:
            after.append(call.softcap > 0)
        after += [self.num_splits > 1, append]
        return self.kernel(
            "flash_fwd_splitkv_kernel", bucket, tile, self.masks(), even_mn and not append, after
        )

    def combine_kernel(self, bucket: int, log_max_splits: int, tile: Tile) -> tuple[str, int]:
        """Its name, and the output rows of a block."""
        rows = combine_block_m(bucket)
        # It looks at the head dim alone, whatever clears Is_even_K of the split kernel.
        arguments = (rows, log_max_splits, self.head_dim == bucket)
        return self.name("flash_fwd_splitkv_combine_kernel", bucket, tile, arguments), rows

    def kernel(
        self, name: str, bucket: int, tile: Tile, before: list[bool], even_mn: bool, after: list[bool]
    ) -> Kernel:
        cut = self.name(name, bucket, tile, (*before, False, *after))
        whole = self.name(name, bucket, tile, (*before, True, *after)) if even_mn else cut
        dynamic_smem = (tile.block_m + 2 * tile.block_n) * bucket * _ELEMENT_BYTES
        return Kernel((cut, whole), tile, dynamic_smem, bucket)

    def name(self, name: str, bucket: int, tile: Tile, arguments: tuple[Any, ...]) -> str:
        return kernel_name(name, bucket, tile, ELEMENT[self.call.dtype], arguments, self.rules)
