"""TokenSpeed's MLA decode as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {"fwd_kvcache": "tokenspeed_mla_decode"}


class TokenspeedMla(LibraryOfVersions):
    """``tokenspeed_mla_decode`` of the tokenspeed-mla package, vLLM's backend TOKENSPEED_MLA."""

    folder = "attnprof.dispatch.tokenspeed_mla"
    kernels = ("tokenspeed-mla",)
    entries = ("fwd_kvcache",)
    dtypes = ("fp8", "bf16", "fp16")
    functions = _FUNCTIONS
    packages = ("tokenspeed-mla",)
    modelled = "its MLA decode over an FP8 cache is modelled"

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.tokenspeed_mla.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = TokenspeedMla()
