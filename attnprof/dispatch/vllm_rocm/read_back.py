"""From launches of HIP's paged attention back to the steps that make them, vLLM's and AITER's alike.

Both kernels state requests, heads, and the partitions that the longest request may need. Triton's kernels are
called as other programs' are, and are not read back.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.vllm_rocm.paged import (
    MFMA4,
    MFMA4_GROUPS,
    MOST_GROUPS,
    MOST_PARTITIONS,
    REDUCE,
    Paged,
    is_paged,
    stated,
)
from attnprof.dispatch.vllm_rocm.rules import DEFAULT_VERSION, HEAD_DIMS
from attnprof.model import Entry, Library


@dataclass(frozen=True, slots=True)
class Maker:
    """A library that launches them. ``vllms``: vLLM's own build, which prompts launch too."""

    library: Library
    version: str
    entry: Entry
    vllms: bool

    def _explanation(self, paged: Paged | None) -> Explanation:
        queries = Interval(1, 1) if paged is None else Interval(paged.queries, paged.queries)
        return Explanation(
            self.library, (self.version, self.version), self.entry, False,
            paged.batch if paged else None, paged.heads if paged else None, None,
            Interval(1, None) if self.vllms else queries,
            Interval(paged.head_dim, paged.head_dim) if paged else Interval(1, None),
            paged.partitions if paged else 1, True, (paged.keys if paged else Interval(1, None),),
        )  # fmt: skip

    def makes(self, paged: Paged, kernel: str) -> bool:
        """Whether it launches this."""
        groups = paged.heads // paged.heads_k
        if groups > MOST_GROUPS:
            return False
        if not self.vllms:
            return MFMA4 not in kernel
        return (
            not paged.aiters
            and paged.queries == 1
            and paged.head_dim in HEAD_DIMS
            and (MFMA4 in kernel) == (groups <= MFMA4_GROUPS)
            and paged.partitions <= MOST_PARTITIONS
        )

    def read_back(self, seen: Observed) -> ReadBack | None:
        """Every kind of its steps that launches exactly ``seen``; None of other kernels."""
        if parse_kernel_name(seen.main.kernel).kernel == REDUCE:
            return ReadBack(nearest="kernel before it", cut=True)
        if not is_paged(seen.main.kernel):
            return None
        if seen.unread:
            return ReadBack((self._explanation(None),), seen.unread)
        if seen.combine is None:
            return ReadBack(nearest="kernel after it", cut=True)
        paged = stated(seen)
        if paged is None or not self.makes(paged, seen.main.kernel):
            return ReadBack(nearest="grid, block or template")
        return ReadBack((self._explanation(paged),))


_VLLM = Maker("vllm_rocm", DEFAULT_VERSION, "batch_paged", vllms=True)


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step of ROCM_ATTN that launches exactly ``seen``; None of other kernels."""
    del gpu  # what it launches is alike on gfx90a, gfx942 and gfx950
    return _VLLM.read_back(seen)
