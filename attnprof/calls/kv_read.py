"""How much of K and V a recorded attention call reads, and how many tokens it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnprof.calls.request_lengths import request_lengths

_BYTES = {"fp64": 8, "float64": 8, "fp32": 4, "float32": 4}
_TWO = ("bf16", "fp16", "bfloat16", "float16", "half")
_ONE = ("fp8", "float8", "int8", "e4m3", "e5m2")
_LEAST_LATENT = 256  # elements of V that are K's own: latent attention's cache holds both once


@dataclass(frozen=True, slots=True)
class KvRead:
    """Of one call: ``tokens`` are its queries, of ``requests`` sequences, ``keys`` the longest one's.

    ``read_bytes`` are K and V of the keys that it attends to, each once; ``lower_bound``: of the longest
    sequence alone, the others' lengths being unknown; None where no length is known. ``cache_bytes`` is the
    size of the cache that it was given, None where it was given no more than it reads.
    """

    tokens: int
    requests: int
    keys: int
    read_bytes: int | None
    lower_bound: bool = False
    cache_bytes: int | None = None


def kv_read(fields: Mapping[str, Any]) -> KvRead | None:
    """What a line of calls.jsonl says of it; None where the shapes of Q, K or V are not known."""
    q, k = fields.get("q"), fields.get("k")
    if fields.get("not_described") is not None or not q or not k or -1 in (*q, *k):
        return None
    v = fields.get("v") or k
    size, entry = _element_bytes(fields), fields["entry"]
    if size is None or len(k) != len(v):
        return None
    heads_at = 1 if entry == "sdpa" else -2
    per_key = k[heads_at] * _width(k, v, heads_at) * size
    if entry in ("sdpa", "fwd"):
        length_at = 2 if entry == "sdpa" else 1
        if len(q) != 4 or len(k) != 4:
            return None
        every = [(q[length_at], k[length_at])] * q[0]
        return _of_lengths(every, fields, per_key, None)
    batch = fields.get("batch") or (q[0] if len(q) == 4 else None)
    if batch is None:
        return None
    cache = _cache_bytes(fields, per_key)
    tokens = q[0] * q[1] if len(q) == 4 else q[0]
    lengths = request_lengths(fields, batch)
    keys = lengths["seqlens_k"]
    queries = lengths["seqlens_q"] or ((q[1],) * batch if len(q) == 4 else ())
    if keys and len(queries) == len(keys):
        return _of_lengths(list(zip(queries, keys, strict=True)), fields, per_key, cache, tokens)
    longest = fields.get("max_seqlen_k")
    if entry == "fwd_kvcache":
        used = bool(fields.get("has_cache_seqlens"))  # else the whole cache is
        read = None if used or cache is None else cache
        return KvRead(tokens, batch, 0 if used else k[1], read, cache_bytes=cache)
    if entry == "varlen_fwd" and not fields.get("block_table") and _left(fields) < 0:
        return KvRead(tokens, batch, int(longest or 0), k[0] * per_key)  # packed: no key but theirs
    if not longest:
        return KvRead(tokens, batch, 0, None, cache_bytes=cache)
    most = fields.get("max_seqlen_q") or 1
    seen = _seen(int(most), int(longest), _left(fields))
    return KvRead(tokens, batch, int(longest), seen * per_key, batch > 1, cache)


def _of_lengths(
    lengths: Sequence[tuple[int, int]],
    fields: Mapping[str, Any],
    per_key: int,
    cache: int | None,
    tokens: int | None = None,
) -> KvRead:
    keys = sum(_seen(queries, held, _left(fields)) for queries, held in lengths)
    counted = sum(queries for queries, _ in lengths)
    longest = max((held for _, held in lengths), default=0)
    return KvRead(counted if tokens is None else tokens, len(lengths), longest, keys * per_key, False, cache)


def _seen(queries: int, keys: int, left: int) -> int:
    """The keys that any of so many queries sees, the last of which stands at the last key."""
    return keys if left < 0 else min(keys, queries + left)


def _left(fields: Mapping[str, Any]) -> int:
    """How many keys before its own a query sees; -1 for all."""
    window = fields.get("window") or (-1, -1)
    return int(window[0])


def _width(k: Sequence[int], v: Sequence[int], heads_at: int) -> int:
    """Elements of one head's K and V of one token; latent attention's V is a part of its K."""
    shared = k[heads_at] == 1 and _LEAST_LATENT <= v[-1] < k[-1]
    return k[-1] if shared else k[-1] + v[-1]


def _cache_bytes(fields: Mapping[str, Any], per_key: int) -> int | None:
    """The size of the cache behind a call, or of all its pages."""
    k = fields["k"]
    paged = fields.get("block_table") is not None or fields["entry"] == "batch_paged"
    if len(k) != 4 or not (paged or fields["entry"] == "fwd_kvcache"):
        return None
    return int(k[0] * k[1] * per_key)


def _element_bytes(fields: Mapping[str, Any]) -> int | None:
    """Bytes of an element of the cache, which is of Q's type where it is not said to be of another."""
    named = str(fields.get("kv_dtype") or "auto").lower()
    name = str(fields.get("dtype")) if named == "auto" else named
    if name in _BYTES:
        return _BYTES[name]
    if any(part in name for part in _ONE):
        return 1
    return 2 if name in _TWO else None
