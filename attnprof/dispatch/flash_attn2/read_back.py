"""From FlashAttention-2's launches back to the calls that make them: the dispatch, run on what they may be.

A kind of call is an entry with its optional arguments, and whether query heads are folded. The kinds that a
kernel's flags leave open are few. For each, grid and split count give the sizes, and then the dispatch itself
is asked: what it launches for a call of these sizes must be what was observed, field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack, tightened
from attnprof.dispatch.flash_attn2.dispatch import dispatch
from attnprof.dispatch.flash_attn2.kv_lengths import seqlens_for
from attnprof.dispatch.flash_attn2.rules import OPTIONAL_TEMPLATES, Rules, combine_block_m
from attnprof.dispatch.heuristic import MAX_SPLITS, SPLIT_BLOCK_M, ceil_div
from attnprof.dispatch.intervals import Interval, Intervals, intersect, union
from attnprof.dispatch.names.kernel_names import KernelSignature, parse_kernel_name
from attnprof.dispatch.names.spelling import namespace
from attnprof.dispatch.seen_launches import SeenLaunches
from attnprof.dispatch.versions import parse_version
from attnprof.model import AttentionCall, Entry, Gpu, KernelLaunch, Library, Prediction

_ANY: Intervals = (Interval(1, None),)
_PAGE, _DROPOUT = 256, 0.1
_MULTIPLE_OF = 8  # head dims that the library takes


@dataclass(frozen=True, slots=True)
class Build:
    """Releases of a library that dispatch alike. ``predict``: what they launch for a call on a GPU."""

    library: Library
    versions: tuple[str, str]
    rules: Rules
    predict: Callable[[AttentionCall, Gpu], Prediction]


def builds_of(
    library: Library, oldest: str, newest: str, changes: Iterable[str], rules_for: Callable[[str], Rules]
) -> tuple[Build, ...]:
    """The builds of a version table, oldest first: releases between two changes are one."""
    since = [oldest, *(one for one in changes if parse_version(one) <= parse_version(newest))]
    found: list[Build] = []
    for version in dict.fromkeys(since):
        rules = rules_for(version)
        if found and found[-1].rules == rules:
            continue
        if found:
            found[-1] = replace(found[-1], versions=(found[-1].versions[0], version))
        found.append(Build(library, (version, newest), rules, partial(_launch, rules=rules)))
    return tuple(found)


def _launch(call: AttentionCall, gpu: Gpu, *, rules: Rules) -> Prediction:
    return dispatch(call, gpu, rules)


def kernels_of(library: Library) -> str:
    """How the kernels of a library with FlashAttention-2's are known."""
    return "pytorch-bundled-flash" if library == "torch" else "flash-attn"


class _Kind(NamedTuple):
    """A kind of call. ``given``: the caller's num_splits."""

    entry: Entry
    folded: bool = False
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    paged: bool = False
    append: bool = False
    cache_seqlens: bool = False
    batch_idx: bool = False
    given: bool = False


def read_back(seen: Observed, gpu: GpuFacts, builds: Sequence[Build]) -> ReadBack | None:
    """Every kind of call for which one of ``builds`` launches exactly ``seen``; None of others' kernels."""
    main = parse_kernel_name(seen.main.kernel)
    mine = main.family in ("fwd", "fwd_splitkv") and main.library == kernels_of(builds[0].library)
    if not mine:
        return None
    combine = None if seen.combine is None else parse_kernel_name(seen.combine.kernel)
    unread = list(seen.unread)
    if main.head_dim is None or (combine is not None and combine.head_dim is None):
        return ReadBack(unread=("template arguments", *unread))
    reader = _Reader(seen, main, combine, gpu)
    spelled = [build for build in builds if reader.may_be_of(build)]
    found = tuple(dict.fromkeys(e for build in spelled for e in reader.explanations(build)))
    nearest = "" if found else reader.nearest(spelled or builds)
    if gpu.num_sms is None:
        unread.append("SM count")
    return ReadBack(found, tuple(unread), nearest)


