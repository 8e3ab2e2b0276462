"""AITER over a paged cache as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {
    "fwd_kvcache": "AITER's paged_attention_ragged",
    "varlen_fwd": "AITER's mha_batch_prefill_func",
    "batch_paged": "AITER's unified_attention",
}


class AiterPaged(LibraryOfVersions):
    """What SGLang's backend aiter calls over its cache, and the Triton attention of vLLM's, of amd-aiter."""

    folder = "attnprof.dispatch.aiter_paged"
    kernels = ("vllm-rocm", "triton", "ck-tile")
    entries = ("fwd_kvcache", "varlen_fwd", "batch_paged")
    dtypes = ("bf16", "fp16", "fp8")
    functions = _FUNCTIONS
    packages = ("amd-aiter",)
    vendor: Literal["nvidia", "amd", "any"] = "amd"
    modelled = "its attention over a paged cache is modelled"
    from_maxima = True  # unified attention goes by the longest and by queries and requests in all

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        cache = str(record.get("kv_dtype") or "")
        if "float8" in cache and record["dtype"] != cache:
            return f"a cache in {cache} for queries in {record['dtype']}"
        return ""

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        from attnprof.dispatch.aiter_paged.read_unified import constants_of

        return constants_of(kernel)

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.aiter_paged.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = AiterPaged()
