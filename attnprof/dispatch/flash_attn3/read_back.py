"""From FlashAttention-3's launches back to the calls that make them: the dispatch, run on what they may be.

A kind of call is an entry with its optional arguments. What the kernel's template leaves open is tried kind
by kind, with sizes that give the observed grids, and the dispatch itself is asked: what it launches must be
what was observed, field by field. A persistent kernel's grid is the SMs, less a margin that the caller may
ask for: then only the combine and the prepare kernel tell sizes. Of calls with a column-major V nothing is
said: they are not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_attn3.lengths import seqlens_for
from attnprof.dispatch.flash_attn3.names import MainKernel, MainTemplate, parse_main_kernel, template_fields
from attnprof.dispatch.flash_attn3.rules import HEAD_DIMS, MAX_SPLITS, Rules
from attnprof.dispatch.flash_attn3.sizes import Sizes, sizes_of
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.spelling import plain_template
from attnprof.dispatch.seen_launches import SeenLaunches
from attnprof.gpus import make_gpu
from attnprof.model import AttentionCall, Entry, Gpu, KernelLaunch, Library, Prediction

_ANY: Intervals = (Interval(1, None),)
_SOME_KEYS = 1 << 17  # a length for which no rule but the heuristic's asks how long it is
_MULTIPLE_OF = 16  # of head dims that the library takes, for every data type


@dataclass(frozen=True, slots=True)
class Build:
    """Releases that launch alike. ``predict``: what they launch for a call; ``fork``: vLLM's, whose one entry
    takes pages and a plan made before."""

    library: Library
    versions: tuple[str, str]
    rules: Rules
    predict: Callable[[AttentionCall, Gpu], Prediction]
    fork: bool = False


class _Kind(NamedTuple):
    """A kind of call. ``packed``: cu_seqlens_q is given.  ``page``: keys of a page.  ``planned``: the plan of
    an earlier launch is passed."""

    entry: Entry
    packed: bool = False
    cache_seqlens: bool = False
    page: int | None = None
    append: bool = False
    planned: bool = False


def read_back(seen: Observed, gpu: GpuFacts, builds: Sequence[Build]) -> ReadBack | None:
    """Every kind of call for which one of ``builds`` launches exactly ``seen``; None of others' kernels."""
    if parse_kernel_name(seen.main.kernel).family not in ("fa3_fwd", "fa3_fwd_sm80"):
        return None
    unread = list(seen.unread)
    named = [launch.kernel for launch in seen.launches if "<" in launch.kernel or launch is seen.main]
    if any(plain_template(name) is None for name in named):
        return ReadBack(unread=("template arguments", *unread))
    spelled = [build for build in builds if _skeleton(seen.main.kernel) in _skeletons(build.rules)]
    if not spelled:
        return None  # another build's kernel
    main = parse_main_kernel(seen.main.kernel)
    if main is None:
        return ReadBack(nearest="spelling: no version has such template arguments")
    if main.flag("V_colmajor") and main.dtype == "fp8":
        return None
    reader = _Reader(seen, main, gpu)
    found = tuple(dict.fromkeys(one for build in spelled for one in reader.explanations(build)))
    nearest = "" if found else reader.nearest(spelled)
    if gpu.num_sms is None:
        unread.append("SM count")
    return ReadBack(found, tuple(unread), nearest)


# how each build spells its kernels, whatever the values


def _skeleton(kernel: str) -> str:
    """The template of a main kernel up to its scheduler, without the values."""
    text = (plain_template(kernel) or "").partition("TileScheduler")[0].rpartition(",")[0]
    text = re.sub(r"\b(?:bfloat16_t|half_t|float_e4m3_t|float)\b", "T", text)
    return re.sub(r"\d+", "#", text)


@lru_cache(maxsize=64)
def _skeletons(rules: Rules) -> frozenset[str]:
    any_kernel = MainKernel(
        arch=90, dtype="bf16", block_m=1, block_n=1, head_dim=1, head_dim_v=1 if rules.head_dim_v else None,
        stages=1, in_registers=False, overlap=False, cluster=1, mma_threads=1, producer_threads=1,
        causal=False, local=False, softcap=False, varlen=False, paged=False, append=False, pack_gqa=False,
        split=False, persistent=True, has_epilogue_split=rules.epilogue_split, sorts=None,
        block_h=1 if rules.head_blocks or rules.sparse_flag else None,
        qv_flags=2 if rules.second_qv_flag else 1, sparse_flag=rules.sparse_flag,
    )  # fmt: skip
    return frozenset(_skeleton(replace(any_kernel, arch=arch).name()) for arch in (80, 90))


