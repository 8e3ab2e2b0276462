"""Attention calls from the operators of a torch trace: torch records their arguments, so no run is needed.

Argument positions: aten::_flash_attention_forward as in native_functions.yaml since torch 2.2;
flash_attn::_flash_attn_forward and _flash_attn_varlen_forward as flash_attn registers them since 2.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.calls.record_fields import require_record
from attnprof.calls.records import CallRecord
from attnprof.trace.tables import AttentionOps, Trace

_DTYPES = {"c10::BFloat16": "bf16", "c10::Half": "fp16", "float": "fp32"}


def op_records(trace: Trace) -> list[CallRecord]:
    """One record per library call among the trace's operators; ``seq`` is the operator's row.

    Operators whose arguments were not recorded (record_shapes off) give none.
    """
    ops = trace.attention_ops
    if ops is None:
        return []
    records = []
    for row in range(len(ops)):
        fields = _fields(trace.strings[ops.name[row]], ops, row)
        if fields is not None:
            records.append(CallRecord(row, None, "other", None, fields))
    return records


def _fields(name: str, ops: AttentionOps, row: int) -> dict[str, Any] | None:
    """The record of one operator; None where its arguments are not those that torch records."""
    read = _READERS.get(name)
    try:
        found = read(ops, row) if read else None
        if found is None:
            return None
        place = {"seq": row, "step": None, "phase": "other", "layer": None, "device": "cuda"}
        require_record(place | found)
    except (IndexError, ValueError):
        return None
    return place | found


def _dense(
    ops: AttentionOps, row: int, library: str, *, causal: int, dropout: int, window: int | None
) -> dict[str, Any] | None:
    q, k, v = ops.dims[row][:3]
    inputs = ops.inputs[row]
    if len(q) != 4 or len(k) != 4 or ops.dtypes[row][0] not in _DTYPES:
        return None
    return {
        "library": library,
        "entry": "fwd",
        "dtype": _DTYPES[ops.dtypes[row][0]],
        "q": list(q),
        "k": list(k),
        "v": list(v),
        "causal": _true(inputs[causal]),
        "window": [_integer(inputs, window, 0), _integer(inputs, window, 1)],
        "softcap": 0.0,
        "dropout_p": float(inputs[dropout] or 0.0),
        "alibi": False,
        "return_softmax": False,
    }


def _aten_flash(ops: AttentionOps, row: int) -> dict[str, Any] | None:
    """q, k, v, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, scale, windows"""
    if len(ops.inputs[row]) < 11 or ops.dims[row][3]:
        return None
    return _dense(ops, row, "torch", causal=8, dropout=7, window=11)


def _flash_attn(ops: AttentionOps, row: int) -> dict[str, Any] | None:
    """q, k, v, dropout_p, softmax_scale, causal, window_left, window_right, softcap, alibi_slopes, …"""
    if len(ops.inputs[row]) < 11:
        return None
    fields = _dense(ops, row, "flash_attn", causal=5, dropout=3, window=6)
    if fields is not None:
        fields["softcap"] = float(ops.inputs[row][8] or 0.0)
        fields["alibi"] = bool(ops.dims[row][9])
        fields["return_softmax"] = _true(ops.inputs[row][10])
    return fields


_READERS: dict[str, Callable[[AttentionOps, int], dict[str, Any] | None]] = {
    "aten::_flash_attention_forward": _aten_flash,
    "flash_attn::_flash_attn_forward": _flash_attn,
}


def _true(text: str) -> bool:
    return text.lower() in ("true", "1")


def _integer(inputs: tuple[str, ...], first: int | None, offset: int) -> int:
    """A window side; -1, no window, where none was given."""
    text = inputs[first + offset] if first is not None and len(inputs) > first + offset else ""
    return int(text) if text.lstrip("-").isdigit() else -1
