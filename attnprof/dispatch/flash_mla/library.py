"""FlashMLA as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions

_FORMATS = {656: "fp8_ds_mla", 352: "nvfp4_ds_mla", 584: "v4", 528: "v4.1"}  # by bytes of a token


class FlashMla(LibraryOfVersions):
    """deepseek-ai/FlashMLA as vLLM builds it: MLA dense and sparse, decode and prefill."""

    folder = "attnprof.dispatch.flash_mla"
    kernels = ("flashmla",)
    entries = ("fwd_kvcache", "varlen_fwd")
    dtypes = ("bf16", "fp16", "fp8")
    packages = ("flash-mla",)
    packs_pages = False
    modelled = "its launches are modelled; how blocks are dealt out on the device is reading"

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        topk = int(record.get("index_topk") or 0)
        if not topk:
            return {}
        kept = _FORMATS.get(record["k"][-1], "")
        split = not record.get("disable_split_kv")
        return {"index_topk": topk, "backend": kept, "disable_split_kv": not split}

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        from attnprof.dispatch.flash_mla.names import template_fields

        return template_fields(kernel)

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        function = record.get("function") or "vllm."
        if not function.startswith("vllm."):
            return "FlashMLA as another package than vllm builds it, whose launches were not recorded"
        if record.get("sparse"):
            if record.get("extra_cache"):
                return "sparse decoding with a cache beside the first, which is not modelled"
            known = record.get("index_topk") and record["k"][-1] in _FORMATS
            return "" if known else "sparse decoding whose keys or cache format its record does not tell"
        kept = record.get("kv_dtype")
        return "" if kept in (None, "bfloat16", "float16") else f"a KV cache of {kept}, which is not modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_mla.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = FlashMla()
