"""vLLM's Triton backend as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {"batch_paged": "vLLM's TRITON_ATTN backend"}


class VllmTriton(LibraryOfVersions):
    """``TRITON_ATTN`` of the vllm package: unified_attention over a paged cache."""

    folder = "attnprof.dispatch.vllm_triton"
    entries = ("batch_paged",)
    dtypes = ("bf16", "fp16", "fp32", "fp8")
    functions = _FUNCTIONS
    packages = ("vllm",)
    vendor: Literal["nvidia", "amd", "any"] = "any"
    modelled = "its Triton backend is modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.vllm_triton.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = VllmTriton()
