"""The backends of vLLM 0.33 and 0.20 that are not for MLA, a row each.

Source: vllm/v1/attention/backends of the wheels: flash_attn.py, flashinfer.py, triton_attn.py,
flex_attention.py, turboquant_attn.py, composite.py with triton_flash_attn.py and triton_flashinfer.py, and
vllm/utils/flashinfer.py. TensorRT-LLM's cubins are taken as there, FlashInfer as installed.
"""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.engines.layer import Layer, Sm
from attnprof.dispatch.engines.vllm.conditions import (
    ANY_TYPE,
    UNQUANTIZED,
    Backend,
    holds,
    quantized,
    true,
)
from attnprof.dispatch.engines.vllm.flash_attention import HD256_PAGE, Asked, choose, supported

_FP8 = ("fp8", "fp8_e4m3")
_FP8_ALL = (*_FP8, "fp8_e5m2")
_TURBOQUANT = ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc")
_HOPPER = (9, 0)


def since_ampere(layer: Layer, sm: Sm) -> bool:
    return sm >= (8, 0)


def _flash_head_dim(layer: Layer, sm: Sm) -> bool:
    most = 512 if supported(4, sm) else 256
    return layer.head_dim % 8 == 0 and layer.head_dim <= most


def _sinks_in_flash(layer: Layer, sm: Sm) -> bool:
    return choose(layer, sm, Asked(), newest=True).version in (3, 4)


def _flash_scales(layer: Layer, sm: Sm) -> bool:
    return (choose(layer, sm, Asked(), newest=True).version or 0) >= 3


# 0.33


def _flash_fp8(layer: Layer, sm: Sm, asked: Asked) -> bool:
    """``flash_attn_supports_kv_cache_dtype`` of an FP8 cache."""
    if layer.kv_dtype == "fp8_e5m2":
        return False
    version = choose(layer, sm, asked, newest=True).version
    if sm[0] == 9:
        return version == 3 or (version == 4 and asked.head_dim in (None, 512))
    return version == 4 and sm[0] == 10


def _flash_kv(layer: Layer, sm: Sm) -> bool:
    if layer.kv_dtype not in (*UNQUANTIZED, *_FP8):
        return False
    return not quantized(layer.kv_dtype) or _flash_fp8(layer, sm, Asked())


def _flash_pages(layer: Layer, sm: Sm) -> tuple[int, ...]:
    whole = Asked(layer.head_dim)
    fp8_wide = sm[0] == 9 and layer.kv_dtype in _FP8 and layer.head_dim == 512
    if fp8_wide and choose(layer, sm, whole, newest=True).version == 4:
        return (64,)
    knows = replace(whole, knows_hd256=True)
    own_kernel = layer.head_dim == 256 and sm[0] in (10, 11)
    if own_kernel and choose(layer, sm, knows, newest=True).version == 4:
        return (HD256_PAGE,)
    return (16,)


def _flash_combination(layer: Layer, sm: Sm) -> str | None:
    narrow = Asked(layer.head_dim, sinks=layer.sinks, block_size=layer.block_size, knows_hd256=True)
    if layer.sinks and sm < (9, 0):
        return "sink not supported on compute capability < 9.0"
    if layer.mm_prefix and quantized(layer.kv_dtype) and sm == _HOPPER:
        return "SM90 FP8 KV with mm_prefix requires Triton"
    if quantized(layer.kv_dtype) and not _flash_fp8(layer, sm, replace(narrow, head_dim_v=layer.head_dim)):
        return "FP8 KV cache requires FA3 on SM90, FA4 with head_size=512 on SM90, or FA4 on SM100"
    if layer.mm_prefix and choose(layer, sm, narrow, newest=True).version != 4:
        return (
            "mm_prefix (PrefixLM bidirectional attention) requires FlashAttention v4, which does not resolve "
            "for this head_size"
        )
    return None


def flash_refusal(layer: Layer, sm: Sm) -> str:
    """What FlashAttentionImpl refuses although the selector took its backend; "" where it takes the layer."""
    asked = Asked(
        layer.head_dim, layer.head_dim, layer.alibi, layer.sinks, layer.softcap > 0, knows_hd256=True
    )
    if not quantized(layer.kv_dtype) or _flash_fp8(layer, sm, asked):
        return ""
    return f"FlashAttention does not support {layer.kv_dtype} kv-cache on this device."


def _flashinfer_kv(layer: Layer, sm: Sm) -> bool:
    if layer.kv_dtype.startswith("nvfp4"):
        if sm[0] in (8, 9, 12):
            return layer.kv_dtype == "nvfp4"
        return sm[0] == 10 and not layer.batch_invariant
    return layer.kv_dtype in (*UNQUANTIZED, *_FP8_ALL)


def _flashinfer_sinks(layer: Layer, sm: Sm) -> bool:
    """Where TensorRT-LLM's kernels, or XQA's, run: they alone have sinks."""
    return (sm == _HOPPER or sm[0] in (10, 12)) and not layer.batch_invariant


def _flashinfer_combination(layer: Layer, sm: Sm) -> str | None:
    if layer.kv_dtype.startswith("nvfp4") and sm[0] in (8, 9, 12):
        if layer.head_dim == 64:
            return "fa2 prefill misreads an NVFP4 KV cache at head_size 64"
        if layer.sinks:
            return "the sink prefill wrapper cannot read an NVFP4 KV cache"
    return None


