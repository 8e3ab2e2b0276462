"""Records torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from attnprof.instrument.recorder import Recorder, dtype_name, shape, sizes

FUNCTION = "torch.nn.functional.scaled_dot_product_attention"

_BACKENDS = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}  # at::SDPBackend


def patch(recorder: Recorder) -> Callable[[], None]:
    """Replaces the function by one that records and forwards; returns what puts the original back."""
    import torch

    functional = torch.nn.functional
    original = functional.scaled_dot_product_attention
    is_compiling = torch.compiler.is_compiling

    @functools.wraps(original)
    def scaled_dot_product_attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Any:
        # Inside torch.compile a recorder would become a guard and force a recompilation per call.
        if is_compiling():
            return original(query, key, value, attn_mask, dropout_p, is_causal, **options)
        if recorder.paused:
            recorder.skip_call()
            return original(query, key, value, attn_mask, dropout_p, is_causal, **options)
        backend = None
        if query.is_cuda:
            backend = _backend((query, key, value, attn_mask, dropout_p, is_causal), options)
        recorder.begin_call(
            describe,
            (
                shape(query),
                shape(key),
                shape(value),
                query.dtype,
                query.device,
                None if attn_mask is None else shape(attn_mask),
                dropout_p,
                is_causal,
                options.get("scale"),
                options.get("enable_gqa", False),
                backend,
            ),
        )
        try:
            return original(query, key, value, attn_mask, dropout_p, is_causal, **options)
        finally:
            recorder.end_call()

    def restore() -> None:
        if functional.scaled_dot_product_attention is scaled_dot_product_attention:
            functional.scaled_dot_product_attention = original

    functional.scaled_dot_product_attention = scaled_dot_product_attention  # type: ignore[assignment]
    return restore


def _backend(arguments: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """The backend torch itself chooses for these tensors; None where it cannot say."""
    import torch

    try:
        choice = torch._fused_sdp_choice(*arguments, **options)
    except (RuntimeError, TypeError):
        return None
    return _BACKENDS.get(int(choice))


def describe(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of one call in calls.jsonl."""
    q, k, v, dtype, device, mask, dropout_p, is_causal, scale, enable_gqa, backend = arguments
    return {
        "function": FUNCTION,
        "library": "torch",
        "entry": "sdpa",
        "backend": backend,
        "device": str(device),
        "dtype": dtype_name(dtype),
        "q": sizes(q),
        "k": sizes(k),
        "v": sizes(v),
        "layout": "bhsd",
        "causal": bool(is_causal),
        "window": [-1, -1],
        "softcap": 0.0,
        "dropout_p": float(dropout_p),
        "alibi": False,
        "return_softmax": False,
        "scale": None if scale is None else float(scale),
        "mask": sizes(mask),
        "enable_gqa": bool(enable_gqa),
    }
