"""Records xformers' memory_efficient_attention, where it hands a call to one of its operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.undescribed import UndescribedError

_FUNCTIONS = ("_memory_efficient_attention_forward", "_memory_efficient_attention_forward_requires_grad")


def patch(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``xformers.ops.fmha``."""
    return entry_point.patch_all(
        [
            entry_point.patch(recorder, module, name, "xformers", _read, by_arguments=False)
            for name in _FUNCTIONS
        ]
    )


def _read(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Tensors are (batch, length, heads, head dim); with five sizes, heads come as groups of heads.

    Of a bias that packs sequences the lengths are on the host.
    """
    inputs, op = given["inp"], given["op"]
    q, k, v, bias = inputs.query, inputs.key, inputs.value, inputs.attn_bias
    shapes = [_heads(tensor) for tensor in (q, k, v)]
    name = type(bias).__name__ if bias is not None else None
    made = taken(
        q,
        shapes[1],
        shapes[2],
        causal=name is not None and ("Causal" in name or name.startswith("LowerTriangular")),
        dropout_p=float(inputs.p or 0.0),
        scale=inputs.scale,
        backend=getattr(op, "NAME", None),
        mask_kind=name,
    )
    return "xformers", "fwd", {**made, "q": shapes[0]}


def _heads(tensor: Any) -> tuple[int, ...]:
    sizes = tuple(tensor.shape)
    if len(sizes) == 5:
        return (*sizes[:2], sizes[2] * sizes[3], sizes[4])
    if len(sizes) == 3:
        return (*sizes[:2], 1, sizes[2])
    if len(sizes) != 4:
        raise UndescribedError(f"{len(sizes)} sizes")
    return sizes