FLASH_ATTN = Backend(
    "FLASH_ATTN", since_ampere, _flash_kv, _flash_head_dim, pages=_flash_pages, attn_types=ANY_TYPE,
    mm_prefix=lambda layer, sm: supported(4, sm), sinks=_sinks_in_flash, per_head_scales=_flash_scales,
    window=True, non_causal=True, batch_invariant=True, combination=_flash_combination,
)  # fmt: skip
FLASHINFER = Backend(
    "FLASHINFER", lambda layer, sm: (8, 0) <= sm <= (12, 1), _flashinfer_kv, (64, 128, 256, 512),
    sinks=_flashinfer_sinks, window=True, non_causal=True, combination=_flashinfer_combination,
)  # fmt: skip
TRITON_ATTN = Backend(
    "TRITON_ATTN", True,
    (*UNQUANTIZED, *_FP8_ALL, "int4_per_token_head", "int8_per_token_head", "fp8_per_token_head"),
    lambda layer, sm: layer.head_dim >= 32, ("bf16", "fp16", "fp32"), attn_types=ANY_TYPE, mm_prefix=True,
    sinks=True, window=True, non_causal=True, batch_invariant=True,
)  # fmt: skip
FLEX_ATTENTION = Backend(
    "FLEX_ATTENTION", True, UNQUANTIZED, (), ("bf16", "fp16", "fp32"),
    attn_types=("decoder", "encoder_only"), mm_prefix=True, window=True, non_causal=True,
    batch_invariant=True,
)  # fmt: skip
TURBOQUANT = Backend("TURBOQUANT", True, _TURBOQUANT)


def _composite(name: str, causal: Backend, major: int, pages: tuple[int, ...]) -> Backend:
    """Triton for what a multimodal prefix makes bidirectional, ``causal`` for the rest."""

    def both_kv(layer: Layer, sm: Sm) -> bool:
        return all(holds(each.kv_dtypes, layer, sm, layer.kv_dtype) for each in (TRITON_ATTN, causal))

    def both_head_dims(layer: Layer, sm: Sm) -> bool:
        return layer.head_dim in (256, 512) and holds(causal.head_dims, layer, sm, layer.head_dim)

    def narrow(layer: Layer, sm: Sm) -> str | None:
        found = causal.combination(replace(layer, mm_prefix=False), sm)
        return f"{causal.name}: {found}" if found else None

    def shared_pages(layer: Layer, sm: Sm) -> tuple[int, ...]:
        own = causal.pages(layer, sm) if callable(causal.pages) else causal.pages
        return tuple(page for page in pages if any(page % each == 0 for each in own)) if pages else own

    def capable(layer: Layer, sm: Sm) -> bool:
        return sm[0] == major and true(causal.sms, layer, sm)

    return Backend(
        name, capable, both_kv, both_head_dims, pages=shared_pages, mm_prefix=True, window=True,
        combination=narrow,
    )  # fmt: skip


def _hopper_flash(layer: Layer, sm: Sm) -> str | None:
    found = _flash_combination(layer, sm)
    if found:
        return found
    asked = Asked(layer.head_dim, sinks=layer.sinks, block_size=layer.block_size, knows_hd256=True)
    if choose(layer, sm, asked, newest=True).version not in (3, 4):
        return "causal route requires FlashAttention v3 or v4"
    return None


TRITON_FLASH_ATTN = _composite("TRITON_FLASH_ATTN", replace(FLASH_ATTN, combination=_hopper_flash), 9, ())
TRITON_FLASHINFER = _composite("TRITON_FLASHINFER", FLASHINFER, 10, (64,))

# 0.20


def _old_flash_kv(layer: Layer, sm: Sm) -> bool:
    kv_dtype = layer.kv_dtype
    if kv_dtype.startswith("fp8") or kv_dtype.endswith("per_token_head") or kv_dtype == "nvfp4":
        return choose(layer, sm, Asked(), newest=False).version == 3 and sm[0] == 9
    return kv_dtype in UNQUANTIZED


def _old_flash_combination(layer: Layer, sm: Sm) -> str | None:
    too_old = layer.sinks and sm < (9, 0)
    return "sink not supported on compute capability < 9.0" if too_old else None


OLD_FLASH_ATTN = replace(
    FLASH_ATTN, kv_dtypes=_old_flash_kv, pages=(16,), mm_prefix=False, combination=_old_flash_combination,
)  # fmt: skip
OLD_FLASHINFER = Backend(
    "FLASHINFER", lambda layer, sm: (7, 5) <= sm <= (12, 1), (*UNQUANTIZED, *_FP8_ALL), (64, 128, 256),
    sinks=lambda layer, sm: sm[0] == 10 and not layer.batch_invariant,
)  # fmt: skip
OLD_TRITON_ATTN = replace(
    TRITON_ATTN, kv_dtypes=(*UNQUANTIZED, *_FP8_ALL, "int8_per_token_head", "fp8_per_token_head"),
    non_causal=False,
)  # fmt: skip
OLD_FLEX_ATTENTION = replace(FLEX_ATTENTION, pages=(), batch_invariant=False)
