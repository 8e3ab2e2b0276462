"""From launches of AITER's over a paged cache back to the calls that make them.

Paged decode's kernels are read as vLLM's, whose copies they are.
"""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import DEFAULT_VERSION
from attnprof.dispatch.aiter_paged.read_unified import LIBRARY, constants_of, read_unified
from attnprof.dispatch.aiter_paged.unified import UNIFIED_2D
from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.names.spelled_constants import REDUCE, UNIFIED_3D
from attnprof.dispatch.vllm_rocm.read_back import Maker

__all__ = ["constants_of", "read_back"]
_PAGED = Maker(LIBRARY, DEFAULT_VERSION, "fwd_kvcache", vllms=False)


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches exactly ``seen``; None of other kernels."""
    name = seen.main.kernel
    if name.startswith((UNIFIED_2D, UNIFIED_3D)):
        return read_unified(seen, gpu)
    if name.startswith(f"{REDUCE}_") and constants_of(name):
        return ReadBack(nearest="kernel before it", cut=True)
    return _PAGED.read_back(seen)
