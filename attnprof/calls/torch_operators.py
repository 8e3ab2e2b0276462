"""Attention calls from the operators of a torch trace: torch records their arguments, so no run is needed.

Inside a graph of torch.compile no Python is called, and these are all that is seen of a call: there also the
operators that scaled_dot_product_attention comes to, which elsewhere are parts of it. While torch traces a
function it calls the same operators with tensors that hold nothing: outside of a graph that runs.

Argument positions: aten::_flash_attention_forward as in native_functions.yaml since torch 2.2;
flash_attn::_flash_attn_forward and _flash_attn_varlen_forward as flash_attn registers them since 2.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attnprof.calls.record_fields import require_record
from attnprof.calls.records import CallRecord
from attnprof.trace.tables import AttentionOps, Trace
from attnprof.trace.torch_rows import COMPILED

_DTYPES = {"c10::BFloat16": "bf16", "c10::Half": "fp16", "float": "fp32"}


def op_records(trace: Trace) -> list[CallRecord]:
    """One record per library call among the trace's operators; ``seq`` is the operator's row.

    Operators whose arguments were not recorded (record_shapes off) give none.
    """
    ops = trace.attention_ops
    if ops is None:
        return []
    compiled = set(compiled_ops(trace))
    records = []
    for row in range(len(ops)):
        fields = _fields(trace.strings[ops.name[row]], ops, row, _READERS)
        if fields is None and row in compiled:
            fields = _fields(trace.strings[ops.name[row]], ops, row, _COMPILED)
        if fields is not None:
            records.append(CallRecord(row, None, "other", None, fields))
    return records


def compiled_ops(trace: Trace) -> list[int]:
    """The operators, by row, that a graph of torch.compile called, the outermost of each that is read."""
    ops, ranges = trace.attention_ops, trace.ranges
    starting = [n for n, text in enumerate(trace.strings) if text.startswith(COMPILED)]
    regions = np.flatnonzero(np.isin(ranges.name, starting))
    if ops is None or not len(ops) or not len(regions):
        return []
    found: list[int] = []
    for thread in np.unique(ops.thread).tolist():
        mine = regions[ranges.thread[regions] == thread]
        until = np.maximum.accumulate(ranges.end[mine])
        taken = -1  # where the operator ends that was taken last
        for row in np.flatnonzero(ops.thread == thread).tolist():
            before = int(np.searchsorted(ranges.start[mine], ops.start[row], side="right")) - 1
            inside = before >= 0 and until[before] >= ops.end[row]
            name = trace.strings[ops.name[row]]
            if inside and ops.end[row] > taken and (name in _READERS or name in _COMPILED):
                found.append(row)
                taken = int(ops.end[row])
    return sorted(found)


def _fields(name: str, ops: AttentionOps, row: int, readers: _Readers) -> dict[str, Any] | None:
    """The record of one operator; None where its arguments are not those that torch records."""
    read = readers.get(name)
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


def _sdpa(
    backend: str | None, dropout: int, causal: int
) -> Callable[[AttentionOps, int], dict[str, Any] | None]:
    """q, k, v of batch x heads x length x head_dim; a mask or bias is at 5 of the CPU's, else at 3."""

    def read(ops: AttentionOps, row: int) -> dict[str, Any] | None:
        fields = _dense(ops, row, "torch", causal=causal, dropout=dropout, window=None)
        if fields is None:
            return None
        mask = ops.dims[row][5 if backend is None else 3]
        device = "cpu" if backend is None else "cuda"
        return fields | {
            "entry": "sdpa", "backend": backend, "layout": "bhsd", "mask": list(mask) or None,
            "enable_gqa": False, "device": device, "scale": None,
        }  # fmt: skip

    return read


_Readers = dict[str, Callable[[AttentionOps, int], dict[str, Any] | None]]
_READERS: _Readers = {
    "aten::_flash_attention_forward": _aten_flash,
    "flash_attn::_flash_attn_forward": _flash_attn,
}
_COMPILED: _Readers = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _sdpa(None, 3, 4),
    "aten::_scaled_dot_product_efficient_attention": _sdpa("efficient", 5, 6),
    "aten::_scaled_dot_product_cudnn_attention": _sdpa("cudnn", 5, 6),
}


def _true(text: str) -> bool:
    return text.lower() in ("true", "1")


def _integer(inputs: tuple[str, ...], first: int | None, offset: int) -> int:
    """A window side; -1, no window, where none was given."""
    text = inputs[first + offset] if first is not None and len(inputs) > first + offset else ""
    return int(text) if text.lstrip("-").isdigit() else -1
