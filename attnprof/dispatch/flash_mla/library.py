"""FlashMLA as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions


class FlashMla(LibraryOfVersions):
    """deepseek-ai/FlashMLA as vLLM builds it: MLA dense and sparse, decode and prefill."""

    folder = "attnprof.dispatch.flash_mla"
    entries = ("fwd_kvcache", "varlen_fwd")
    dtypes = ("bf16", "fp16", "fp8")
    packages = ("flash-mla",)
    packs_pages = False
    modelled = "its launches are modelled; how blocks are dealt out on the device is reading"

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"index_topk": int(record.get("index_topk") or 0)}

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        from attnprof.dispatch.flash_mla.names import template_fields

        return template_fields(kernel)

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        if record.get("sparse"):
            return "sparse decoding, whose plan is not modelled"
        kept = record.get("kv_dtype")
        return "" if kept in (None, "bfloat16", "float16") else f"a KV cache of {kept}, which is not modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_mla.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = FlashMla()
