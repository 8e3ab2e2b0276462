"""How SGLang attends prompts of MLA: as latents, or as keys and values made again of every head.

Source: models/deepseek_common/attention_backend_handler.py of the wheel, and of model_executor
forward_batch_deepseek_mha_mixin.py; agrees with both, run over batches (tests/data/golden, sglang_methods).
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.engines.layer import Layer, Sm, Step
from attnprof.dispatch.engines.sglang.calls import cached
from attnprof.dispatch.heuristic import ceil_div

ABSORBED, BY_HEAD, ONE_SHOT, CHUNKED = "MLA", "MHA", "MHA_ONE_SHOT", "MHA_CHUNKED_KV"
CHUNK_CAPACITY = 128 * 1024  # keys, SGLANG_MAX_KV_CHUNK_CAPACITY
CACHED_FROM = 8192  # keys of the cache, SGLANG_CHUNKED_PREFIX_CACHE_THRESHOLD
_ONE_SHOT_BACKENDS = ("fa3", "flashinfer", "flashmla")


@dataclass(frozen=True, slots=True)
class Method:
    """The method, by the wheel's name of it, and why."""

    name: str
    why: str


def method_of(backend: str, layer: Layer, step: Step, sm: Sm) -> Method:
    """The method of a prompt step. ``step.cuda_graph``: it replays a prefill graph."""
    before = sum(cached(step))
    if backend == "fa4" and sm[0] not in (10, 11):
        return Method(CHUNKED, "fa4 attends latents on SM 10.x and 11.0 alone")
    if layer.batch_invariant and backend in ("fa3", "fa4", "triton"):
        return Method(ABSORBED, "deterministic inference: always over latents")
    if step.cuda_graph:
        return Method(ABSORBED, "a prefill graph keeps to latents")
    if backend == "triton":
        if before:
            return Method(ABSORBED, "some of its keys are in the cache")
        return Method(BY_HEAD, "none of its keys are in the cache")
    if backend == "trtllm_mla":
        return Method(CHUNKED, "trtllm_mla's prompts are attended by head, cached keys in chunks")
    if 0 < before < CACHED_FROM:
        return Method(ABSORBED, f"{before} keys of the cache, less than {CACHED_FROM}")
    told = f"{before} keys of the cache" if before else "no keys of the cache"
    if backend in _ONE_SHOT_BACKENDS and sum(step.each_k) <= CHUNK_CAPACITY:
        return Method(ONE_SHOT, f"{told}, {CHUNK_CAPACITY} of all at most")
    return Method(CHUNKED, told)


def chunks(step: Step) -> tuple[tuple[int, ...], ...]:
    """Each request's keys of the cache that each chunk holds."""
    before = cached(step)
    if not any(before):
        return ()
    width = CHUNK_CAPACITY // step.batch
    starts = range(0, ceil_div(max(before), width) * width, width)
    return tuple(tuple(min(width, max(0, each - start)) for each in before) for start in starts)
