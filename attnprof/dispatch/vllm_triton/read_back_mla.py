"""From both stages of vLLM's TRITON_MLA back to the steps that make them: queries, heads, keys by the splits.

SGLang's decode has kernels of the same names and grids; which of the two ran, they do not say.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.explanation import Explanation, Observed
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.dispatch.vllm_triton.mla import BLOCK_H, GROUPED, KEYS_PER_SPLIT, SPLITS_PER_SM, STAGE2
from attnprof.dispatch.vllm_triton.rules import WARPS, Rules
from attnprof.model import Gpu

LIBRARY = "vllm_triton"
_ANY: Intervals = (Interval(1, None),)


def mla_steps(seen: Observed, gpus: tuple[Gpu, ...], version: str, rules: Rules) -> Iterator[Explanation]:
    """Every kind of step of a version that launches both; ``gpus``: those that there may be."""
    tokens, blocks, splits = seen.main.grid
    after = seen.combine
    if after is None or after.kernel != STAGE2 or min(tokens, blocks, splits) < 1:
        return
    rows, heads, depth = after.grid
    if (rows, depth) != (tokens, 1) or heads < 1 or (heads > 1) != (seen.main.kernel == GROUPED):
        return
    if blocks != ceil_div(heads, min(BLOCK_H, heads)):  # a latent cache has one KV head
        return
    for gpu in gpus:
        threads = (WARPS * (64 if gpu.vendor == "amd" else 32), 1, 1)
        if seen.main.block != threads or after.block != threads:
            continue
        for keys, chosen in _keys(splits, gpu.num_sms, rules):
            yield Explanation(
                LIBRARY, (version, version), "batch_mla", False, None if rules.mla_drafts else tokens, heads,
                None, Interval(1, tokens if rules.mla_drafts else 1), Interval(1, None), splits, chosen, keys,
            )  # fmt: skip


def _keys(splits: int, num_sms: int, rules: Rules) -> Iterator[tuple[Intervals, bool]]:
    """(KV lengths of the longest request, whether they decided) for so many splits."""
    if splits == 1 and rules.mla_invariant:
        yield _ANY, False
    if rules.mla_splits:
        if splits == rules.mla_splits:
            yield _ANY, True
        return
    most = SPLITS_PER_SM * num_sms
    if splits & (splits - 1) == 0 and splits <= most:
        low = 1 if splits == 1 else (splits // 2 + 1) * KEYS_PER_SPLIT
        yield (Interval(low, (splits + 1) * KEYS_PER_SPLIT - 1),), True
    if splits == most:
        over = 1 << most.bit_length()  # the first power of two above
        yield (Interval((over // 2 + 1) * KEYS_PER_SPLIT, None),), True
