"""AITER as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import FP8, LibraryOfVersions


class Aiter(LibraryOfVersions):
    """The assembly's and Composable Kernel's forward and MLA decode, of the amd-aiter package."""

    folder = "attnprof.dispatch.aiter"
    kernels = ("aiter", "ck-tile")
    entries = ("fwd", "varlen_fwd", "fwd_kvcache")
    dtypes = ("bf16", "fp16", "fp8")
    packages = ("amd-aiter",)
    vendor: Literal["nvidia", "amd", "any"] = "amd"
    modelled = "its forward kernels and MLA decode are modelled"

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        if record.get("sinks"):
            return "AITER's packed forward with sinks is not modelled"
        fp8 = record["dtype"] == FP8 and record["entry"] != "fwd_kvcache"
        return "dtype fp8, of which MLA's decode alone is known" if fp8 else ""

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        dims = record["q"][-1], record["v"][-1]
        return {} if dims[0] == dims[1] else {"head_dim_v": dims[1]}

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        from attnprof.dispatch.aiter.read_back import template_fields

        return template_fields(kernel)

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.aiter.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = Aiter()
