"""Each request's queries and keys, as far as a record holds them.

They are tensors on the device: recorders keep a reference and read it after the run, or not at all where it
was written to since or the program ended before. Then only the maxima that the caller gave are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from attnprof.files.untrusted import INT32_MAX

Lengths = tuple[int, ...]


def request_lengths(fields: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """``seqlens_q`` and ``seqlens_k`` of a recorded call of ``batch`` requests, () where not known."""
    known = tuple(_lengths(fields.get(name), batch) for name in ("seqlens_q", "seqlens_k"))
    if all(known):  # as an engine's recorder states them
        return {"seqlens_q": known[0], "seqlens_k": known[1]}
    queries = _between(fields.get("cu_seqlens_q"), batch)
    if fields["entry"] == "varlen_fwd":
        given = _lengths(fields.get("seqused_k"), batch)
        return {"seqlens_q": queries, "seqlens_k": given or _between(fields.get("cu_seqlens_k"), batch)}
    used, new = fields.get("cache_seqlens"), fields.get("k_new")
    cached = _lengths([used] * batch if type(used) is int else used, batch)
    return {"seqlens_q": queries, "seqlens_k": tuple(one + (new[1] if new else 0) for one in cached)}


def _between(starts: object, batch: int) -> Lengths:
    """The lengths between where packed sequences begin."""
    begins = _lengths(starts, batch + 1)
    found = tuple(b - a for a, b in pairwise(begins))
    return found if all(length >= 0 for length in found) else ()


def _lengths(values: object, count: int) -> Lengths:
    """So many lengths; () where they are none, or of something else."""
    if not isinstance(values, list) or len(values) != count:
        return ()
    if not all(type(value) is int and 0 <= value <= INT32_MAX for value in values):
        return ()
    return tuple(values)
