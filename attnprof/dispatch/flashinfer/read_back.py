"""From FlashInfer's launches back to the calls that make them.

A planned batch shows little of its lengths: its grid counts work items, and a CUDA graph pads it. So what is
said of one is its entry and heads, and whether its launches go together at all: threads with the tile and the
head dim, the merge kernel with both and with the GPU, a persistent grid with its SMs. One sequence's chunks
tell its keys. trtllm-gen's kernels are read by ``read_back_trtllm_gen.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flashinfer import launch_rules
from attnprof.dispatch.flashinfer.dispatch import block
from attnprof.dispatch.flashinfer.names import stated
from attnprof.dispatch.flashinfer.read_back_sizes import (
    LEAST_CHUNK,
    decode_fits,
    keys_of,
    merged_rows,
    merged_sequence,
    paged_fits,
    tiles_fit,
)
from attnprof.dispatch.flashinfer.read_back_trtllm_gen import read_back_trtllm_gen
from attnprof.dispatch.flashinfer.read_back_xqa import read_back_xqa
from attnprof.dispatch.flashinfer.registers import BUILDS, UnknownBlocksError, resident_blocks
from attnprof.dispatch.flashinfer.rules import DEFAULT_VERSION
from attnprof.dispatch.flashinfer.xqa import KERNEL as XQA_KERNEL
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import Entry, Gpu, KernelLaunch

ANY: Intervals = (Interval(1, None),)
_TILES = (16, 32, 64, 128)
_TILE_OF = {block(16): 16, block(32): 32, block(64): 64}  # 64 stands for 128 too
_HEAD_DIMS = (64, 128, 256, 512)
_MOST_RESIDENT = 16  # merge kernels on an SM, of 128 threads
Size = tuple[int, int, int]


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call for which ``seen`` is launched; None of kernels that are named only."""
    signature = parse_kernel_name(seen.main.kernel)
    if signature.library == "trtllm-gen":
        return read_back_trtllm_gen(seen, gpu)
    if signature.kernel == XQA_KERNEL:
        return read_back_xqa(seen, gpu)
    if signature.library != "flashinfer":
        return None
    reader = _Reader(seen, gpu)
    for name, read in (
        ("BatchPrefillWithPagedKVCacheKernel", reader.paged),
        ("BatchPrefillWithRaggedKVCacheKernel", reader.ragged),
        ("BatchDecodeWithPagedKVCacheKernel", reader.batch_decode),
        ("SingleDecodeWithKVCacheKernel", reader.single_decode),
        ("SinglePrefillWithKVCacheKernel", reader.single_prefill),
        ("BatchMLAPage", reader.mla),
        ("PrefillWithKVCacheKernel", reader.sm90),
    ):
        if name in seen.main.kernel:
            found = tuple(read())
            unread = list(seen.unread)
            if gpu.num_sms is None:
                unread.append("SM count")
            return ReadBack(found, tuple(unread), "" if found else reader.wrong)
    return None


