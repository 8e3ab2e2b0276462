"""Records torch's native attention, the fast path of nn.MultiheadAttention and nn.TransformerEncoderLayer.

It projects, attends and projects again in one function: what attention is given inside is not seen here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from attnprof.instrument.recorder import Recorder
from attnprof.instrument.undescribed import undescribed

_FUNCTIONS = ("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
_WHY = "nn.MultiheadAttention's fast path attends inside one native function"


def patch(recorder: Recorder) -> Callable[[], None]:
    """Replaces the functions by ones that record and forward; returns what puts the originals back."""
    import torch

    is_compiling = torch.compiler.is_compiling
    replaced = {name: getattr(torch, name) for name in _FUNCTIONS if hasattr(torch, name)}

    def recording(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        called = f"torch.{name}", "torch", "sdpa"

        @functools.wraps(original)
        def attend(*args: Any, **kwargs: Any) -> Any:
            if is_compiling() or torch._C._get_tracing_state() is not None:
                return original(*args, **kwargs)
            if recorder.paused:
                recorder.skip_call()
                return original(*args, **kwargs)
            call = recorder.begin_call(undescribed, (*called, _WHY))
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                recorder.call_raised(call, error)
                raise
            finally:
                recorder.end_call()

        return attend

    for name, original in replaced.items():
        setattr(torch, name, recording(name, original))

    def restore() -> None:
        for name, original in replaced.items():
            setattr(torch, name, original)

    return restore
