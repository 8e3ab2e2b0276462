"""FlashMLA as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions


class FlashMla(LibraryOfVersions):
    """Dense MLA decode of deepseek-ai/FlashMLA, whose packages are named after commits."""

    folder = "attnprof.dispatch.flash_mla"
    entries = ("fwd_kvcache",)
    packages = ("flash-mla",)
    modelled = "its plan of dense decode is modelled from reading"

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        if record.get("sparse"):
            return "sparse decoding, whose plan is not modelled"
        kept = record.get("kv_dtype")
        return "" if kept in (None, "bfloat16", "float16") else f"a KV cache of {kept}, which is not modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_mla.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = FlashMla()
