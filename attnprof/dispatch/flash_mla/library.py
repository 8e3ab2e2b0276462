"""FlashMLA as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import Evidence, InstalledLibrary, LibraryOfVersions

_FORMATS = {656: "fp8_ds_mla", 352: "nvfp4_ds_mla", 584: "v4", 528: "v4.1"}  # by bytes of a token


class FlashMla(LibraryOfVersions):
    """deepseek-ai/FlashMLA as vLLM and sglang-kernel build it: MLA dense and sparse, decode and prefill."""

    folder = "attnprof.dispatch.flash_mla"
    kernels = ("flashmla", "cutlass")  # packed prefill is CUTLASS's kernel
    entries = ("fwd_kvcache", "varlen_fwd")
    dtypes = ("bf16", "fp16", "fp8")
    packages = ("flash-mla", "sgl-flash-mla", "sglang-kernel")
    packs_pages = False
    modelled = "its launches are modelled; how blocks are dealt out on the device is reading"

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        topk = int(record.get("index_topk") or 0)
        if not topk:
            return {}
        if record["entry"] == "varlen_fwd":
            return {"index_topk": topk, "cache_seqlens": bool(record.get("counted"))}
        return {
            "index_topk": topk,
            "backend": _FORMATS.get(record["k"][-1], ""),
            "disable_split_kv": bool(record.get("disable_split_kv")),
            "extra_topk": int(record.get("extra_topk") or 0),
            "extra_counted": bool(record.get("extra_counted")),
        }

    def installed(self, evidence: Evidence) -> InstalledLibrary | None:
        """SGLang brings builds of its own; vLLM's shows in the functions that are called."""
        for version in evidence.packages.get("sgl-flash-mla", ()):
            return InstalledLibrary(f"sgl-flash-mla-{version}", version)
        for version in evidence.packages.get("sglang-kernel", ()):
            return InstalledLibrary(f"sglang-kernel-{version}", version)
        return super().installed(evidence)

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        from attnprof.dispatch.flash_mla.names import template_fields

        return template_fields(kernel)

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        function = record.get("function") or "vllm."
        if not function.startswith(("vllm.", "sgl_kernel.")) and not record.get("older_half"):
            return "FlashMLA of a package or a half of it whose launches were not recorded"
        if record.get("sparse"):
            if record["entry"] == "varlen_fwd":
                return (
                    "" if record.get("index_topk") else "sparse prefill whose keys its record does not tell"
                )
            if record.get("extra_cache") and not record.get("extra_topk"):
                return "sparse decoding whose record does not tell the keys of its second cache"
            known = record.get("index_topk") and record["k"][-1] in _FORMATS
            return "" if known else "sparse decoding whose keys or cache format its record does not tell"
        kept = record.get("kv_dtype")
        return "" if kept in (None, "bfloat16", "float16") else f"a KV cache of {kept}, which is not modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_mla.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = FlashMla()
