"""FlashMLA's kernels: DeepSeek's own, dense and sparse, and CUTLASS's MLA for Blackwell.

Source: the kernels that the extensions of vllm 0.33.0 and sglang-kernel 0.4.10 register.
"""

from __future__ import annotations

import re

from attnprof.dispatch.names.arguments import numbers, template_arguments
from attnprof.dispatch.names.family import Family, Halves, bounded, row
from attnprof.dispatch.names.spelling import plain_template

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
_OWN = bounded(r"flash_fwd_splitkv_mla|flash_fwd_mla_combine_kernel|sparse_attn_fwd_")
_FMHA = "Sm100FmhaFwdKernelTmaWarpspecialized"
_FUNCTOR = {
    "main loop": bounded(r"Sm100(?:Fmha|Mla)FwdMainloopTmaWarpspecialized"),
    "mask": bounded(r"(?:Causal|Residual|No)Mask\b(?:<(?:true|false)>)?"),
    "scheduler": bounded(r"(?:Causal)?(?:Individual|Persistent)TileScheduler"),
}
Fields = tuple[tuple[str, object], ...]
# Sparse decode on Blackwell over 64 heads, which a call of 128 heads launches twice.
# Source: deepseek-ai/FlashMLA csrc/api/sparse_decode.cpp, as vllm 0.33.0 builds it.
_HALF = bounded(r"sm100::decode::(sparse::)?head64::flash_fwd_splitkv_mla_fp8_sparse_kernel")
_SPLIT = bounded(r"(?:true|\(bool\)1|, 1)}")  # that of NVFP4's cache, in a namespace of its own, always is


def halves(name: str) -> Halves:
    """Whether a call may launch a kernel twice, each for half its heads."""
    if not (half := _HALF.search(name)):
        return Halves.NONE
    return Halves.WHOLE if half.group(1) and not _SPLIT.search(name) else Halves.SPLIT


def template_fields(name: str) -> Fields | None:
    """The template of one of FlashMLA's kernels, without tensor maps; None of cut names and others'."""
    if name.startswith("_Z"):
        return None
    if _FMHA in name:
        found = {field: pattern.search(name) for field, pattern in _FUNCTOR.items()}
        told = tuple((field, match.group()) for field, match in found.items() if match)
        return told if len(told) == len(_FUNCTOR) else None
    if not _OWN.search(name) or (arguments := template_arguments(name)) is None:
        return None
    shown = arguments[:1] if any("TmaParams" in each for each in arguments) else arguments
    return tuple((f"template argument {at}", plain_template(f"<{each}>")) for at, each in enumerate(shown, 1))


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
