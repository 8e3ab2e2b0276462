"""From a call of AITER's flash_attn_func to Composable Kernel's launch, or to the splits of MLA decode."""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import BLOCK_M, THREADS, ck_splits, mla_splits
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

KERNEL = "void ck_tile::kentry<2, ck_tile::FmhaFwdKernel"  # its template is not predicted
MLA_HEAD_DIMS = (576, 512)
MLA_STAGE1 = "aiter::mla_dec_stage1"


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """Composable Kernel's forward kernel, or MLA decode where the head dims are MLA's."""
    head_dim_v = call.head_dim_v or call.head_dim
    if call.entry == "fwd_kvcache":
        return _mla(call, gpu)
    if call.batch * call.seqlen_q == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    splits = ck_splits(call.batch, call.num_heads, call.seqlen_q, head_dim_v, gpu.num_sms)
    grid = (call.num_heads, ceil_div(call.seqlen_q, BLOCK_M), call.batch)
    reasons = (
        Reason("tile", str(BLOCK_M), "queries; heads come first in the grid; read, not recorded"),
        Reason(
            "num_splits", str(splits),
            "never more: the heuristic is given blocks of the head dim, of which there is one, not of keys",
        ),
        Reason("kernel", "Composable Kernel", "AITER's assembly takes some of bf16 and head dim 128 or 192"),
    )  # fmt: skip
    return Prediction((KernelLaunch(KERNEL, grid, (THREADS, 1, 1)),), splits, reasons=reasons)


def _mla(call: AttentionCall, gpu: Gpu) -> Prediction:
    dims = (call.head_dim, call.head_dim_v or MLA_HEAD_DIMS[1])
    if dims != MLA_HEAD_DIMS:
        return Prediction(error=f"AITER's MLA decode takes head dims {MLA_HEAD_DIMS}, not {dims}")
    if call.num_heads not in (16, 128):
        return Prediction(error=f"nhead={call.num_heads} not supported")
    if call.batch == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    total = sum(call.seqlens_k) if call.seqlens_k else call.batch * call.seqlen_k
    splits = mla_splits(gpu.num_sms, call.batch, total, call.num_heads, call.seqlen_q, call.dtype == "fp8")
    why = f"of 1 to 16 the best for {call.batch} sequences on {gpu.num_sms} CUs with {total} keys in all"
    return Prediction(
        error=None,
        num_splits=splits,
        reasons=(
            Reason("num_splits", str(splits), why),
            Reason(
                "launches", "not predicted", f"{MLA_STAGE1}… and _fwd_kernel_stage2_asm: grids are not read"
            ),
        ),
        plan=(("num_kv_splits", splits),),
    )
