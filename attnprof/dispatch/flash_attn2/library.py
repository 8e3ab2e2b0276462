"""flash_attn 2 as the registry knows it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attnprof.dispatch.heuristic import MAX_SPLITS, SplitChoice, ceil_div, split_choice
from attnprof.dispatch.library import (
    FLASH_ATTN_FUNCTIONS,
    AnswerTo,
    Evidence,
    InstalledLibrary,
    KeyEdges,
    LibraryOfVersions,
    SplitCounter,
)
from attnprof.model import AttentionCall, Gpu

if TYPE_CHECKING:
    from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
    from attnprof.dispatch.intervals import InferredCall, Interval
    from attnprof.dispatch.replay import ReplaySource

_FLASH_ATTN_3 = re.compile(r"3\.0\.0\.?b")  # which bore the same name before 2.8.0
_KERNELS = "flash-attn"


class FlashAttention2(LibraryOfVersions):
    """The PyPI package flash-attn."""

    folder = "attnprof.dispatch.flash_attn2"
    kernels = (_KERNELS,)
    functions = FLASH_ATTN_FUNCTIONS
    packages = ("flash-attn",)
    when_absent = "not installed (optional): runs use scaled_dot_product_attention"

    def installed(self, evidence: Evidence) -> InstalledLibrary | None:
        (package,) = self.packages
        found = [version for version in evidence.packages[package] if not _FLASH_ATTN_3.match(version)]
        return InstalledLibrary(found[0], found[0]) if found else None

    def weigh(self, thread_blocks: int, slots: int, key_blocks: int) -> SplitChoice | None:
        return split_choice(thread_blocks, slots, key_blocks, MAX_SPLITS)

    def key_block(self, call: AttentionCall) -> int | None:
        from attnprof.dispatch.flash_attn2.rules import block_n

        return block_n(call.head_dim)

    def cache_block(self, call: AttentionCall) -> int | None:
        # Source: compute_attn_1rowblock_splitkv, which shares out the capacity, not the keys in use.
        from attnprof.dispatch.flash_attn2.rules import block_n

        return block_n(ceil_div(call.head_dim, 8) * 8)

    def alike(self, call: AttentionCall, gpu: Gpu, version: str) -> AnswerTo:
        from attnprof.dispatch.flash_attn2.alike import CallsAlike
        from attnprof.dispatch.flash_attn2.versions import rules_for

        return CallsAlike(call, gpu, rules_for(version))

    def key_edges(self, call: AttentionCall) -> KeyEdges | None:
        from attnprof.dispatch.flash_attn2.array import key_edges

        return key_edges(call)

    def split_counter(self, version: str) -> SplitCounter | None:
        from attnprof.dispatch.flash_attn2.array import counter_of
        from attnprof.dispatch.flash_attn2.versions import rules_for

        return counter_of(rules_for(version))

    def replay(self, call: AttentionCall) -> ReplaySource | None:
        from attnprof.dispatch.replay import flash_attn_source

        return flash_attn_source(call, "flash_attn", num_splits=False)

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        return template_fields(kernel, _KERNELS)

    def read_back(self, kernel: str, grid: tuple[int, int, int], num_sms: int) -> InferredCall | None:
        return read_back(kernel, grid, num_sms, _KERNELS)

    def splits_at(self, kernel: str, call: InferredCall, num_sms: int, seqlen_k: Interval) -> set[int]:
        return splits_at(kernel, call, num_sms, seqlen_k, _KERNELS)

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_attn2.read_back import read_back
        from attnprof.dispatch.flash_attn2.versions import builds

        return read_back(seen, gpu, builds())


def template_fields(kernel: str, kernels: str) -> tuple[tuple[str, object], ...] | None:
    """The template of one of FlashAttention-2's kernels; None of other libraries' than ``kernels``."""
    from attnprof.dispatch.names.kernel_names import parse_kernel_name

    signature = parse_kernel_name(kernel)
    known = signature.library == kernels and signature.head_dim is not None
    return signature.template() if known else None


def read_back(kernel: str, grid: tuple[int, int, int], num_sms: int, kernels: str) -> InferredCall | None:
    """What a launch says of its call; None of other libraries' kernels than ``kernels``."""
    from attnprof.dispatch.flash_attn2.kv_lengths import infer_call
    from attnprof.dispatch.names.kernel_names import parse_kernel_name

    signature = parse_kernel_name(kernel)
    return infer_call(signature, grid, num_sms) if signature.library == kernels else None


def splits_at(kernel: str, call: InferredCall, num_sms: int, seqlen_k: Interval, kernels: str) -> set[int]:
    """The split counts of a call read back from ``kernel``; none of other libraries' than ``kernels``."""
    from attnprof.dispatch.flash_attn2 import kv_lengths
    from attnprof.dispatch.names.kernel_names import parse_kernel_name

    signature = parse_kernel_name(kernel)
    mine = signature.library == kernels
    return kv_lengths.splits_at(signature, call, num_sms, seqlen_k) if mine else set()


LIBRARY = FlashAttention2()
