"""What a backend of vLLM supports, as one row of conditions, and the reasons that follow.

Source: vllm/v1/attention/backend.py, AttentionBackend.validate_configuration; the reasons are its words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnprof.dispatch.engines.layer import Layer, Sm

UNQUANTIZED = ("auto", "float16", "bfloat16")
DECODER = ("decoder",)
ANY_TYPE = ("decoder", "encoder", "encoder_only", "encoder_decoder")

_KV_DTYPES_0_10 = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc")
_KV_DTYPES_0_20 = (
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla",
    "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc",
    "int8_per_token_head", "fp8_per_token_head", "nvfp4",
)  # fmt: skip
KV_DTYPES = {  # by series: CacheDType of vllm/config/cache.py
    "0.10": _KV_DTYPES_0_10,
    "0.20": _KV_DTYPES_0_20,
    "0.33": (
        *_KV_DTYPES_0_20, "nvfp4_ds_mla", "octave_k3v4", "octave_k3v3", "octave_k3v3_compact",
        "ultraquant_4bit", "int4_per_token_head", "nvfp4_4over6",
    ),
}  # fmt: skip

Condition = bool | Callable[[Layer, Sm], bool]


def quantized(kv_dtype: str) -> bool:
    """Whether the KV cache holds other numbers than the model's."""
    return kv_dtype not in UNQUANTIZED


def never(layer: Layer, sm: Sm) -> str | None:
    """No combination is refused."""
    return None


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend: which head dims, KV dtypes, pages and GPUs it takes, and what it can do.

    ``head_dims`` () and ``pages`` () take any; a block size fits where a page divides it. ``combination``
    is its own last check: a reason, or None.
    """

    name: str
    sms: Condition
    kv_dtypes: tuple[str, ...] | Condition
    head_dims: tuple[int, ...] | Condition = ()
    dtypes: tuple[str, ...] = ("bf16", "fp16")
    pages: tuple[int, ...] | Callable[[Layer, Sm], tuple[int, ...]] = (16,)
    attn_types: tuple[str, ...] = DECODER
    mla: bool = False
    sparse: bool = False
    mm_prefix: Condition = False
    sinks: Condition = False
    per_head_scales: Condition = False
    window: bool = False
    non_causal: bool = False
    batch_invariant: bool = False
    combination: Callable[[Layer, Sm], str | None] = never


def reasons(backend: Backend, layer: Layer, sm: Sm, *, checks_window: bool = True) -> tuple[str, ...]:
    """Every reason that rules ``backend`` out, in upstream's order and words; () where it is valid."""
    checks = (
        (holds(backend.head_dims, layer, sm, layer.head_dim), "head_size not supported"),
        (layer.dtype in backend.dtypes, "dtype not supported"),
        (holds(backend.kv_dtypes, layer, sm, layer.kv_dtype), "kv_cache_dtype not supported"),
        (_fits(backend, layer, sm), "block_size not supported"),
        (
            not layer.mm_prefix or true(backend.mm_prefix, layer, sm),
            "partial multimodal token full attention not supported",
        ),
        (layer.mla == backend.mla, f"{'MLA' if layer.mla else 'non-MLA'} not supported"),
        (not layer.sinks or true(backend.sinks, layer, sm), "attention sinks not supported"),
        (layer.sparse == backend.sparse, f"{'sparse' if layer.sparse else 'non-sparse'} not supported"),
        (
            not layer.per_head_scales or true(backend.per_head_scales, layer, sm),
            "per-head quant scales not supported",
        ),
        (true(backend.sms, layer, sm), "compute capability not supported"),
        (layer.attn_type in backend.attn_types, f"attention type {layer.attn_type} not supported"),
        (not (checks_window and layer.window) or backend.window, "sliding window not supported"),
        (not layer.non_causal or backend.non_causal, "non-causal attention not supported"),
        (not layer.batch_invariant or backend.batch_invariant, "batch invariance not supported"),
    )
    found = [reason for holds_here, reason in checks if not holds_here]
    last = backend.combination(layer, sm)
    return (*found, *([last] if last else []))


def true(condition: Condition, layer: Layer, sm: Sm) -> bool:
    return condition(layer, sm) if callable(condition) else condition


def holds(allowed: tuple[object, ...] | Condition, layer: Layer, sm: Sm, value: object) -> bool:
    """Whether ``value`` is among the allowed ones, or the condition holds."""
    if isinstance(allowed, tuple):
        return not allowed or value in allowed
    return true(allowed, layer, sm)


def _fits(backend: Backend, layer: Layer, sm: Sm) -> bool:
    pages = backend.pages(layer, sm) if callable(backend.pages) else backend.pages
    if layer.block_size is None:
        return bool(pages) or not callable(backend.pages)
    return any(layer.block_size % page == 0 for page in pages) or not pages
