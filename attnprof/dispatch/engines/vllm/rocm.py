"""The choice of a backend on AMD's Instinct GPUs by vLLM 0.33 and 0.20: its list, the first that is valid.

AITER is taken as installed, as in vLLM's images: it supports gfx942 and gfx950, and VLLM_ROCM_USE_AITER asks
for its own backends. Source: vllm/platforms/rocm.py of the wheel, and v1/attention/backends/rocm_*.py with
mla/. Agrees with every choice and reason that the wheel's selector gave (tests/data/golden,
vllm_rocm_backends).
Packed caches (turboquant, octave, ultraquant) are not modelled here.
"""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.engines.layer import Choice, Layer, Sm
from attnprof.dispatch.engines.vllm import backends as own
from attnprof.dispatch.engines.vllm import mla_backends as mla
from attnprof.dispatch.engines.vllm.conditions import ANY_TYPE, UNQUANTIZED, Backend
from attnprof.dispatch.engines.vllm.selector import first_valid
from attnprof.errors import UsageError

_FP8 = (*UNQUANTIZED, "fp8", "fp8_e4m3")
_FP8_ALL = (*_FP8, "fp8_e5m2")
KV_DTYPES = (*_FP8_ALL, "fp8_ds_mla")


def has_aiter(sm: Sm) -> bool:
    """Whether AITER supports the GPU: gfx942 and gfx950, whose first two digits are taken as 9.4 and 9.5."""
    return sm in ((9, 4), (9, 5))


def _aiter(layer: Layer, sm: Sm) -> bool:
    return has_aiter(sm)


ROCM_ATTN = Backend(
    "ROCM_ATTN", True, _FP8_ALL, (32, 64, 80, 96, 128, 160, 192, 224, 256), ("bf16", "fp16", "fp32"),
    attn_types=("decoder", "encoder", "encoder_only"), window=True, non_causal=True,
)  # fmt: skip
ROCM_AITER_FA = Backend(
    "ROCM_AITER_FA", _aiter, _FP8_ALL, (64, 128, 256), pages=(16, 32), sinks=True, window=True,
    non_causal=True,
)  # fmt: skip
ROCM_AITER_UNIFIED_ATTN = Backend(
    "ROCM_AITER_UNIFIED_ATTN", True, _FP8_ALL, lambda layer, sm: layer.head_dim >= 32, attn_types=ANY_TYPE,
    sinks=True, window=True,
)  # fmt: skip
ROCM_AITER_MLA = Backend("ROCM_AITER_MLA", True, _FP8_ALL, pages=(1,), mla=True)
ROCM_AITER_TRITON_MLA = Backend("ROCM_AITER_TRITON_MLA", True, _FP8_ALL, pages=(1,), mla=True)
ROCM_AITER_MLA_SPARSE = Backend(
    "ROCM_AITER_MLA_SPARSE", True, _FP8, pages=(1, 16), mla=True, sparse=True, sinks=_aiter
)


# 0.20

_OLD: dict[str, Backend] = {
    "ROCM_ATTN": replace(ROCM_ATTN, mm_prefix=True),
    "ROCM_AITER_FA": replace(ROCM_AITER_FA, sinks=False),
    "ROCM_AITER_UNIFIED_ATTN": replace(ROCM_AITER_UNIFIED_ATTN, dtypes=ROCM_ATTN.dtypes, mm_prefix=True),
    "ROCM_AITER_MLA_SPARSE": replace(ROCM_AITER_MLA_SPARSE, kv_dtypes=UNQUANTIZED, sinks=False),
    "TRITON_ATTN": own.OLD_TRITON_ATTN,
    "TRITON_MLA": mla.OLD_TRITON_MLA,
}


def priorities(layer: Layer, sm: Sm, *, newest: bool = True) -> tuple[Backend, ...]:
    """vLLM's list of 0.33, or 0.20, best first."""
    listed = _listed(layer, sm)
    return listed if newest else tuple(_OLD.get(each.name, each) for each in listed)


def _listed(layer: Layer, sm: Sm) -> tuple[Backend, ...]:
    asked = layer.aiter and has_aiter(sm)
    if layer.sparse:
        return (ROCM_AITER_MLA_SPARSE,)
    if layer.mla:
        return (ROCM_AITER_MLA, mla.TRITON_MLA, ROCM_AITER_TRITON_MLA) if asked else (mla.TRITON_MLA,)
    unified = (ROCM_AITER_UNIFIED_ATTN,) if has_aiter(sm) else ()
    return (ROCM_ATTN, *((ROCM_AITER_FA,) if asked else ()), *unified, own.TRITON_ATTN)


def choose(layer: Layer, sm: Sm, gpu: str, *, newest: bool = True) -> Choice:
    """The first valid backend, or the one that is forced. Raises UsageError for what is not modelled."""
    if layer.kv_dtype not in KV_DTYPES:
        raise UsageError(
            f"a {layer.kv_dtype} KV cache on {gpu} is not modelled", hint=f"known are {', '.join(KV_DTYPES)}"
        )
    return first_valid(priorities(layer, sm, newest=newest), layer, sm, gpu, checks_window=newest)
