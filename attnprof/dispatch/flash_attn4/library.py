"""FlashAttention-4 as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import FLASH_ATTN_FUNCTIONS, Launches, LibraryOfVersions


class FlashAttention4(LibraryOfVersions):
    """``flash_attn.cute`` of the flash-attn-4 package."""

    folder = "attnprof.dispatch.flash_attn4"
    kernels = ("flash-attn-4",)
    entries = ("fwd", "varlen_fwd")
    functions = FLASH_ATTN_FUNCTIONS
    packages = ("flash-attn-4",)
    modelled = "its launches are modelled, and agree with the host code of the package"

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is recorded takes 0 for automatic, a call -1."""
        head_dim_v = record["v"][-1]
        dims = {} if head_dim_v == record["q"][-1] else {"head_dim_v": head_dim_v}
        automatic = {"num_splits": -1} if record.get("num_splits") == 0 else {}
        picked = int(record.get("index_topk") or 0)
        return {"pack_gqa": record.get("pack_gqa"), "index_topk": picked, **dims, **automatic}

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        if record.get("sparse"):
            return "block sparsity, which is not modelled"
        return (
            "a mask function, which no call says" if record.get("mask_kind") else super().not_modelled(record)
        )

    def window_may_tell(self, one: Launches, other: Launches) -> bool:
        from attnprof.dispatch.flash_attn4.read_back import window_may_tell

        return window_may_tell(one, other)

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_attn4.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = FlashAttention4()
