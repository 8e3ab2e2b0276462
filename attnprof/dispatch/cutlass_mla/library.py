"""CUTLASS's MLA decode as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {"fwd_kvcache": "vLLM's sm100_cutlass_mla_decode"}


class CutlassMla(LibraryOfVersions):
    """``sm100_cutlass_mla_decode`` of the vllm package, its backend CUTLASS_MLA."""

    folder = "attnprof.dispatch.cutlass_mla"
    kernels = ("cutlass",)
    entries = ("fwd_kvcache",)
    dtypes = ("bf16", "fp16", "fp8")
    functions = _FUNCTIONS
    packages = ("vllm",)
    modelled = "its MLA decode on Blackwell is modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.cutlass_mla.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = CutlassMla()
