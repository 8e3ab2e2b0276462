"""vLLM's ROCM_ATTN as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {
    "batch_paged": "vLLM's ROCM_ATTN backend",
    "varlen_fwd": "encoders of vLLM's ROCM_ATTN backend",
}


class VllmRocm(LibraryOfVersions):
    """``ROCM_ATTN`` of the vllm package, which is its first choice on AMD's Instinct GPUs."""

    folder = "attnprof.dispatch.vllm_rocm"
    kernels = ("vllm-rocm", "triton")
    entries = ("batch_paged", "varlen_fwd")
    functions = _FUNCTIONS
    packages = ("vllm",)
    vendor: Literal["nvidia", "amd", "any"] = "amd"
    modelled = "its ROCM_ATTN backend is modelled"
    from_maxima = True

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.vllm_rocm.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = VllmRocm()
