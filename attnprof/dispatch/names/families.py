"""Attention kernel families by name: a table, first match wins.

The rows lie with their libraries. They were written for names that were really seen
(tests/data/golden/kernel_names.jsonl) and for those that released packages hold (tests/data/kernel_census).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from attnprof.dispatch.aiter import names as aiter
from attnprof.dispatch.flash_attn2 import names as flash_attn2
from attnprof.dispatch.flash_attn3 import names as flash_attn3
from attnprof.dispatch.flash_attn4 import names as flash_attn4
from attnprof.dispatch.flash_mla import names as flash_mla
from attnprof.dispatch.flashinfer import names as flashinfer
from attnprof.dispatch.flex_attention import names as flex_attention
from attnprof.dispatch.libraries import kernel_families
from attnprof.dispatch.names import others, spelled_constants
from attnprof.dispatch.names.family import Family, Halves
from attnprof.dispatch.names.symbols import own_name
from attnprof.dispatch.tokenspeed_mla import names as tokenspeed_mla
from attnprof.dispatch.torch_sdpa import names as torch_sdpa
from attnprof.dispatch.vllm_flash_attn import names as vllm_flash_attn

NOT_ATTENTION = "not_attention"

FAMILIES: tuple[Family, ...] = (
    *flash_mla.FAMILIES,
    *torch_sdpa.FAMILIES,
    *flash_attn2.FAMILIES,
    *vllm_flash_attn.FAMILIES,
    *flash_attn3.FAMILIES,
    *others.CUDNN_FRONTEND,
    *flash_attn4.FAMILIES,
    *tokenspeed_mla.FAMILIES,  # whose classes are called as FlashInfer's
    *flashinfer.FAMILIES,
    *flex_attention.FAMILIES,
    *others.OTHERS,
    *aiter.FAMILIES,
    *others.TRITON,
)

Fields = tuple[tuple[str, object], ...]
READERS: dict[str, Callable[[str], Fields]] = {
    flash_attn4.LIBRARY: flash_attn4.stated,
    flash_mla.LIBRARY: flash_mla.stated,
    "cutlass": flash_mla.stated,
    flashinfer.LIBRARY: flashinfer.stated,
    "trtllm-gen": flashinfer.stated,
    aiter.LIBRARY: aiter.stated,
    "ck-tile": aiter.stated,
    "vllm-rocm": aiter.stated,
    "triton": spelled_constants.stated,
    tokenspeed_mla.LIBRARY: tokenspeed_mla.stated,
}
HALVES: dict[str, Callable[[str], Halves]] = {flash_mla.LIBRARY: flash_mla.halves}
_SHORT: dict[str, Callable[[str], str | None]] = {
    flash_attn4.LIBRARY: flash_attn4.short,
    "trtllm-gen": flashinfer.short,
    "cudnn": others.short,
    "triton": spelled_constants.function_of,
    aiter.LIBRARY: spelled_constants.function_of,
    "aotriton": spelled_constants.function_of,
}

# The class at the end of a CuTe DSL name, else the function that it begins with.
_CUTE_CLASS = re.compile(r"([A-Z][A-Za-z0-9]{3,80}?)(?=_object_at_|_\d|$)")
_CUTE_FUNCTION = re.compile(r"kernel_cutlass_(\w{1,80}?_kernel)_")

# One of these stands in every name that any row matches; most kernels have none of them.
_HINT = re.compile(
    r"parallax|parallel_path|_cudnn|swa_|[Ff]na|fmha_|[Ff]lash|msa_|[Ff]mha|FMHA|[Aa]tt(?:n|ention)|sdpa|mha|fused_|chunk_|prepare_|paged|_fwd|flex_|mla|MLA|Mla"
    r"|MQA|[Mm]erge|[Rr]educ|segm|_sv_|pa_|bwd_|xqa|gqa|cake|vsa|sparse|Sparse|Compressed|split[kK]|[Dd]ecode|stage|Ts"
    r"|MixedCache|DSink|FwdSplit|recompute_w|CuSeqlens|CuBlocks|POD|minimax|_kv_|nsa|Sparsity|metadata|lse_combine|plan_kernel|Scheduler|pod_|seg_la|qsa|_dsv|softmax_gemm",
)


def halves_of(library: str, kernel: str) -> Halves:
    """Whether a call may launch a kernel of a library twice, each for half its heads."""
    told = HALVES.get(library)
    return told(kernel) if told else Halves.NONE


def family_of(kernel_name: str) -> Family | None:
    """The first row that a name matches."""
    if not _HINT.search(kernel_name):
        return None
    families = (*FAMILIES, *kernel_families())
    own = spelled_constants.function_of(kernel_name) or own_name(kernel_name)
    return next((family for family in families if family.matches(kernel_name, own)), None)


def stated(family: Family, kernel_name: str) -> Fields:
    """What a name says by itself, read as its library spells it."""
    return READERS.get(family.library, others.stated)(kernel_name)


def short_spelling(family: Family, kernel_name: str) -> str | None:
    """A short form of a name that is a sentence; None where its own name is short."""
    read = _SHORT.get(family.library)
    short = read(kernel_name) if read else None
    if short is not None or not kernel_name.startswith("kernel_cutlass_"):
        return short
    found = _CUTE_CLASS.search(kernel_name) or _CUTE_FUNCTION.match(kernel_name)
    return found.group(1) if found else None


__all__ = ["FAMILIES", "NOT_ATTENTION", "Family", "family_of", "own_name", "short_spelling", "stated"]
