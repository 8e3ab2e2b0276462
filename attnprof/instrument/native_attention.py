"""Records torch's native attention, the fast path of nn.MultiheadAttention and nn.TransformerEncoderLayer.

It projects, attends and projects again in one function: what attention is given inside is not seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.instrument.recorder import Recorder
from attnprof.instrument.recording import Args, Known, Kwargs, recording
from attnprof.instrument.undescribed import undescribed

_FUNCTIONS = ("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
_WHY = "nn.MultiheadAttention's fast path attends inside one native function"


def patch(recorder: Recorder) -> Callable[[], None]:
    """Replaces the functions by ones that record and forward; returns what puts the originals back."""
    import torch

    tracing = torch._C._is_tracing
    replaced = {name: getattr(torch, name) for name in _FUNCTIONS if hasattr(torch, name)}

    def recorded(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        called = f"torch.{name}", "torch", "sdpa"

        def look(args: Args, kwargs: Kwargs) -> tuple[Args, None] | None:
            return None if tracing() else ((*called, _WHY), None)

        def tell(args: Args, kwargs: Kwargs) -> str | None:
            return None if tracing() else name

        return recording(recorder, original, Known(recorder, called, undescribed, look), tell)

    for name, original in replaced.items():
        setattr(torch, name, recorded(name, original))

    def restore() -> None:
        for name, original in replaced.items():
            setattr(torch, name, original)

    return restore
