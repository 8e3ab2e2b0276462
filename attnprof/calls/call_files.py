"""Attention calls as files hold them: golden call objects, and the records of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
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
    "fixed_split_size": int, "disable_split_kv": (bool, int), "page_size": int,
    "fixed_uniform_q_len": (bool, int), "has_qv": (bool, int), "kv_dtype": str, "extra_counted": (bool, int),
    "plan_batch": int,
}  # fmt: skip
ENTRIES = get_args(Entry)
_LONGEST = 1 << 24  # bytes of a line
# Of a usual call: the type of each field, and what AttentionCall calls it.
_USUAL: dict[type, str] = {
    str: "library entry dtype version backend kv_dtype",
    bool: "causal alibi return_softmax cache_batch_idx pack_gqa scheduler_metadata cuda_graph "
    "disable_split_kv has_qv fixed_uniform_q_len extra_counted",
    int: "batch seqlen_q seqlen_k num_heads num_heads_k head_dim window_left window_right num_splits_arg "
    "page_block_size page_size seqlen_knew head_dim_v attention_chunk sm_margin fixed_split_size index_topk "
    "uniform_q_len extra_topk plan_batch",
    float: "softcap dropout_p",
    list: "seqlens_q seqlens_k",
}
_PLAIN = {
    name: (kind, "num_splits" if name == "num_splits_arg" else name)
    for kind, names in _USUAL.items()
    for name in names.split()
}
FIELDS = (*_PLAIN, "cache_seqlen", "device")  # all that a call is made of
_SIZES_OF_EACH = {"seqlens_q", "seqlens_k"}
_DEVICE = ("name", "sm_major", "sm_minor", "num_sms")
_COUNTS = ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k", "head_dim")
_LOWEST = {name: int(name in ("num_heads", "num_heads_k", "head_dim")) for name in _COUNTS}


def read_json_lines(path: Path, *, regular: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for each non-empty line of a JSON Lines file, gzip or plain.

    ``regular`` refuses pipes and devices. Raises UsageError naming the line that is no JSON object.
    """
    for number, line in read_lines(path, regular=regular):
        try:
            value = parse_object(line)
        except UsageError as error:
            raise UsageError(f"{path}:{number}: {error.message}") from error
        yield number, value


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises UsageError where it is none."""
    try:
        value = parse_json(line)
    except ValueError as error:
        raise UsageError(f"not JSON: {getattr(error, 'msg', error)}") from error
    if not isinstance(value, dict):
        raise UsageError(f"expected a JSON object, found {type(value).__name__}")
    return value


def read_lines(path: Path, *, regular: bool = False) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each non-empty line of a file, gzip or plain.

    ``regular`` refuses pipes and devices. Raises UsageError for what cannot be read.
    """
    try:
        with _opened(path, regular) as file:
            # Of a pipe, what is there: the other end may wait for an answer to it.
            yield from written_lines(file.read if path.suffix == ".gz" else file.read1, _LONGEST)
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
    fields = call_fields(value)
    plain = _plain_call(fields)
    if plain is not None:
        return plain, _plain_gpu(fields, default_gpu), fields.get("version")
    if fields.get("entry", "fwd") not in ENTRIES:
        raise UsageError(f"entry {fields['entry']!r} is none of {', '.join(ENTRIES)}")
    try:
        require_shape(fields, _SHAPE, "the call")
    except ValueError as error:
        raise UsageError(str(error)) from error
    lengths = {name: _lengths(fields, name) for name in ("seqlens_q", "seqlens_k")}
    seqlens_q = fields.get("seqlens_q")
    counts: dict[str, Any] = {
        name: _count({**_of_lengths(fields, lengths), **fields}, name) for name in _COUNTS
    }
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
        kv_dtype=fields.get("kv_dtype") or "",
        fixed_split_size=fields.get("fixed_split_size"),
        disable_split_kv=bool(fields.get("disable_split_kv", False)),
        uniform_q_len=_integer(fields, "uniform_q_len", 0),
        fixed_uniform_q_len=bool(fields.get("fixed_uniform_q_len", False)),
        index_topk=_integer(fields, "index_topk", 0),
        extra_topk=_integer(fields, "extra_topk", 0),
        extra_counted=bool(fields.get("extra_counted", False)),
        plan_batch=fields.get("plan_batch"),
    )
    return call, _gpu(fields.get("device"), default_gpu), fields.get("version")


