"""FlashMLA's plan of a dense decode batch: parts of the GPU, payload of each, splits of each request.

Source: deepseek-ai/FlashMLA csrc/api/dense_decode.cpp and
csrc/smxx/decode/get_decoding_sched_meta/get_decoding_sched_meta.cu (0e1bdd49); read, not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

DEFAULT_VERSION = "0e1bdd49"
VERSIONS = (DEFAULT_VERSION,)
BLOCK_M, BLOCK_N = 64, 64
OVERHEAD = 5  # key blocks that starting on a request costs


def rules_for(version: str) -> None:
    """Raises UsageError for a version that nobody has read."""
    if version.strip() not in VERSIONS:
        raise UsageError(
            f"flash_mla {version} is not modelled: the rules known are those of {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )


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
    """Deals the key blocks of the requests, in their order, out to the parts.

    A part takes a request to its end where its payload reaches, else as many blocks as it has left after the
    starting cost: so how a request is split depends on those before it.
    """
    parts = sm_parts(num_sms, num_heads_k, query_rows)
    blocks = [max(ceil_div(keys, BLOCK_N), 1) for keys in seqlens_k]
    payload = ceil_div(sum(blocks) + OVERHEAD * len(blocks), parts) + OVERHEAD
    splits: list[int] = []
    done = begun = 0
    for _ in range(parts):
        left = payload
        while len(splits) < len(blocks):
            rest = blocks[len(splits)] - done
            if left >= rest + OVERHEAD:
                splits.append(begun + 1)
                left -= rest + OVERHEAD
                done = begun = 0
                continue
            if left > OVERHEAD:
                done += left - OVERHEAD
                begun += 1
            break
    return Plan(parts, payload, tuple(splits))
