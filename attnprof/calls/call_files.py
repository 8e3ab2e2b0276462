"""Attention calls as files hold them: golden call objects, and the records of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

from attnprof.errors import TraceError, UsageError
from attnprof.files.compressed import unpacking
from attnprof.files.untrusted import INT32_MAX, open_regular, parse_json, require_shape, written_lines
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Entry, Gpu

_SHAPE = {
    "library": str, "entry": str, "dtype": str, "version": str, "seqlens_q": [int], "page_block_size": int,
    "seqlen_knew": int, "head_dim_v": int, "pack_gqa": (bool, int), "causal": (bool, int),
    "alibi": (bool, int), "return_softmax": (bool, int), "cache_batch_idx": (bool, int),
    "scheduler_metadata": (bool, int), "seqlens_k": [int], "cuda_graph": (bool, int), "backend": str,
    "fixed_split_size": int, "disable_split_kv": (bool, int), "page_size": int, "has_qv": (bool, int),
}  # fmt: skip
ENTRIES = get_args(Entry)
_LONGEST = 1 << 24  # bytes of a line
_COUNTS = ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k", "head_dim")


def read_json_lines(path: Path, *, regular: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for each non-empty line of a JSON Lines file, gzip or plain.

    ``regular`` refuses pipes and devices. Raises UsageError naming the line that is no JSON object.
    """
    try:
        with _opened(path, regular) as file:
            # Of a pipe, what is there: the other end may wait for an answer to it.
            lines = written_lines(file.read if path.suffix == ".gz" else file.read1, _LONGEST)
            for number, line in lines:
                try:
                    value = parse_json(line)
                except ValueError as error:
                    raise UsageError(f"{path}:{number}: not JSON: {getattr(error, 'msg', error)}") from error
                if not isinstance(value, dict):
                    raise UsageError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
                yield number, value
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {path}") from error
    except TraceError as error:
        raise UsageError(error.message, hint=error.hint) from error
    except ValueError as error:  # a line too long
        raise UsageError(f"{path}:{error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def _opened(path: Path, regular: bool) -> AbstractContextManager[Any]:
    if path.suffix == ".gz":
        return unpacking(path)
    return open_regular(path) if regular else path.open("rb")


def parse_call(
    value: dict[str, Any], default_gpu: Gpu | None = None
) -> tuple[AttentionCall, Gpu, str | None]:
    """(call, GPU, version) of a golden ``call`` object, bare or under "call".

    Raises UsageError naming the field that is missing or wrong.
    """
    fields = value["call"] if isinstance(value.get("call"), dict) else value
    if fields.get("entry", "fwd") not in ENTRIES:
        raise UsageError(f"entry {fields['entry']!r} is none of {', '.join(ENTRIES)}")
    try:
        require_shape(fields, _SHAPE, "the call")
    except ValueError as error:
        raise UsageError(str(error)) from error
    lengths = {name: _lengths(fields, name) for name in ("seqlens_q", "seqlens_k")}
    seqlens_q = fields.get("seqlens_q")
    counts: dict[str, Any] = {name: _count({**_of_lengths(lengths), **fields}, name) for name in _COUNTS}
    call = AttentionCall(
        library=fields.get("library", "flash_attn"),
        entry=fields.get("entry", "fwd"),
        **counts,
        dtype=fields.get("dtype", "bf16"),
        causal=bool(fields.get("causal", False)),
        window=(_integer(fields, "window_left", -1), _integer(fields, "window_right", -1)),
        softcap=_number(fields, "softcap"),
        alibi=bool(fields.get("alibi", False)),
        dropout_p=_number(fields, "dropout_p"),
        return_softmax=bool(fields.get("return_softmax", False)),
        num_splits=_integer(fields, "num_splits_arg", 0),
        total_q=sum(seqlens_q) if isinstance(seqlens_q, list) else None,
        page_block_size=fields.get("page_block_size", fields.get("page_size")),
        seqlen_knew=fields.get("seqlen_knew"),
        cache_seqlens=fields.get("cache_seqlen") is not None,
        cache_batch_idx=bool(fields.get("cache_batch_idx", False)),
        head_dim_v=fields.get("head_dim_v"),
        pack_gqa=fields.get("pack_gqa"),
        attention_chunk=_integer(fields, "attention_chunk", 0),
        sm_margin=_integer(fields, "sm_margin", 0),
        scheduler_metadata=bool(fields.get("scheduler_metadata", False)),
        has_qv=bool(fields.get("has_qv", False)),
        seqlens_q=lengths["seqlens_q"],
        seqlens_k=lengths["seqlens_k"],
        cuda_graph=bool(fields.get("cuda_graph", False)),
        backend=fields.get("backend") or "",
        fixed_split_size=fields.get("fixed_split_size"),
        disable_split_kv=bool(fields.get("disable_split_kv", False)),
    )
    device = fields.get("device")
    if isinstance(device, dict):
        gpu = make_gpu(
            str(device.get("name", "GPU")),
            _integer(device, "sm_major"),
            _integer(device, "sm_minor"),
            _integer(device, "num_sms"),
        )
    elif isinstance(device, str):
        gpu = gpu_by_name(device)
    elif default_gpu is not None:
        gpu = default_gpu
    else:
        raise UsageError("the call names no device", hint="give --gpu NAME for calls without a device")
    return call, gpu, fields.get("version")


def _lengths(fields: dict[str, Any], name: str) -> tuple[int, ...]:
    """Each sequence's length; () where the call does not say."""
    lengths = tuple(fields.get(name) or ())
    if any(not 0 <= length <= INT32_MAX for length in lengths):
        raise UsageError(f"{name} holds a length that is none")
    return lengths


def _of_lengths(lengths: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The counts that follow from each sequence's lengths, for a call that does not state them."""
    queries, keys = lengths["seqlens_q"], lengths["seqlens_k"]
    if queries and keys and len(queries) != len(keys):
        raise UsageError(f"seqlens_q has {len(queries)} sequences, seqlens_k {len(keys)}")
    known = {"batch": len(queries) or len(keys)} if queries or keys else {}
    known |= {"seqlen_q": max(queries)} if queries else {}
    return known | ({"seqlen_k": max(keys)} if keys else {})


def _integer(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if value is None:
        raise UsageError(f"{name} is missing")
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{name} must be an integer, not {repr(value)[:60]}")
    if abs(value) > INT32_MAX:
        raise UsageError(f"{name} does not fit 32 bits: {str(value)[:60]}")
    return value


def _count(fields: dict[str, Any], name: str) -> int:
    value = _integer(fields, name)
    lowest = 1 if name in ("num_heads", "num_heads_k", "head_dim") else 0
    if value < lowest:
        raise UsageError(f"{name} must be at least {lowest}, not {value}")
    return value


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{name} must be a number, not {repr(value)[:60]}")
    return float(value)