def call_fields(value: dict[str, Any]) -> dict[str, Any]:
    """The object that has a call's fields: a line's, or what it has under "call"."""
    return value["call"] if isinstance(value.get("call"), dict) else value


def _plain_call(fields: dict[str, Any]) -> AttentionCall | None:
    """The call of fields that need no second look, all of their usual type and size; else None."""
    given: dict[str, Any] = {"library": "flash_attn", "entry": "fwd"}
    for name, value in fields.items():
        known = _PLAIN.get(name)
        if known is None:
            continue
        kind, argument = known
        if type(value) is not kind or (isinstance(value, int) and abs(value) > INT32_MAX):
            return None
        given[argument] = value
    if any(given.get(name, -1) < lowest for name, lowest in _LOWEST.items()) or given["entry"] not in ENTRIES:
        return None
    for name in _SIZES_OF_EACH & given.keys():
        if not all(type(each) is int and 0 <= each <= INT32_MAX for each in given[name]):
            return None
        given[name] = tuple(given[name])
        if len(given[name]) != given["batch"]:
            return None
    if "seqlens_q" in given:
        given["total_q"] = sum(given["seqlens_q"])
    if "page_size" in given:
        page_size = given.pop("page_size")
        given.setdefault("page_block_size", page_size)
    if "window_left" in given or "window_right" in given:
        given["window"] = given.pop("window_left", -1), given.pop("window_right", -1)
    given.pop("version", None)
    return AttentionCall(**given, cache_seqlens=fields.get("cache_seqlen") is not None)


def _plain_gpu(fields: dict[str, Any], default_gpu: Gpu | None) -> Gpu:
    device = fields.get("device")
    if isinstance(device, dict):
        name, *sizes = (device.get(name) for name in _DEVICE)
        if type(name) is str and all(type(size) is int and abs(size) <= INT32_MAX for size in sizes):
            return _made_gpu(name, *sizes)
    return _gpu(device, default_gpu)


@lru_cache(maxsize=256)
def _made_gpu(name: str, sm_major: int, sm_minor: int, num_sms: int) -> Gpu:
    return make_gpu(name, sm_major, sm_minor, num_sms)


def _gpu(device: Any, default_gpu: Gpu | None) -> Gpu:
    """The GPU that a call names, else the default. Raises UsageError where there is neither."""
    if isinstance(device, dict):
        return make_gpu(
            str(device.get("name", "GPU")),
            _integer(device, "sm_major"),
            _integer(device, "sm_minor"),
            _integer(device, "num_sms"),
        )
    if isinstance(device, str):
        return gpu_by_name(device)
    if default_gpu is not None:
        return default_gpu
    raise UsageError("the call names no device", hint="give --gpu NAME for calls without a device")


def _lengths(fields: dict[str, Any], name: str) -> tuple[int, ...]:
    """Each sequence's length; () where the call does not say."""
    lengths = tuple(fields.get(name) or ())
    if any(not 0 <= length <= INT32_MAX for length in lengths):
        raise UsageError(f"{name} holds a length that is none")
    return lengths


def _of_lengths(fields: dict[str, Any], lengths: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The counts that follow from each sequence's lengths, for a call that does not state them.

    Raises UsageError where it states another number of sequences.
    """
    queries, keys = lengths["seqlens_q"], lengths["seqlens_k"]
    if queries and keys and len(queries) != len(keys):
        raise UsageError(f"seqlens_q has {len(queries)} sequences, seqlens_k {len(keys)}")
    known = {"batch": len(queries) or len(keys)} if queries or keys else {}
    batch = fields.get("batch")
    for name, each in lengths.items():
        if each and isinstance(batch, int) and len(each) != batch:
            raise UsageError(f"{name} has {len(each)} sequences, batch is {batch}")
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
    if value < _LOWEST[name]:
        raise UsageError(f"{name} must be at least {_LOWEST[name]}, not {value}")
    return value


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{name} must be a number, not {repr(value)[:60]}")
    return float(value)
