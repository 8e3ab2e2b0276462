"""FlashMLA's plan of a decode batch: parts of the GPU, payload of each, splits of each request.

Source: deepseek-ai/FlashMLA csrc/api/dense_decode.cpp, csrc/api/sparse_decode.cpp and the two
get_decoding_sched_meta.cu, and vllm-project/FlashMLA's extension for FP8, as vllm 0.33.0 and sglang-kernel
0.4.10 build them. What the host decides is recorded (tests/data/golden); the metadata kernel was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

DEFAULT_VERSION, SGLANG, OLDER = "vllm-0.33.0", "sglang-kernel-0.4.10", "vllm-0.20.2"
SGL_WHEEL = "sgl-flash-mla-1.0.0"  # the wheel that SGLang 0.5.23 calls: its older half, which it takes
BLOCK_M, BLOCK_N = 64, 64
OVERHEAD = 5  # key blocks that starting on a request costs
OVERHEAD_128 = 3  # of the kernel for 128 heads of 512 on Blackwell
UNSPLIT_TOPK = 640  # keys of a query up to which sparse decode on Blackwell never splits
_ROOMS = (32, 64, 96, 128, 160)  # parts that a combine kernel is built for


@dataclass(frozen=True, slots=True)
class Build:
    """How a package builds FlashMLA.

    ``old``: the namespace of what it builds from older sources.  ``vllms``: vLLM's fork, whose newer metadata
    and combine kernels are others, which has NVFP4's cache, prefill of few heads, and batch invariance.
    ``smem_v41``: bytes of shared memory over V4.1's cache, of 64 heads and of 128.  ``shared``: the namespace
    of what is built of one source for all: metadata, combine, and kernels of few keys.  ``words``: what the
    metadata kernel keeps of a request, in integers.
    """

    version: str
    old: str
    vllms: bool
    smem_v41: tuple[int, int]
    shared: str = ""
    words: int = 5


VERSIONS = {
    DEFAULT_VERSION: Build(DEFAULT_VERSION, "legacy::", True, (223_232, 228_736)),
    SGLANG: Build(SGLANG, "", False, (221_184, 225_664)),
    SGL_WHEEL: Build(SGL_WHEEL, "legacy::", False, (221_184, 225_664), "legacy::", 3),
}


NOT_READ_BACK = {OLDER: Build(OLDER, "", False, (0, 0))}
KNOWN = VERSIONS | NOT_READ_BACK


def rules_for(version: str) -> Build:
    """Raises UsageError for a version that nobody has recorded."""
    if (build := KNOWN.get(version.strip())) is None:
        raise UsageError(
            f"flash_mla {version} is not modelled: recorded were {', '.join(KNOWN)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )
    return build


@dataclass(frozen=True, slots=True)
class Plan:
    """``num_sm_parts``: shares of the work, one thread block per KV head and query block each.

    ``payload``: key blocks of a share, starting costs among them.  ``num_splits``: of each request.
    """

    num_sm_parts: int
    payload: int
    num_splits: tuple[int, ...]


def sm_parts(num_sms: int, num_heads_k: int, query_rows: int) -> int:
    """SMs divided by KV heads and blocks of 64 query rows, at least 1; integers throughout."""
    return max(num_sms // num_heads_k // ceil_div(query_rows, BLOCK_M), 1)


def plan_decode(seqlens_k: Sequence[int], num_sms: int, num_heads_k: int, query_rows: int) -> Plan:
    """The plan of a dense decode: a request without keys counts as one block."""
    blocks = [max(ceil_div(keys, BLOCK_N), 1) for keys in seqlens_k]
    return share_out(blocks, sm_parts(num_sms, num_heads_k, query_rows), OVERHEAD)


def share_out(blocks: Sequence[int], parts: int, overhead: int) -> Plan:
    """Deals the key blocks of the requests, in their order, out to the parts.

    A part takes a request to its end where its payload reaches, else as many blocks as it has left after the
    starting cost: so how a request is split depends on those before it.
    """
    payload = ceil_div(sum(blocks) + overhead * len(blocks), parts) + overhead
    splits: list[int] = []
    done = begun = 0
    for _ in range(parts):
        left = payload
        while len(splits) < len(blocks):
            rest = blocks[len(splits)] - done
            if left >= rest + overhead:
                splits.append(begun + 1)
                left -= rest + overhead
                done = begun = 0
                continue
            if left > overhead:
                done += left - overhead
                begun += 1
            break
    return Plan(parts, payload, tuple(splits))


def combine_room(parts: int) -> int:
    """The parts that the combine kernel taken is built for; 0 where none is built for so many."""
    return next((room for room in _ROOMS if parts <= room), 0)
