"""Step: the same through FlashAttention-4 where it is installed; a kernel is compiled at its first call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from attnprof.machine.library_versions import versions
from attnprof.model import AttentionCall
from benchmarks.gpu_evidence.calls import random_tensor
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.matrix import observe_matrix

_AUTOMATIC = -1
_LENGTHS = (127, 128, 129, 511, 513, 1024, 4096, 4097, 16384, 65536)


def run(evidence: Evidence) -> None:
    """Few kernels, since each takes seconds to compile, at many lengths."""
    version = versions()["flash_attn_4"]
    if version is None:
        evidence.skip("flash_attn_4", "the flash-attn-4 package is not installed")
        return
    calls = list(few_kernels())
    observe_matrix(evidence, "flash_attn_4", "flash_attn_4", version, calls, thunk)


def few_kernels() -> Iterator[AttentionCall]:
    """Decode split by the library, by the caller and not at all, and prefill, of one geometry."""
    whole = AttentionCall("flash_attn_4", "fwd", 1, 1, 1, 28, 4, 128, causal=True)
    for batch, seqlen_k in product((1, 8, 64), _LENGTHS):
        at = replace(whole, batch=batch, seqlen_k=seqlen_k)
        if batch * seqlen_k > 1 << 20:
            continue
        yield from (replace(at, num_splits=num_splits) for num_splits in (0, _AUTOMATIC, 3))
        if batch == 1:
            yield replace(at, seqlen_q=min(seqlen_k, 4096))


def thunk(call: AttentionCall) -> Callable[[], Any]:
    """Makes the call through ``flash_attn.cute``, whose own word for automatic is 0, for the default 1."""

    def make() -> Any:
        from flash_attn.cute import flash_attn_func

        q = random_tensor(call, call.batch, call.seqlen_q, call.num_heads, call.head_dim)
        keys = (call.batch, call.seqlen_k, call.num_heads_k, call.head_dim)
        k, v = (random_tensor(call, *keys) for _ in "kv")
        num_splits = {0: 1, _AUTOMATIC: 0}.get(call.num_splits, call.num_splits)
        return flash_attn_func(q, k, v, causal=call.causal, num_splits=num_splits)

    return make
