"""When a growing cache changes the dispatch of a call next."""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.libraries import library, predict
from attnprof.model import AttentionCall, Gpu

NEXT_CHANGE_LIMIT = 131_072  # keys; beyond that "never" is said with this bound


def next_change(call: AttentionCall, gpu: Gpu, version: str | None) -> tuple[int, int] | None:
    """(KV length, num_splits) of the first longer cache with another split count; None up to the limit.

    The count can change only where a key block begins.
    """
    now = predict(call, gpu, version).num_splits
    keys = library(call.library).key_block(call)
    if keys is None:
        return None
    for seqlen_k in range(-(-call.seqlen_k // keys) * keys + 1, NEXT_CHANGE_LIMIT, keys):
        splits = predict(replace(call, seqlen_k=seqlen_k), gpu, version).num_splits
        if splits is not None and splits != now:
            return seqlen_k, splits
    return None
