"""vLLM's TURBOQUANT: decode over a packed cache in two stages, whose split count is a setting of the engine.

Source: ``_decode_attention`` of v1/attention/backends/turboquant_attn.py, ops/triton_turboquant_decode.py and
``tq_max_kv_splits_for_cuda_graph`` of config/attention.py, of the wheels vllm 0.20.0 and 0.33.0.
"""

from __future__ import annotations

from attnprof.dispatch.explanation import Explanation, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.requests import Lengths
from attnprof.dispatch.vllm_triton.mla import STAGE2
from attnprof.dispatch.vllm_triton.rules import VERSIONS, WARPS, Rules
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Library, Prediction, Reason

STAGE1 = "_tq_decode_stage1"
SPLITS = 32
_FLYDSL = (9, 5)


def _threads(vendor: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Of both stages: one warp, or wave, and four."""
    width = 64 if vendor == "amd" else 32
    return (width, 1, 1), (WARPS * width, 1, 1)


def predict_turboquant(call: AttentionCall, gpu: Gpu, rules: Rules) -> Prediction:
    """Both stages of a decode step. Raises UsageError where there is none."""
    if not rules.turboquant or (gpu.vendor == "amd" and (gpu.sm_major, gpu.sm_minor) == _FLYDSL):
        raise UsageError(
            "TURBOQUANT's decode is known from vLLM 0.20 on, and not with FlyDSL's kernels of gfx950"
        )
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if lengths.max_q > 1:
        raise UsageError("TURBOQUANT decodes one query of each request", hint="give --seqlen-q 1")
    splits = call.num_splits or SPLITS
    grid = (lengths.tokens, call.num_heads, splits)
    few, many = _threads(gpu.vendor)
    asked = "asked for" if call.num_splits else "tq_max_kv_splits_for_cuda_graph"
    return Prediction(
        (
            KernelLaunch(STAGE1, grid, few),
            KernelLaunch(STAGE2, (lengths.tokens, call.num_heads, 1), many),
        ),
        splits,
        reasons=(
            Reason("num_splits", str(splits), f"{asked}, whatever the lengths, in CUDA graphs or not"),
            Reason("grid", "x".join(map(str, grid)), "requests x heads x splits: KV heads are not shared"),
            Reason("combine", "follows", "always, over requests and heads"),
        ),
        plan=(("num_kv_splits", splits),),
        all_lengths_known=lengths.known_k,
    )


def read_turboquant(seen: Observed, library: Library, vendor: str) -> ReadBack:
    """Every kind of decode step that launches exactly ``seen``, whose main kernel is STAGE1."""
    versions = [version for version, rules in VERSIONS.items() if rules.turboquant]
    tokens, heads, splits = seen.main.grid

    def told(batch: int | None, of: int | None, count: int) -> tuple[Explanation, ...]:
        return (
            Explanation(
                library, (versions[0], versions[-1]), "batch_decode", False, batch, of, None, Interval(1, 1),
                Interval(1, None), count, False, (Interval(1, None),),
            ),
        )  # fmt: skip

    if seen.unread:
        return ReadBack(told(None, None, SPLITS), seen.unread)
    if seen.combine is None:
        return ReadBack(nearest="kernel after it", cut=True)
    if seen.combine.kernel != STAGE2 or seen.combine.grid != (tokens, heads, 1):
        return ReadBack(nearest="kernel after it or its grid")
    if (seen.main.block, seen.combine.block) != _threads(vendor) or min(seen.main.grid) < 1:
        return ReadBack(nearest="block or grid")
    return ReadBack(told(tokens, heads, splits))