class _Reader:
    """One call's launches, with what of them is known."""

    def __init__(self, seen: Observed, main: MainTemplate, gpu: GpuFacts) -> None:
        self.seen, self.main, self.gpu = seen, main, gpu
        self.own = SeenLaunches(seen.launches)
        self.hopper = "FlashAttnFwdSm90" in seen.main.kernel
        combine = None if seen.combine is None else dict(template_fields(seen.combine.kernel) or ())
        self.combine = combine

    # what the call may be

    def explanations(self, build: Build) -> Iterator[Explanation]:
        for gpu in self._gpus():
            for splits in self._splits():
                sizes = list(sizes_of(self.seen, self.main, self.combine, build.rules, splits))
                for kind in _kinds(build, self.main):
                    found = self._explanation(build, gpu, kind, splits, sizes)
                    if found is not None:
                        yield found
                        chosen = self._chosen(build, gpu, found, kind, splits)
                        if chosen is not None:
                            yield chosen

    def _gpus(self) -> tuple[Gpu, ...]:
        """The GPUs it may be: those for whose architecture the kernel is compiled."""
        candidates = [gpu for gpu in self.gpu.candidates() if (gpu.sm_major >= 9) == self.hopper]
        if self.gpu.num_sms is None and self._persistent and any(self.seen.main.grid):
            sms = max(1, self.seen.main.grid[0] // self._per_sm)
            candidates = [make_gpu("", gpu.sm_major, gpu.sm_minor, sms) for gpu in candidates]
        return tuple(dict.fromkeys(candidates))

    @property
    def _persistent(self) -> bool:
        return "Persistent" in self.main.scheduler

    @property
    def _per_sm(self) -> int:
        """Thread blocks per SM of a persistent kernel."""
        return 2 if not self.hopper and self.main.threads == 128 else 1

    def _splits(self) -> tuple[int, ...]:
        """The split counts that the launches leave open; of a persistent kernel one for all."""
        if not self.main.flag("Split") and self.combine is None:
            return (1,)
        log = (self.combine or {}).get("log_max_splits")
        least = 4 if (self.combine or {}).get("combine_block_m") == 16 else 5
        if not isinstance(log, int) or not 1 <= log <= MAX_SPLITS.bit_length():
            return (2,)
        counts = range(2 if log <= least else (1 << (log - 1)) + 1, min(MAX_SPLITS, 1 << log) + 1)
        if self._persistent or not any(self.seen.main.grid):
            return tuple(counts[:1])
        return tuple(count for count in counts if self.seen.main.grid[1] % count == 0)

    def _margin(self, gpu: Gpu) -> int:
        """SMs that a persistent kernel left free."""
        grid = self.seen.main.grid
        return max(0, gpu.num_sms - grid[0] // self._per_sm) if self._persistent and any(grid) else 0

    def _explanation(
        self, build: Build, gpu: Gpu, kind: _Kind, splits: int, sizes: Sequence[Sizes]
    ) -> Explanation | None:
        margin = self._margin(gpu)
        for head_dim, head_dim_v in self._head_dims():
            for size in sizes:
                call = self._call(build, kind, size, splits, head_dim, head_dim_v, margin)
                if self.own.are(build.predict(call, gpu).launches):
                    below = max((dim for dim in HEAD_DIMS if dim < self.main.head_dim), default=0)
                    unbounded = any(not one.most_queries for one in sizes)
                    most = 0 if unbounded else max(one.most_queries for one in sizes)
                    least = 0 if kind.page or kind.append else 1
                    return Explanation(
                        build.library, build.versions, kind.entry, False, None, None, None,
                        Interval(1, most or None), Interval(below + 1, self.main.head_dim), splits, False,
                        (Interval(least, None),), appends=kind.append, sm_margin=margin,
                    )  # fmt: skip
        return None

    def _chosen(
        self, build: Build, gpu: Gpu, found: Explanation, kind: _Kind, splits: int
    ) -> Explanation | None:
        """The same where the library chose the split count."""
        sized = not self._persistent and any(self.seen.main.grid) and not self.main.flag("Varlen")
        if not sized:
            return replace(found, chosen=True, seqlen_k=_ANY)
        rules, main, grid = build.rules, self.main, self.seen.main.grid
        if main.head_dim != main.head_dim_v or main.flag("Is_local") or not rules.blocks_of_kv_heads:
            return replace(found, chosen=True, seqlen_k=_ANY)
        heads, element = grid[1] // splits, 1 if main.dtype == "fp8" else 2
        lengths = seqlens_for(
            splits, grid[2] * heads * grid[0], grid[0], gpu.num_sms - found.sm_margin, main.block_n,
            bool(main.flag("Is_causal")), 2 * main.head_dim * element, rules.splits_past_l2,
        )  # fmt: skip
        return replace(found, chosen=True, seqlen_k=lengths) if lengths else None

    def _head_dims(self) -> Iterator[tuple[int, int | None]]:
        """Head dims of Q and K, and of V, that the kernel may serve: the bucket's own and one below it."""
        head_dim, wide = self.main.head_dim, self.main.head_dim_v
        values: tuple[int | None, ...] = (None,)
        if (head_dim, self.main.dtype) == (64, "fp8") and self.combine:
            values = (None, 128, 256)  # which the same kernel serves
        elif wide != head_dim:
            values = {512: (512, 384), 256: (256, 128)}.get(wide, (wide,))
        for value in values:
            yield head_dim, value
            yield head_dim - _MULTIPLE_OF, value

    def _call(
        self, build: Build, kind: _Kind, size: Sizes, splits: int, head_dim: int, head_dim_v: int | None,
        margin: int,
    ) -> AttentionCall:  # fmt: skip
        flag = self.main.flag
        keys = max(_SOME_KEYS, size.seqlen_q + 1)
        return AttentionCall(
            build.library, kind.entry, size.batch, size.seqlen_q, keys, size.heads, size.heads_k, head_dim,
            dtype=self.main.dtype, causal=bool(flag("Is_causal")),  # type: ignore[arg-type]
            window=(0, 0) if flag("Is_local") else (-1, -1), softcap=1.0 if flag("Has_softcap") else 0.0,
            num_splits=splits, total_q=size.total_q if kind.packed else None, page_block_size=kind.page,
            seqlen_knew=1 if kind.append else None, cache_seqlens=kind.cache_seqlens, head_dim_v=head_dim_v,
            pack_gqa=bool(flag("PackGQA")), sm_margin=margin,
            scheduler_metadata=kind.planned and self.seen.before is None, has_qv=bool(flag("HasQv")),
        )  # fmt: skip

    # the nearest

    def nearest(self, builds: Sequence[Build]) -> str:
        """In which fields the launches differ from the nearest that a build makes."""
        best: tuple[int, str] | None = None
        for build in reversed(builds):
            for gpu in self._gpus()[:1] or self.gpu.candidates()[:1]:
                for launches in self._alike(build, gpu):
                    fields = self.own.differences(launches)
                    if best is None or len(fields) < best[0]:
                        best = len(fields), "; ".join(fields[:3])
        return best[1] if best else "template arguments"

    def _alike(self, build: Build, gpu: Gpu) -> Iterator[tuple[KernelLaunch, ...]]:
        """What a build launches for calls with all or all but one of the observed flags."""
        flags = dict(self.main.flags)
        for turned in (
            None,
            "Is_causal",
            "Is_local",
            "Varlen",
            "PagedKVNonTMA",
            "AppendKV",
            "PackGQA",
            "Split",
        ):
            changed = {**flags, turned: not flags[turned]} if turned else flags
            other = _Reader(self.seen, replace(self.main, flags=tuple(changed.items())), self.gpu)
            splits = (other._splits() or (2,))[0] if changed["Split"] else 1
            sizes = [*sizes_of(self.seen, other.main, self.combine, build.rules, splits)][:4]
            for kind in _kinds(build, other.main):
                for size in sizes or [Sizes(1, 2, 1, 1, 2, 0)]:
                    wide = self.main.head_dim_v if self.main.flag("HasQv") else None
                    call = other._call(build, kind, size, splits, self.main.head_dim, wide, 0)
                    launches = build.predict(call, gpu).launches
                    if launches:
                        yield launches


def _kinds(build: Build, main: MainTemplate) -> Iterator[_Kind]:
    """The kinds of call that a main kernel's flags leave open."""
    varlen, paged, append = (bool(main.flag(name)) for name in ("Varlen", "PagedKVNonTMA", "AppendKV"))
    pages = (1,) if paged else (None, main.block_n)
    if build.fork:
        if varlen and not append:
            yield from (_Kind("varlen_fwd", True, page=page, planned=True) for page in pages)
        return
    if not (varlen or paged or append):
        yield _Kind("fwd")
    if varlen and not (paged or append):
        yield _Kind("varlen_fwd", True)
    for packed, lengths in ((False, False), (False, True), (True, False), (True, True)):
        if varlen == (packed or lengths) and (lengths or not append):
            for page in pages:
                yield _Kind("fwd_kvcache", packed, lengths, page, append, planned=True)
