"""HIP's paged attention, vLLM's and the copy that AITER makes of it: partitions of 256 keys, then a sum.

A grid has requests, partitions that the longest request may need, and KV heads; a block past a request's
keys ends at once. Source: vllm 0.33.0 csrc/rocm/attention_kernels.cuh ``paged_attention_custom_launcher``;
amd-aiter 0.1.7.post2.dev18 csrc/cpp_itfs/pa/pa_ragged.py and pa_ragged.cpp.jinja.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.explanation import Observed
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.arguments import literal, template_arguments
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import KernelLaunch

MFMA16, MFMA4 = "paged_attention_ll4mi_QKV_mfma16_kernel", "paged_attention_ll4mi_QKV_mfma4_kernel"
REDUCE = "paged_attention_ll4mi_reduce_kernel"
PARTITION = 256  # keys
MOST_GROUPS, MFMA4_GROUPS = 16, 4
MOST_PARTITIONS = 512
THREADS = (256, 1, 1)
_WAVE = 64
_KV_DTYPE = "Fp8KVCacheDataType"
_REDUCE_ARGUMENTS = (6, 7)  # of which the longer list is that of AITER's ragged one
_LOOPS = 5  # the argument that says how many partitions a thread adds up


@dataclass(frozen=True, slots=True)
class Paged:
    """What both launches state; ``queries`` of each request, ``aiters`` where a name is AITER's alone."""

    batch: int
    heads: int
    heads_k: int
    partitions: int
    head_dim: int
    queries: int
    aiters: bool

    @property
    def keys(self) -> Interval:
        """The lengths that need so many partitions."""
        return Interval((self.partitions - 1) * PARTITION + 1, self.partitions * PARTITION)


def launches(
    main: str, batch: int, longest_k: int, num_heads: int, num_heads_k: int, head_dim: int, queries: int = 1
) -> tuple[KernelLaunch, ...]:
    """Both kernels. longest_k: keys, of a request or of a server's context.  queries: of each request."""
    grid = (batch, ceil_div(longest_k, PARTITION), num_heads_k)
    return (
        KernelLaunch(main, grid, THREADS),
        KernelLaunch(REDUCE, (num_heads, batch, queries), (head_dim, 1, 1)),
    )


def is_paged(kernel: str) -> bool:
    """Whether a name is that of a main kernel."""
    return MFMA16 in kernel or MFMA4 in kernel


def stated(seen: Observed) -> Paged | None:
    """What launches of both kernels state; None where they do not fit together, or one is missing."""
    batch, partitions, heads_k = seen.main.grid
    if seen.combine is None or parse_kernel_name(seen.combine.kernel).kernel != REDUCE:
        return None
    heads, of, queries = seen.combine.grid
    head_dim = seen.combine.block[0]
    fits = (
        min(batch, partitions, heads_k, heads, queries) > 0 and of == batch and heads % heads_k == 0
        and seen.main.block == THREADS and seen.combine.block[1:] == (1, 1) and head_dim > 0
    )  # fmt: skip
    if not fits:
        return None
    main, reduced = _main_template(seen.main.kernel), _reduce_template(seen.combine.kernel)
    if main and main[1:3] != (head_dim, heads // heads_k):
        return None
    if main and main[3] not in (None, queries):
        return None
    if reduced and reduced[1:] != (head_dim, ceil_div(partitions, _WAVE)):
        return None
    aiters = any(told and told[0] for told in (main, reduced))
    return Paged(batch, heads, heads_k, partitions, head_dim, queries, aiters)


def _main_template(kernel: str) -> tuple[bool, int, int, int | None] | None:
    """(whether it is AITER's, head dim, query heads per KV head, queries of a request if it says them).

    None where the name is cut or mangled. Most of AITER's lack the output's type before page, head dim,
    threads, ALiBi and heads, which vLLM's have, and have the queries after them.
    """
    arguments = template_arguments(kernel) or []
    at = next((number for number, one in enumerate(arguments) if _KV_DTYPE in one), None)
    if at is None:
        return None
    own = literal(arguments[at + 1]) is None if len(arguments) > at + 1 else True
    sizes = [literal(one) for one in arguments[at + 1 + own : at + 7 + own]]
    if len(sizes) < 5 or sizes[1] is None or sizes[4] is None:
        return None
    return not own, sizes[1], sizes[4], None if own else next(iter(sizes[5:]), None)


def _reduce_template(kernel: str) -> tuple[bool, int, int] | None:
    """(whether it is AITER's, head dim, partitions a thread adds up)."""
    arguments = template_arguments(kernel) or []
    sizes = [literal(one) for one in arguments[2 : _LOOPS + 1]]
    if len(arguments) not in _REDUCE_ARGUMENTS or sizes[0] is None or sizes[-1] is None:
        return None
    return len(arguments) == max(_REDUCE_ARGUMENTS), sizes[0], sizes[-1]
