"""SGLang's Triton backend as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {
    "fwd_kvcache": "decode of SGLang's triton backend",
    "batch_paged": "extend of SGLang's triton backend",
}


class SglangTriton(LibraryOfVersions):
    """``--attention-backend triton`` of the sglang package."""

    folder = "attnprof.dispatch.sglang_triton"
    kernels = ("triton",)
    entries = ("fwd_kvcache", "batch_paged")
    functions = _FUNCTIONS
    packages = ("sglang",)
    vendor: Literal["nvidia", "amd", "any"] = "any"
    modelled = "its Triton backend is modelled"

    def entry_of(self, record: Mapping[str, Any]) -> Entry:
        """Decode alone is told the most splits."""
        return "batch_paged" if record.get("max_kv_splits") is None else "fwd_kvcache"

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The most splits are those of the server, whatever led to them; the unified kernel has none."""
        most = record.get("max_kv_splits")
        if record.get("unified"):
            return {"fixed_split_size": 1}
        return {"num_splits": most} if type(most) is int and most > 0 else {}

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.sglang_triton.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = SglangTriton()
