"""FlashMLA's kernels: DeepSeek's own, dense and sparse, and CUTLASS's MLA for Blackwell.

Source: the kernels that the extensions of vllm 0.33.0 and sglang-kernel 0.4.10 register.
"""

from __future__ import annotations

import re

from attnprof.dispatch.names.arguments import numbers
from attnprof.dispatch.names.family import Family, bounded, row

LIBRARY = "flashmla"
FAMILIES: tuple[Family, ...] = (
    row(
        LIBRARY,
        "mla_combine",
        r"flash_fwd_splitkv_mla_combine_kernel|flash_fwd_mla_combine_kernel",
        "combine",
    ),
    row(LIBRARY, "mla_splitkv", r"flash_fwd_splitkv_mla\w*kernel"),
    row(LIBRARY, "mla_metadata", r"(?:^|::)get_mla_metadata_kernel\w*$", "metadata"),
    row(LIBRARY, "mla_sparse_fwd", r"(?:^|::)sparse_attn_fwd_\w*kernel$"),
    row(LIBRARY, "mla_fused_fwd", r"(?:^|::)core_attn::fwd_kernel$"),
    row("cutlass", "mla_reduction", r"Sm100FmhaMlaReductionKernel$", "combine"),
    row("cutlass", "mla", r"Sm100FmhaMlaKernel\w*$"),
    row("cutlass", "fmha_bwd", r"Sm\d+Fmha(?:Mla)?Bwd\w*$|Sm\d+FmhaBwd\w*$|FmhaKernelBwd\w*$", "backward"),
    row("cutlass", "fmha", r"Sm\d+Fmha\w*Kernel\w*$|(?:^|::)FmhaKernel(?:Tma\w*)?$"),
)
_DTYPE = bounded(r"bfloat16_t|half_t|float_e4m3_t")
_DTYPES = {"bfloat16_t": "bf16", "half_t": "fp16", "float_e4m3_t": "fp8"}
_SHAPE = bounded(r"(?:C<|CILi|C<\(int\))(\d{1,5})")
Fields = tuple[tuple[str, object], ...]


def stated(name: str) -> Fields:
    """Head dims, tiles and element of the kernels that name them."""
    fields: list[tuple[str, object]] = []
    if "traits_mla" in name:
        given = numbers(("_Z" if name.startswith("_Z") else "") + name.partition("traits_mla")[2])[:4]
        if len(given) == 4:
            fields += zip(("head_dim", "block_m", "block_n", "warps"), given, strict=True)
    elif "FmhaMlaKernel" in name and len(shape := _SHAPE.compiled.findall(name)) >= 4:
        queries, keys, latent, rope = map(int, shape[:4])
        fields += [
            ("block_m", queries),
            ("block_n", keys),
            ("head_dim_v", latent),
            ("head_dim", latent + rope),
        ]
    elif "mla_combine_kernel" in name and (given := numbers(name)):
        fields.append(("head_dim_v", given[0]))
    if element := _DTYPE.search(name):
        fields.append(("dtype", _DTYPES[element.group()]))
    if heads := re.search(r"(?:::|\d)head(\d+)", name):
        fields.append(("heads", int(heads.group(1))))
    return tuple(fields)
