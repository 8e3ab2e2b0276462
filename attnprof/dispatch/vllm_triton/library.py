"""vLLM's Triton backend as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {
    "batch_paged": "vLLM's TRITON_ATTN backend",
    "batch_mla": "vLLM's TRITON_MLA backend",
    "batch_decode": "vLLM's TURBOQUANT backend",
}


class VllmTriton(LibraryOfVersions):
    """``TRITON_ATTN`` of the vllm package, unified_attention over a paged cache; two backends' decode."""

    folder = "attnprof.dispatch.vllm_triton"
    kernels = ("triton",)
    entries = ("batch_paged", "batch_mla", "batch_decode")
    dtypes = ("bf16", "fp16", "fp32", "fp8")
    functions = _FUNCTIONS
    packages = ("vllm",)
    vendor: Literal["nvidia", "amd", "any"] = "any"
    modelled = "its Triton backend is modelled"
    from_maxima = True  # grids follow from the longest query and the queries in all

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        from attnprof.dispatch.vllm_triton.rules import sequences_3d

        threshold, heads_k = record.get("threshold"), record["k"][2] if record.get("k") else 0
        if type(threshold) is not int or not heads_k:
            return ""
        usual = {sequences_3d(heads_k, graph) for graph in (False, True)}
        if threshold in usual:
            return ""
        return f"3D up to {threshold} sequences: the engine captures other sizes than vLLM's default"

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """An engine that captures graphs moves its threshold for eager steps too."""
        from attnprof.dispatch.vllm_triton.rules import sequences_3d

        threshold, heads_k = record.get("threshold"), record["k"][2]
        captures = type(threshold) is int and threshold == sequences_3d(heads_k, True)
        return {"cuda_graph": True} if captures and threshold != sequences_3d(heads_k, False) else {}

    def versions_spelling(self, kernel: str) -> tuple[str, ...]:
        from attnprof.dispatch.vllm_triton.rules import VERSIONS

        return tuple(
            version for version, rules in VERSIONS.items() if kernel in (rules.main_2d, rules.main_3d)
        )

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.vllm_triton.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = VllmTriton()
