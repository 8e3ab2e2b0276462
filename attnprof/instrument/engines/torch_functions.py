"""Records torch's attention where it is called below scaled_dot_product_attention, and flex_attention.

``torch.ops.aten`` is a namespace of operators; what stands there for one of these is called by programs that
choose their kernel themselves. Calls that torch makes of them itself do not pass here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, Read, taken
from attnprof.instrument.recorder import Recorder

_BACKENDS = {  # operator -> backend, whether heads come before the length
    "_scaled_dot_product_flash_attention": ("flash", True),
    "_scaled_dot_product_efficient_attention": ("efficient", True),
    "_scaled_dot_product_cudnn_attention": ("cudnn", True),
    "_flash_attention_forward": ("flash", False),
    "_efficient_attention_forward": ("efficient", False),
    "_cudnn_attention_forward": ("cudnn", False),
}


def patch_aten(recorder: Recorder, torch: Any) -> Callable[[], None]:
    """The operators of ``_BACKENDS`` that this torch has."""
    aten, undo = torch.ops.aten, list[Callable[[], None]]()
    for name, (backend, heads_first) in _BACKENDS.items():
        packet = getattr(aten, name, None)
        if packet is not None:
            undo.append(_patch_packet(recorder, name, packet, partial(_aten, backend, heads_first)))
    return entry_point.patch_all(undo)


def _patch_packet(recorder: Recorder, name: str, packet: Any, read: Read) -> Callable[[], None]:
    """Records what the operator is called with. It stays the object that torch's tables know."""
    original = packet._op

    def operator(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    made: Any = operator
    made.__signature__ = inspect.Signature([_parameter(one) for one in packet.default._schema.arguments])
    recording = entry_point.recording(recorder, made, f"torch.ops.aten.{name}", "torch", read)
    packet._op = recording

    def restore() -> None:
        if packet._op is recording:
            packet._op = original

    return restore


def _parameter(argument: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD
    default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
    return inspect.Parameter(argument.name, kind, default=default)


def _aten(
    backend: str, heads_first: bool, lengths: Lengths, given: dict[str, Any]
) -> tuple[str, str, dict[str, Any]]:
    """As scaled_dot_product_attention takes it; a packed call as ``varlen_fwd``."""
    q, k, v = given["query"], given["key"], given["value"]
    starts = next((given[n] for n in ("cum_seq_q", "cu_seqlens_q") if given.get(n) is not None), None)
    common: dict[str, Any] = {
        "causal": bool(given.get("is_causal", given.get("custom_mask_type"))),
        "dropout_p": float(given.get("dropout_p") or 0.0),
        "scale": given.get("scale"),
        "backend": backend,
    }
    if starts is not None:
        ends = next(given[n] for n in ("cum_seq_k", "cu_seqlens_k") if given.get(n) is not None)
        batch = len(starts) - 1
        shapes = [tuple(one.shape)[-3:] for one in (q, k, v)]
        longest = {f"max_seqlen_{x}": given.get(f"max_{x}", given.get(f"max_seqlen_{x}")) for x in ("q", "k")}
        made = taken(q, shapes[1], shapes[2], batch=batch, **common, **longest,
                     **lengths.between(starts, ends, batch))  # fmt: skip
        return "torch", "varlen_fwd", {**made, "q": shapes[0]}
    bias = given.get("attn_bias", given.get("bias"))
    mask = None if bias is None else tuple(bias.shape)
    order = (0, 1, 2, 3) if heads_first else (0, 2, 1, 3)
    shapes = [tuple(one.shape[axis] for axis in order) for one in (q, k, v)]
    made = taken(q, shapes[1], shapes[2], **common, mask=mask, enable_gqa=False, layout="bhsd")
    return "torch", "sdpa", {**made, "q": shapes[0]}


def patch_flex(recorder: Recorder, module: Any) -> Callable[[], None]:
    """``torch.nn.attention.flex_attention``; inside torch.compile it is compiled, and not seen here."""
    return entry_point.patch(recorder, module, "flex_attention", "flex_attention", _flex)


def _flex(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Recorded as (batch, length, heads, head dim). A mask or score function may do anything."""
    q, k, v = given["query"], given["key"], given["value"]
    shapes = [tuple(one.shape[axis] for axis in (0, 2, 1, 3)) for one in (q, k, v)]
    made = taken(
        q,
        shapes[1],
        shapes[2],
        scale=given.get("scale"),
        mask_kind="block_mask" if given.get("block_mask") is not None else None,
        score_mod=given.get("score_mod") is not None,
    )
    return "flex_attention", "fwd", {**made, "q": shapes[0]}
