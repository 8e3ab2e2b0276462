"""From a decode step of MLA to FlashMLA's plan, its kernel and the metadata that precedes it."""

from __future__ import annotations

from attnprof.dispatch.flash_mla.rules import BLOCK_M, plan_decode
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

METADATA = "smxx::decode::get_mla_metadata_kernel"
KERNEL = "sm90::decode::dense::flash_fwd_splitkv_mla_kernel"
HEAD_DIMS = (576, 512)


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """The plan and main kernel of a dense decode on SM 9.0; the metadata is made once for all layers.

    Raises UsageError for other GPUs, entries and head dims.
    """
    if call.entry != "fwd_kvcache" or gpu.sm_major != 9:
        raise UsageError(
            f"{call.entry} of flash_mla on {gpu.name} is not modelled: known is dense decode on SM 9.0",
            hint="give --entry fwd_kvcache and a Hopper GPU",
        )
    dims = (call.head_dim, call.head_dim_v or HEAD_DIMS[1])
    if dims != HEAD_DIMS:
        return Prediction(error=f"FlashMLA takes head dims {HEAD_DIMS}, not {dims}")
    if call.batch == 0 or call.seqlen_q == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    rows = call.seqlen_q * call.num_heads // call.num_heads_k
    lengths = Lengths(call)
    plan = plan_decode(lengths.seqlens_k, gpu.num_sms, call.num_heads_k, rows)
    grid = (ceil_div(rows, BLOCK_M), call.num_heads_k, plan.num_sm_parts)
    blocks = f"{gpu.num_sms} SMs / {call.num_heads_k} KV heads / {grid[0]} blocks of {BLOCK_M} query rows"
    reasons = (
        Reason("parts", str(plan.num_sm_parts), blocks),
        Reason(
            "payload", str(plan.payload), lengths.said("blocks of 64 keys a part, 5 of them for each start")
        ),
        Reason(
            "num_splits", split_range(plan.num_splits), "how many a request gets depends on those before it"
        ),
        Reason("combine", "follows", "requests of one split write their output at once"),
        Reason("scheduler", "persistent", "a part works off its share; read in the source, not recorded"),
    )
    return Prediction(
        (KernelLaunch(METADATA, (1, 1, 1), (32, 1, 1)), KernelLaunch(KERNEL, grid, (256, 1, 1))),
        max(plan.num_splits),
        reasons=reasons,
        plan=(
            ("num_sm_parts", plan.num_sm_parts),
            ("payload", plan.payload),
            ("num_splits", list(plan.num_splits)),
        ),
        splits_of_requests=plan.num_splits,
        all_lengths_known=lengths.known_k,
    )