class _Reader:
    """One call's launches; ``wrong``: in what they differ from any that the library makes."""

    def __init__(self, seen: Observed, gpu: GpuFacts) -> None:
        self.main, self.merge = seen.main, seen.combine
        self.gpu: Gpu | None = gpu.candidates()[0] if gpu.num_sms and gpu.sm else None
        self.num_sms = gpu.num_sms
        self.told = dict(stated(seen.main.kernel))
        self.wrong = ""
        self.before = seen.before

    def ragged(self) -> Iterator[Explanation]:
        """The same plan over packed keys."""
        return self.paged("batch_ragged")

    def paged(self, entry: Entry = "batch_paged") -> Iterator[Explanation]:
        """fa2: work items along x, KV heads along z."""
        tiles = (int(str(self.told["block_m"])),) if "block_m" in self.told else _TILES
        if (
            self._is(self.main.grid, "grid", self.main.grid[1] == 1)
            and self._is(self.main.block, "block", self.main.block in map(block, tiles))
            and self._merges_lengths(self._head_dims("head_dim_v"))
            and self._is(self.main.grid, "number of work items", self._items_fit())
        ):
            yield self._explained(entry, self.main.grid[2], split=self.merge is not None)

    def _items_fit(self) -> bool:
        """Whether so many work items of such a tile have the rows that the merge kernel adds up."""
        items, _, heads_k = self.main.grid
        return self._rows_fit(
            heads_k,
            self._head_dims("head_dim_v"),
            lambda dim, rows, gpu: paged_fits(items, heads_k, _TILE_OF[self.main.block], dim, rows, gpu),
        )

    def _rows_fit(
        self, heads_k: int, dims: tuple[int, ...], fits: Callable[[int, Interval, Gpu], bool]
    ) -> bool:
        """Whether ``fits(dim, rows, gpu)`` holds of the rows that the merge kernel adds up, for a head dim.

        So where there is no merge kernel, or a size or the GPU is not known.
        """
        merge, gpu = self.merge, self.gpu
        known = merge is not None and any(merge.grid) and any(merge.block) and any(self.main.block)
        if merge is None or gpu is None or not known:
            return True
        return heads_k > 0 and any(
            (rows := merged_rows(merge, heads_k, (dim,), gpu)) is not None and fits(dim, rows, gpu)
            for dim in dims
        )

    def batch_decode(self) -> Iterator[Explanation]:
        """CUDA cores: chunks along x, KV heads along y."""
        dims = self._lanes(single=False)
        if (
            self._is(self.main.grid, "grid", self.main.grid[2] == 1)
            and self._is(self.main.block, "block", bool(dims))
            and self._merges_lengths(dims)
            and self._is(self.main.grid, "number of work items", self._chunks_fit(dims))
        ):
            yield self._explained("batch_decode", self.main.grid[1], split=self.merge is not None, dims=dims)

    def _chunks_fit(self, dims: tuple[int, ...]) -> bool:
        """Whether so many chunks are those of as many sequences as the merge kernel adds up."""
        items, heads_k, _ = self.main.grid
        return self._rows_fit(
            heads_k,
            dims,
            lambda dim, rows, gpu: decode_fits(items, heads_k, dim, self.main.block[1], rows, gpu),
        )

    def single_decode(self) -> Iterator[Explanation]:
        """One sequence: chunks along x, KV heads along y."""
        dims = self._lanes(single=True)
        chunks, heads_k, _ = self.main.grid
        fits = self._is(self.main.grid, "grid", self.main.grid[2] == 1)
        fits = fits and self._is(self.main.block, "block", bool(dims))
        fits = fits and self._is(self.main.grid, "grid", chunks == 1 or self.merge is not None)
        if not (fits and self._merges_one(dims, 1) and self._merges_heads(heads_k)):
            return
        lengths = ANY
        if any(self.main.grid) and self.gpu is not None:
            if self.merge is None:
                lengths = (Interval(1, LEAST_CHUNK),)
            else:
                most = self._most_chunks("single_decode", dims, heads_k)
                if most:
                    lengths = tuple(span for one in most for span in keys_of(chunks, one))
        if lengths:
            yield self._explained("single_decode", heads_k, lengths=lengths, splits=max(chunks, 1), dims=dims)
        else:
            self.wrong = self.wrong or "grid"

    def single_prefill(self) -> Iterator[Explanation]:
        """One sequence, fa2: query tiles along x, chunks along y, KV heads along z."""
        tiles = (int(str(self.told["block_m"])),) if "block_m" in self.told else _TILES
        dims = self._head_dims("head_dim_v")
        if (
            self._is(self.main.block, "block", self.main.block in map(block, tiles))
            and self._is(self.main.grid, "grid", (self.main.grid[1] > 1) == (self.merge is not None))
            and self._merges_one(dims, None)
        ):
            yield from self._sequence(dims, tiles)

    def _sequence(self, dims: tuple[int, ...], tiles: tuple[int, ...]) -> Iterator[Explanation]:
        """Of sizes that go together: rows and their tile; of a merge kernel queries, heads and chunks."""
        heads_k, splits = self.main.grid[2], max(self.main.grid[1], 1)
        sizes = [
            *self.main.grid,
            *self.main.block,
            *(self.merge.grid + self.merge.block if self.merge else ()),
        ]
        own = [tile for tile in tiles if block(tile) == self.main.block]
        if not all(sizes):
            yield self._explained("single_prefill", heads_k, splits=splits, dims=dims)
        elif self.merge is None:
            if self.gpu is None or any(tiles_fit(self.main.grid[0], one, dims, self.gpu) for one in own):
                yield self._explained("single_prefill", heads_k, splits=splits, dims=dims)
        else:
            for queries, lengths in merged_sequence(self.main, self.merge, dims, own, self.gpu):
                found = self._explained("single_prefill", heads_k, splits=splits, dims=dims, lengths=lengths)
                yield replace(found, seqlen_q=Interval(queries, queries))
        self.wrong = self.wrong or "grid"

    def _merges_heads(self, heads_k: int) -> bool:
        """Whether a single decode's merge kernel has the heads that the decode kernel's threads tell."""
        merge, group = self.merge, self.main.block[1]
        fits = merge is None or not group or merge.grid[1] == heads_k * group
        return self._is(merge.grid if merge else (0, 0, 0), "merge kernel's grid", fits)

    def mla(self) -> Iterator[Explanation]:
        """Thread blocks of a cluster along x, clusters along y; the same kernel adds up the chunks."""
        cluster, clusters, more = self.main.grid
        hopper = "Hopper" in self.main.kernel
        fits = cluster in (1, 2) and more == 1
        if fits and self.num_sms is not None:
            fits = clusters == self.num_sms // cluster
        threads = self.main.block == ((256, 1, 1) if hopper else (32, 4, 2))
        if (
            self._is(self.main.grid, "grid", fits)
            and self._is(self.main.block, "block", threads)
            and self._alone()
        ):
            yield self._explained("batch_mla", None, splits=0, dims=(576,))

    def sm90(self) -> Iterator[Explanation]:
        """Hopper's backend: a thread block on each SM for a batch, a query tile each for one sequence."""
        across, heads, more = self.main.grid
        threads = self.main.block[0] in (384, 512) and self.main.block[1:] == (1, 1)
        if not (
            self._is(self.main.grid, "grid", more == 1)
            and self._is(self.main.block, "block", threads)
            and self._alone()
        ):
            return
        if self.num_sms in (None, across) or not across:
            for entry in ("batch_paged", "batch_ragged"):
                yield self._explained(entry, heads if heads > 1 else None, splits=1, dims=(64, 128, 192, 256))
        yield self._explained("single_prefill", heads, splits=1, dims=(64, 128, 256))

    def _is(self, size: Size, what: str, fits: bool) -> bool:
        """Whether a size that the trace holds is one that is launched."""
        if fits or not any(size):
            return True
        self.wrong = self.wrong or what
        return False

    def _alone(self) -> bool:
        if self.merge is None and self.before is None:
            return True
        self.wrong = self.wrong or "number of kernels"
        return False

    def _head_dims(self, name: str) -> tuple[int, ...]:
        told = self.told.get(name) or self.told.get("head_dim")
        return (int(str(told)),) if told else _HEAD_DIMS

    def _lanes(self, *, single: bool) -> tuple[int, ...]:
        """The head dims of which a decode kernel has these threads."""
        told = self.told.get("group_size")
        groups = (int(str(told)),) if told else launch_rules.GROUPS
        return tuple(
            dim
            for dim in self._head_dims("head_dim")
            if not any(self.main.block)
            or any(launch_rules.decode_lanes(dim, group, single).block == self.main.block for group in groups)
        )

    def _merges_lengths(self, dims: tuple[int, ...]) -> bool:
        """Whether the merge kernel, if there is one, is that of a batch: so many on each SM."""
        merge = self.merge
        if merge is None:
            return True
        if "VariableLength" not in merge.kernel:
            self.wrong = self.wrong or "merge kernel"
            return False
        fits = merge.grid[1:] == (1, 1)
        if fits and self.num_sms:
            fits = merge.grid[0] in range(self.num_sms, _MOST_RESIDENT * self.num_sms + 1, self.num_sms)
        if fits and self.gpu is not None and any(merge.grid) and any(merge.block):
            fits = not self._has_block(merge, dims) or merged_rows(merge, 1, dims, self.gpu) is not None
        return self._is(merge.grid, "merge kernel's grid", fits) and self._merge_block(merge, dims)

    def _merge_block(self, merge: KernelLaunch, dims: tuple[int, ...]) -> bool:
        return self._is(merge.block, "merge kernel's block", self._has_block(merge, dims))

    @staticmethod
    def _has_block(merge: KernelLaunch, dims: tuple[int, ...]) -> bool:
        return any(launch_rules.merge_one(2, 1, 1, dim).block == merge.block for dim in dims)

    def _merges_one(self, dims: tuple[int, ...], rows: int | None) -> bool:
        """Whether the merge kernel, if there is one, is that of one sequence."""
        merge = self.merge
        if merge is None:
            return True
        if "MergeStatesLargeNumIndexSets" in merge.kernel:
            fits = merge.grid[2] == 1 and rows in (None, merge.grid[0])
            return self._is(merge.grid, "merge kernel's grid", fits) and self._merge_block(merge, dims)
        if "MergeStatesKernel" not in merge.kernel or "Persistent" in merge.kernel or rows == 1:
            self.wrong = self.wrong or "merge kernel"
            return False
        lanes = {launch_rules.merge_one(1, 2, 1, dim).block[0] for dim in dims}
        fits = merge.block[0] in lanes and merge.block[2] == 1
        grid = self._is(merge.grid, "merge kernel's grid", merge.grid[1:] == (1, 1))
        return grid and self._is(merge.block, "merge kernel's block", fits)

    def _most_chunks(self, kernel: str, dims: tuple[int, ...], heads_k: int) -> tuple[int, ...]:
        """Into how many chunks each build splits one sequence at most; () where that is not known."""
        if self.gpu is None or len(dims) != 1 or not any(self.main.block):
            return ()
        (dim,) = dims
        group = self.main.block[1]
        lanes = launch_rules.decode_lanes(dim, group, single=True)
        rows = lanes.bdy * lanes.bdz
        smem = max(4 * rows * lanes.tile * dim * 2, rows * dim * 4) + 2 * rows * 4
        ask = (kernel, dim, group, lanes.threads, smem, self.gpu)
        try:
            blocks = {resident_blocks(*ask, build) for build in BUILDS}
        except UnknownBlocksError:
            return ()
        most = (one * self.gpu.num_sms // max(heads_k, 1) for one in sorted(blocks))
        return tuple(one for one in most if one)

    def _explained(
        self, entry: Entry, heads: int | None, *, split: bool = False, lengths: Intervals = ANY,
        splits: int | None = None, dims: tuple[int, ...] = (),
    ) -> Explanation:  # fmt: skip
        """``num_splits`` is 0 where the launches do not tell it: each sequence has its own."""
        dims = dims or self._head_dims("head_dim")
        one = entry.startswith("single")
        return Explanation(
            "flashinfer", (DEFAULT_VERSION, DEFAULT_VERSION), entry, False, 1 if one else None, heads,
            heads if one else None, Interval(1, 1 if entry == "single_decode" else None),
            Interval(min(dims), max(dims)), (0 if split else 1) if splits is None else splits, True, lengths,
        )  # fmt: skip
