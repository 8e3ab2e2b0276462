"""TokenSpeed's MLA kernels, which the CuTe DSL names by function, module and class."""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, row

LIBRARY = "tokenspeed-mla"
FAMILIES: tuple[Family, ...] = (
    row(LIBRARY, "tokenspeed_mla_reduction", r"^kernel_cutlass_reduction_kernel_tokenspeed_mla", "combine"),
    row(LIBRARY, "tokenspeed_mla", r"^kernel_cutlass_split_kv_kernel_tokenspeed_mla"),
)
