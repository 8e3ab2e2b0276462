"""From ROCM_ATTN's launches back to the steps that make them; of HIP's paged attention AITER's are alike.

HIP's two kernels state requests, heads, and the partitions that the longest request may need. Triton's decode
states requests and KV heads. Its prompts are called as other programs' kernels are: read back, not claimed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.limits import is_tritons_block
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.vllm_rocm.dispatch import ALIBI, PREFILL, TRITON_DECODE
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
from attnprof.dispatch.vllm_rocm.rules import (
    BLOCK_M,
    DEFAULT_VERSION,
    HEAD_DIMS,
    WAVE,
    WAVES,
    alibi_block,
    encoder_tile,
)
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


LIBRARY = "vllm_rocm"
_VLLM = Maker(LIBRARY, DEFAULT_VERSION, "batch_paged", vllms=True)
_ANY_KEYS = (Interval(1, None),)
_FEW, _MANY = (WAVES * WAVE, 1, 1), (2 * WAVES * WAVE, 1, 1)
_SMALL_HEAD_DIM = 64  # up to which an encoder has the fewer waves


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step of ROCM_ATTN that launches exactly ``seen``; None of other kernels.

    What it launches is alike on gfx90a, gfx942 and gfx950.
    """
    name = seen.main.kernel
    if name not in (PREFILL, ALIBI, TRITON_DECODE):
        return _VLLM.read_back(seen)
    if gpu.vendor != "amd":
        return None
    if name == TRITON_DECODE:
        return _triton_decode(seen)
    if seen.combine is not None and parse_kernel_name(seen.combine.kernel).kernel == REDUCE:
        return ReadBack(nearest="kernel before its reduce kernel")  # paged decode's own, of any program
    found = () if seen.unread or seen.combine is not None else tuple(_prompts(seen))
    said = f"triton {name}, launched as vLLM's prompts are; other programs' kernels are called so too"
    if found or seen.unread or is_tritons_block(seen.main.block):
        return ReadBack(found, shared=said) if found else None
    return ReadBack(nearest="block")  # of whichever program it is


def _triton_decode(seen: Observed) -> ReadBack:
    """Every step launches it, prompts' too: a request with more queries ends at once."""
    batch, heads_k, depth = seen.main.grid
    if seen.unread:
        return ReadBack((_explanation("batch_paged", None, None, Interval(1, None)),), seen.unread)
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    if depth != 1 or min(batch, heads_k) < 1 or seen.main.block != _FEW:
        return ReadBack(nearest="grid or block")
    return ReadBack((_explanation("batch_paged", batch, heads_k, Interval(1, None)),))


def _prompts(seen: Observed) -> Iterator[Explanation]:
    """Requests with several queries over the cache, and encoders without one."""
    batch, heads, blocks = seen.main.grid
    if min(seen.main.grid) < 1 or seen.main.block not in (_FEW, _MANY):
        return
    few = seen.main.block == _FEW
    if few:
        least = alibi_block("fp32") if seen.main.kernel == ALIBI else BLOCK_M
        queries = Interval(max((blocks - 1) * least + 1, 2), blocks * BLOCK_M)
        yield _explanation("batch_paged", batch, heads, queries)
    if seen.main.kernel == PREFILL:
        rows = [encoder_tile(1, dtype)[0] for dtype in ("fp32", "bf16")]
        queries = Interval((blocks - 1) * min(rows) + 1, blocks * max(rows))
        dims = Interval(1, _SMALL_HEAD_DIM) if few else Interval(_SMALL_HEAD_DIM + 1, None)
        yield _explanation("varlen_fwd", batch, heads, queries, dims)


def _explanation(
    entry: Entry, batch: int | None, heads: int | None, seqlen_q: Interval, head_dim: Interval | None = None
) -> Explanation:
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), entry, False, batch, heads, None, seqlen_q,
        head_dim or Interval(1, None), 1, True, _ANY_KEYS,
    )  # fmt: skip