class _Reader:
    """One call's launches, with what of them is known."""

    def __init__(
        self, seen: Observed, main: KernelSignature, combine: KernelSignature | None, gpu: GpuFacts
    ) -> None:
        self.seen, self.main, self.combine, self.gpu = seen, main, combine, gpu
        self.splits = bool(main.flag("Split"))
        grid = seen.main.grid if all(seen.main.grid) else self._some_grid()
        self.m_blocks = grid[0]
        self.num_splits, self.batch_heads = (grid[1], grid[2]) if self.splits else (1, grid[1] * grid[2])
        self.batch, self.heads = (1, grid[2]) if self.splits else grid[1:]
        self.block_m, self.block_n = int(main.block_m or 1), int(main.block_n or 1)
        self.bucket = int(main.head_dim or 0)
        self.own = SeenLaunches((seen.main,) if seen.combine is None else (seen.main, seen.combine))

    def _some_grid(self) -> tuple[int, int, int]:
        """Where the trace holds no grid, one that could be."""
        log = self.combine.log_max_splits if self.combine is not None else None
        return (1, 1 << (log or 1), 1) if self.splits else (1, 1, 1)

    def may_be_of(self, build: Build) -> bool:
        """Whether the build spells a kernel so: namespace, which template arguments there are, bucket."""
        rules = build.rules
        spelled = namespace(self.seen.main.kernel)
        if spelled is not None and spelled != rules.kernel_namespace:
            return False
        arguments = {name for name, _ in self.main.flags or ()} & OPTIONAL_TEMPLATES
        traits = f"{rules.traits_namespace}Flash_fwd_kernel_traits"
        if spelled and rules.traits_namespace and traits not in self.seen.main.kernel:
            return False
        return arguments == rules.templates and self.bucket in rules.tiles

    # what the call may be

    def explanations(self, build: Build) -> Iterator[Explanation]:
        for gpu in self.gpu.candidates():
            for kind in _kinds(self.main, self.num_splits, build.rules):
                for head_dim in self._head_dims():
                    found = self._explanation(build, gpu, kind, head_dim)
                    if found is not None:
                        yield found

    def _head_dims(self) -> tuple[int, ...]:
        """The bucket's own head dim and one below it, as far as Is_even_K leaves them open."""
        if self.main.flag("Is_even_K"):
            return (self.bucket,)
        cleared = self.main.flag("Has_alibi") or self.main.flag("Return_softmax")
        return (self.bucket, self.bucket - _MULTIPLE_OF) if cleared else (self.bucket - _MULTIPLE_OF,)

    def _explanation(self, build: Build, gpu: Gpu, kind: _Kind, head_dim: int) -> Explanation | None:
        queries = self._queries(kind)
        if queries is None:
            return None
        lengths, chosen = self._lengths(build.rules, gpu, kind, queries)
        if kind.append:
            lengths = intersect(lengths, (Interval(queries.low, None),))
        whole = bool(self.main.flag("Is_even_MN"))
        step = self.block_n if whole else 1
        if kind.paged and kind.entry == "fwd_kvcache":
            step = max(step, _PAGE) if build.library != "vllm_flash_attn" else step
        lengths = tightened(lengths, step)
        if whole:
            top = queries.high // self.block_m * self.block_m if queries.high else 0
            queries = Interval(top, top)
            if top < 1:
                return None
        if not lengths:
            return None

        def passes(seqlen_q: int | None, seqlen_k: int | None) -> bool:
            if seqlen_q is None or seqlen_k is None:
                return False
            call = self._call(build.library, kind, head_dim, seqlen_q, seqlen_k)
            return self.own.are(build.predict(call, gpu).launches)

        sq_whole, sq_ragged = _witnesses((queries,), self.block_m, 1)
        sk_whole, sk_ragged = _witnesses(lengths, self.block_n, step)
        # Of one query the library drops the causal mask: the most queries are asked, too.
        last = None if queries.high is None or queries.high - 1 < queries.low else queries.high - 1
        ragged = not whole and any(
            passes(sq, sk) for sq in (sq_ragged, last) for sk in (sk_ragged, sk_whole) if sq != sq_whole
        )
        even = ragged or passes(sq_whole, sk_whole)
        if not (ragged or even or (not whole and passes(sq_whole, sk_ragged))):
            return None
        only_ragged = not (whole or ragged or even)  # queries of whole tiles: the keys must not be
        if self.gpu.num_sms is None:
            lengths, chosen = _ANY, False  # other SMs, other lengths
        below = max((bucket for bucket in build.rules.tiles if bucket < self.bucket), default=0)
        least, most = (head_dim, head_dim) if head_dim == self.bucket else (below + 1, self.bucket - 1)
        return Explanation(
            build.library, build.versions, kind.entry, kind.folded,
            None if self.splits else self.batch, None if self.splits else self.heads, self.batch_heads,
            queries, Interval(least, most), self.num_splits, chosen, lengths, step,
            self.block_n if only_ragged else 0, kind.append,
        )  # fmt: skip

    def _queries(self, kind: _Kind) -> Interval | None:
        """The queries per sequence, after folding, that fill the grids."""
        low, high = (self.m_blocks - 1) * self.block_m + 1, self.m_blocks * self.block_m
        if self.seen.combine is not None and all(self.seen.combine.grid):
            rows = combine_block_m(self.bucket)
            blocks = self.seen.combine.grid[0]
            low = max(low, ((blocks - 1) * rows) // self.batch_heads + 1)
            high = min(high, blocks * rows // self.batch_heads)
        if kind.folded:
            low = max(low, 2)
        return Interval(low, high) if low <= high else None

    def _lengths(self, rules: Rules, gpu: Gpu, kind: _Kind, queries: Interval) -> tuple[Intervals, bool]:
        """The KV lengths that lead to the split count, and whether the library chose it."""
        dropout = bool(self.main.flag("Is_dropout"))
        asks = kind.entry != "varlen_fwd" or kind.folded or (kind.paged and rules.paged_varlen_splits)
        if kind.given or dropout or not asks:
            return (_ANY if kind.entry in rules.skips_empty else (Interval(0, None),)), False
        if not all(self.seen.main.grid):
            return _ANY, False
        slots = gpu.num_sms * rules.slots_per_sm
        blocks = range(ceil_div(queries.low, SPLIT_BLOCK_M), ceil_div(queries.high or 1, SPLIT_BLOCK_M) + 1)
        lengths = union(
            seqlens_for(self.num_splits, self.batch_heads * count, slots, self.bucket) for count in blocks
        )
        if self.num_splits == 1 and kind.entry not in rules.skips_empty:
            lengths = union((lengths, (Interval(0, 0),)))
        return lengths, True

    def _call(
        self, library: Library, kind: _Kind, head_dim: int, seqlen_q: int, seqlen_k: int
    ) -> AttentionCall:
        flag = self.main.flag
        dropout = bool(flag("Is_dropout"))
        return AttentionCall(
            library, kind.entry, self.batch, 1 if kind.folded else seqlen_q, seqlen_k,
            self.heads * (seqlen_q if kind.folded else 1), self.heads, head_dim,
            dtype=self.main.dtype or "bf16",  # type: ignore[arg-type]
            causal=kind.causal, window=kind.window, softcap=1.0 if flag("Is_softcap") else 0.0,
            alibi=bool(flag("Has_alibi")), dropout_p=_DROPOUT if dropout else 0.0,
            return_softmax=bool(flag("Return_softmax")), num_splits=self.num_splits if kind.given else 0,
            page_block_size=_PAGE if kind.paged else None, seqlen_knew=1 if kind.append else None,
            cache_seqlens=kind.cache_seqlens, cache_batch_idx=kind.batch_idx,
        )  # fmt: skip

    def nearest(self, builds: Sequence[Build]) -> str:
        """In which fields the launches differ from the nearest that the newest of the builds makes."""
        best: tuple[int, str] | None = None
        for build in list(builds)[-2:]:
            for gpu in self.gpu.candidates()[:1]:
                for launches in filter(None, self._alike(build, gpu)):
                    fields = self.own.differences(launches)
                    if best is None or len(fields) < best[0]:
                        best = len(fields), "; ".join(fields[:3])
        return best[1] if best else ""

    def _alike(self, build: Build, gpu: Gpu) -> Iterator[tuple[KernelLaunch, ...]]:
        """What a build launches for calls with all or all but one of the observed flags."""
        flags = dict(self.main.flags or ())
        single = (*OPTIONAL_TEMPLATES, "Is_dropout", "Is_causal", "Return_softmax", "Append_KV", "Split")
        for turned in (None, *(name for name in single if name in flags)):
            changed = {**flags, turned: not flags[turned]} if turned else flags
            signature = replace(self.main, flags=tuple(changed.items()))
            other = _Reader(self.seen, signature, self.combine, self.gpu)
            splits = bool(changed.get("Split"))
            other.num_splits = max(2, other.num_splits) if splits else 1
            other.num_splits = min(MAX_SPLITS, other.num_splits)
            for kind in _kinds(signature, other.num_splits, build.rules):
                for head_dim in (self.bucket, self.bucket - _MULTIPLE_OF):
                    queries = other._queries(kind) or Interval(1, other.m_blocks * other.block_m)
                    lengths = other._lengths(build.rules, gpu, kind, queries)[0] or _ANY
                    for sq in _witnesses((queries,), self.block_m, 1):
                        for sk in _witnesses(lengths, self.block_n, 1):
                            if sq is not None and sk is not None:
                                call = other._call(build.library, kind, head_dim, sq, sk)
                                yield build.predict(call, gpu).launches


def _witnesses(lengths: Intervals, tile: int, step: int) -> tuple[int | None, int | None]:
    """The least length of whole tiles, and the least that is none; of multiples of ``step`` alone."""
    used = intersect(lengths, (Interval(1, None),))  # of no keys at all the library drops the masks
    whole = next((i.low for i in tightened(used, max(tile, step))), None)
    ragged = None
    for interval in lengths:
        for value in range(max(interval.low, 1), max(interval.low, 1) + 2 * step, step):
            if value % tile and (interval.high is None or value <= interval.high):
                ragged = value
                break
        if ragged is not None:
            break
    return whole, ragged


def _masks(flags: dict[str, bool], rules: Rules) -> Iterator[dict[str, Any]]:
    """The causal argument and window that give these flags."""
    windows = "window" in rules.takes
    causal, local = flags.get("Is_causal", False), flags.get("Is_local", False)
    if causal or (local and not rules.local_excludes_causal):
        yield {"causal": True}
        if windows:
            yield {"window": (-1, 0)}
    if local and windows:
        yield {"window": (0, 0)}
    if not causal and not local:
        yield {}


def _kinds(main: KernelSignature, num_splits: int, rules: Rules) -> Iterator[_Kind]:
    """The kinds of call that a main kernel's flags leave open, some of which may launch another kernel."""
    flags = dict(main.flags or ())
    split_kernel = main.family == "fwd_splitkv"
    append = flags.get("Append_KV", False)
    training = flags.get("Is_dropout", False) or flags.get("Return_softmax", False)
    foldable = not (training or flags.get("Is_local") or flags.get("Is_causal") or flags.get("Has_alibi"))
    for mask in _masks(flags, rules):
        for folded in (False, True) if foldable and not mask else (False,):
            common = {**mask, "folded": folded}
            if not append:
                if "fwd" in rules.entries and split_kernel == (num_splits > 1):
                    yield _Kind("fwd", **common)
                yield from _varlen_kinds(split_kernel, num_splits, rules, common)
            if "fwd_kvcache" in rules.entries and not training:
                yield from _kvcache_kinds(split_kernel, num_splits, append, rules, common)


def _varlen_kinds(
    split_kernel: bool, num_splits: int, rules: Rules, common: dict[str, Any]
) -> Iterator[_Kind]:
    if "varlen_fwd" not in rules.entries or (common["folded"] and not rules.varlen_folds):
        return
    gives = "varlen_num_splits" in rules.takes
    for paged in (False, True) if "varlen_paged" in rules.takes else (False,):
        if split_kernel == (paged or num_splits > 1):
            for given in (False, True) if gives else (False,):
                yield _Kind("varlen_fwd", paged=paged, given=given, **common)


def _kvcache_kinds(
    split_kernel: bool, num_splits: int, append: bool, rules: Rules, common: dict[str, Any]
) -> Iterator[_Kind]:
    forced: list[dict[str, Any]]
    if append:
        forced = [{"append": True, "cache_seqlens": True}]
    elif split_kernel and num_splits == 1:
        forced = [{"batch_idx": True}] if rules.batch_idx_forces_split else []
        forced += [{"paged": True}] if "kvcache_paged" in rules.takes else []
        forced += [{**one, "cache_seqlens": True} for one in forced]
    else:
        forced = [{}, {"cache_seqlens": True}] if split_kernel == (num_splits > 1) else []
    for one in forced:
        for given in (False, True):
            yield _Kind("fwd_kvcache", given=given, **common, **one)
