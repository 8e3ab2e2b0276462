"""The backends of vLLM 0.33 and 0.20 for multi-head latent attention, a row each.

Source: vllm/v1/attention/backends/mla of the wheels, vllm/v1/attention/ops/flashmla.py and
MLACommonBackend of vllm/model_executor/layers/attention/mla_attention.py. kv_lora_rank is 512, as in every
model the golden rows hold; neither context parallelism is on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attnprof.dispatch.engines.layer import Layer, Sm
from attnprof.dispatch.engines.vllm.conditions import UNQUANTIZED, Backend, Condition, never
from attnprof.dispatch.engines.vllm.flash_attention import supported

_FP8 = (*UNQUANTIZED, "fp8", "fp8_e4m3")
_BF16 = ("auto", "bfloat16")
_FA4_HEADS = (8, 16, 32, 64, 128)
_COMMON = (320, 512, 576)


def _major(*majors: int) -> Condition:
    return lambda layer, sm: sm[0] in majors


def _flash_mla(layer: Layer, sm: Sm, blackwell: str = "Blackwell DC") -> str | None:
    if layer.sparse:
        supports = sm[0] in (9, 10)
        return None if supports else f"FlashMLA Sparse is only supported on Hopper and {blackwell} devices."
    return None if sm[0] == 9 else "FlashMLA Dense is only supported on Hopper devices."


def _old_flash_mla(layer: Layer, sm: Sm) -> str | None:
    return _flash_mla(layer, sm, "Blackwell")


def _flash_attn_mla(layer: Layer, sm: Sm) -> str | None:
    return None if sm[0] == 9 else "FlashAttention MLA not supported on this device"


def _flash_attn_mla_sparse(layer: Layer, sm: Sm) -> str | None:
    if layer.kv_dtype not in UNQUANTIZED:
        return "FlashAttention MLA Sparse currently supports only FP16/BF16 KV cache"
    if sm[0] != 9:
        return "FlashAttention MLA not supported on this device"
    return None if layer.index_topk else "FlashAttention MLA Sparse requires model with index_topk"


def _flashinfer_mla(layer: Layer, sm: Sm) -> str | None:
    nope = layer.qk_nope_head_dim
    if nope in (64, 128, 192):
        return None
    return f"FlashInfer MLA kernel requires qk_nope_head_dim in [64, 128, 192], but got {nope}"


def _tokenspeed(layer: Layer, sm: Sm) -> str | None:
    dims = (layer.qk_nope_head_dim, layer.qk_rope_head_dim, layer.v_head_dim or 128)
    if dims == (128, 64, 128):
        return None
    return (
        "tokenspeed_mla requires DeepSeek R1 MLA dimensions (qk_nope_head_dim=128, qk_rope_head_dim=64, "
        f"v_head_dim=128), got {dims}"
    )


def _trtllm_sparse(name: str) -> Callable[[Layer, Sm], str | None]:
    """The check of 0.33's TensorRT-LLM launcher, which FA4's backend inherits under its own name."""

    def check(layer: Layer, sm: Sm) -> str | None:
        nope = layer.qk_nope_head_dim
        if layer.kv_dtype == "fp8_ds_mla":
            return f"{name} SM10 does not support fp8_ds_mla kv-cache dtype"
        if layer.qk_rope_head_dim == 0:
            if nope == 256:
                return _needs_topk(layer)
            return (
                "FlashInfer native no-rope MLA requires qk_nope_head_dim=256 and kv_lora_rank=512, but got "
                f"qk_nope_head_dim={nope}, kv_lora_rank=512"
            )
        return _old_trtllm_sparse(layer, sm)

    return check


def _old_trtllm_sparse(layer: Layer, sm: Sm) -> str | None:
    nope = layer.qk_nope_head_dim
    if nope not in (128, 192):
        return f"FlashInfer MLA Sparse kernel requires qk_nope_head_dim in [128, 192], but got {nope}"
    return _needs_topk(layer)


def _needs_topk(layer: Layer) -> str | None:
    return None if layer.index_topk else "FlashInfer MLA Sparse requires model with index_topk config"


def _fa4_sparse(layer: Layer, sm: Sm) -> str | None:
    if not supported(4, sm):
        return "FA4 unavailable: FA4 is only supported on devices with compute capability 9.x, 10.x, or 11.x"
    topk = layer.index_topk or None
    if topk is None or topk % 128 != 0:
        return f"FA4 sparse MLA requires index_topk % 128 == 0, got {topk}"
    if layer.qk_rope_head_dim != 64:
        dims = (512, layer.qk_rope_head_dim)
        return f"FA4 sparse MLA requires (kv_lora_rank, qk_rope_head_dim) == (512, 64), got {dims}"
    if layer.num_heads not in _FA4_HEADS:
        return (
            f"FA4 sparse MLA requires {_FA4_HEADS} gathered query heads, got num_heads={layer.num_heads} * "
            "dcp_size=1"
        )
    return _trtllm_sparse("FLASH_ATTN_MLA_SPARSE_FA4")(layer, sm)


def _sm120_sparse(layer: Layer, sm: Sm) -> str | None:
    if layer.dtype != "bf16":
        return "dtype not supported"
    if layer.kv_dtype not in ("auto", "fp8", "fp8_e4m3", "fp8_ds_mla"):
        return "kv_cache_dtype not supported"
    if not layer.index_topk:
        return "FLASHINFER_MLA_SPARSE_SM120 requires a model with index_topk config"
    if layer.index_topk != 2048:
        return f"FLASHINFER_MLA_SPARSE_SM120 requires index_topk=2048; got {layer.index_topk}"
    return None


def _sm90_sparse(layer: Layer, sm: Sm) -> str | None:
    if not layer.sparse:
        return "FLASHINFER_MLA_SPARSE_SM90 requires sparse MLA"
    if layer.qk_rope_head_dim not in (0, 64):
        return "FLASHINFER_MLA_SPARSE_SM90 requires qk_rope_head_dim in (0, 64)"
    return None


def _flash_mla_sparse(layer: Layer, sm: Sm) -> str | None:
    if layer.head_dim == 512:
        if layer.kv_dtype not in (*UNQUANTIZED, "fp8_ds_mla") or sm[0] != 9:
            capability = f"DeviceCapability(major={sm[0]}, minor={sm[1]})"
            return (
                "FLASHMLA_SPARSE supports head_size 512 only with bf16 or fp8_ds_mla kv-cache on SM90 "
                f"(NoPE), got kv_cache_dtype={layer.kv_dtype}, capability={capability}"
            )
        if layer.qk_rope_head_dim != 0:
            return "FLASHMLA_SPARSE supports head_size 512 only for rope-free (NoPE) models"
    if layer.kv_dtype == "nvfp4_ds_mla" and sm[0] != 10:
        return f"FLASHMLA_SPARSE only supports the {layer.kv_dtype} kv-cache dtype on SM100 (Blackwell)"
    return None


def _mla(
    name: str, majors: Condition, kv_dtypes: tuple[str, ...], pages: tuple[int, ...], **more: Any
) -> Backend:
    return Backend(name, majors, kv_dtypes, pages=pages, mla=True, **({"head_dims": _COMMON} | more))


def _sparse(
    name: str, majors: Condition, kv_dtypes: tuple[str, ...], pages: tuple[int, ...], **more: Any
) -> Backend:
    return _mla(name, majors, kv_dtypes, pages, sparse=True, **more)


_ONLY_BF16 = ("bf16",)
FLASHINFER_MLA = _mla(
    "FLASHINFER_MLA", _major(10), _FP8, (32, 64), non_causal=True, combination=_flashinfer_mla
)
TOKENSPEED_MLA = _mla(
    "TOKENSPEED_MLA", _major(10), ("fp8", "fp8_e4m3"), (32, 64), non_causal=True, combination=_tokenspeed
)
CUTLASS_MLA = _mla("CUTLASS_MLA", _major(10), _FP8, (128,))
FLASH_ATTN_MLA = _mla(
    "FLASH_ATTN_MLA", _major(9), UNQUANTIZED, (16,), batch_invariant=True, combination=_flash_attn_mla
)
FLASHMLA = _mla("FLASHMLA", _major(9, 10), _FP8, (64,), combination=_flash_mla)
TRITON_MLA = _mla("TRITON_MLA", True, _FP8, (16,), head_dims=(), batch_invariant=True, non_causal=True)
FLASH_ATTN_MLA_SPARSE = _sparse(
    "FLASH_ATTN_MLA_SPARSE", _major(9), UNQUANTIZED, (64,), head_dims=(), combination=_flash_attn_mla_sparse
)
FLASH_ATTN_MLA_SPARSE_FA4 = _sparse(
    "FLASH_ATTN_MLA_SPARSE_FA4", _major(10), _BF16, (64,), dtypes=_ONLY_BF16, head_dims=(576,),
    combination=_fa4_sparse,
)  # fmt: skip
FLASHINFER_MLA_SPARSE = _sparse(
    "FLASHINFER_MLA_SPARSE", _major(10), _FP8, (32,), head_dims=(512, 576),
    combination=_trtllm_sparse("FLASHINFER_MLA_SPARSE"),
)  # fmt: skip
FLASHINFER_MLA_SPARSE_SM120 = _sparse(
    "FLASHINFER_MLA_SPARSE_SM120", _major(12), ("auto", "fp8", "fp8_e4m3", "fp8_ds_mla"), (64,),
    dtypes=_ONLY_BF16, head_dims=(512, 576), combination=_sm120_sparse,
)  # fmt: skip
FLASHINFER_MLA_SPARSE_SM90 = _sparse(
    "FLASHINFER_MLA_SPARSE_SM90", _major(9), (*_BF16, "fp8", "fp8_e4m3"), (64,), dtypes=_ONLY_BF16,
    head_dims=(512, 576), combination=_sm90_sparse,
)  # fmt: skip
FLASHMLA_SPARSE = _sparse(
    "FLASHMLA_SPARSE", _major(9, 10), (*_BF16, "fp8_ds_mla", "fp8", "nvfp4_ds_mla"), (64,),
    dtypes=_ONLY_BF16, head_dims=(512, 576), combination=_flash_mla_sparse,
)  # fmt: skip

# 0.20

_OLD_COMMON = (320, 576)
OLD_FLASHINFER_MLA = replace(FLASHINFER_MLA, head_dims=_OLD_COMMON, non_causal=False)
OLD_CUTLASS_MLA = replace(CUTLASS_MLA, head_dims=_OLD_COMMON)
OLD_FLASH_ATTN_MLA = replace(FLASH_ATTN_MLA, head_dims=_OLD_COMMON)
OLD_FLASHMLA = replace(FLASHMLA, head_dims=_OLD_COMMON, combination=_old_flash_mla)
OLD_TRITON_MLA = replace(TRITON_MLA, non_causal=False)
OLD_FLASHINFER_MLA_SPARSE = replace(FLASHINFER_MLA_SPARSE, head_dims=(576,), combination=_old_trtllm_sparse)
OLD_FLASHMLA_SPARSE = replace(FLASHMLA_SPARSE, kv_dtypes=(*_BF16, "fp8_ds_mla", "fp8"), combination=never)
