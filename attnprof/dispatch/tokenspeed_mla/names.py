"""TokenSpeed's MLA kernels, which the CuTe DSL names by function, module and class."""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, row

LIBRARY = "tokenspeed-mla"
FAMILIES: tuple[Family, ...] = (
    row(LIBRARY, "tokenspeed_mla_reduction", r"^kernel_cutlass_reduction_kernel_tokenspeed_mla", "combine"),
    row(LIBRARY, "tokenspeed_mla", r"^kernel_cutlass_split_kv_kernel_tokenspeed_mla"),
)
_ELEMENTS = {"ForwardFP8_": "fp8", "ForwardFP16_": "16-bit"}  # the class of 16 bits takes bf16 and fp16 alike


def stated(name: str) -> tuple[tuple[str, object], ...]:
    """What the elements of queries and cache are, by the class."""
    return tuple(("dtype", element) for spelled, element in _ELEMENTS.items() if spelled in name)
