"""FlashAttention-3 as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_attn3 import installed, records
from attnprof.dispatch.heuristic import MAX_SPLITS, SplitChoice
from attnprof.dispatch.library import FLASH_ATTN_FUNCTIONS, Evidence, InstalledLibrary, LibraryOfVersions
from attnprof.dispatch.replay import ReplaySource, flash_attn_source

if TYPE_CHECKING:
    from attnprof.model import AttentionCall


class FlashAttention3(LibraryOfVersions):
    """What ``hopper/`` of flash_attn's repository builds."""

    folder = "attnprof.dispatch.flash_attn3"
    kernels = ("flash-attn-3",)
    functions = FLASH_ATTN_FUNCTIONS
    packages = installed.PACKAGES
    module = installed.MODULE
    files = installed.FILES
    dtypes = (*LibraryOfVersions.dtypes, "fp8")

    def installed(self, evidence: Evidence) -> InstalledLibrary | None:
        return installed.judge(evidence)

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        return records.not_modelled(record)

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        return records.arguments(record)

    def weigh(self, thread_blocks: int, slots: int, key_blocks: int) -> SplitChoice | None:
        from attnprof.dispatch.flash_attn3.rules import split_choice

        return split_choice(thread_blocks, slots, key_blocks, 0, 0, False, MAX_SPLITS, False)

    def replay(self, call: AttentionCall) -> ReplaySource | None:
        # A record states -1 for automatic, which the function is not given so.
        return flash_attn_source(call, self.module, num_splits=True) if call.num_splits >= 0 else None

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        from attnprof.dispatch.flash_attn3.names import template_fields

        return template_fields(kernel)

    def named_only(self, kernel: str) -> str:
        from attnprof.dispatch.flash_attn3.names import EARLY
        from attnprof.dispatch.flash_attn3.versions import OLDEST
        from attnprof.dispatch.names.kernel_names import parse_kernel_name

        signature = parse_kernel_name(kernel)
        if (signature.library, signature.family) != ("flash-attn-3", EARLY):
            return ""
        return f"flash-attn-3 {EARLY}, of a state before {OLDEST}, the oldest whose rules are known"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_attn3.read_back import read_back
        from attnprof.dispatch.flash_attn3.versions import builds

        return read_back(seen, gpu, builds())


LIBRARY = FlashAttention3()
