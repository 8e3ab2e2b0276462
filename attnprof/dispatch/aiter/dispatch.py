"""From a call of AITER's flash_attn_func or mla_decode_fwd to its launches."""

from __future__ import annotations

from attnprof.dispatch.aiter import assembly
from attnprof.dispatch.aiter.planned_mla import predict_mla
from attnprof.dispatch.aiter.rules import (
    BLOCK_M,
    DEFAULT_VERSION,
    MOST_HEAD_DIM,
    TAGGED,
    ck_splits,
    ck_threads,
    mla_splits,
)
from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

KERNEL = "ck_tile::FmhaFwdKernel"  # what wraps it, and its template, are not predicted
MLA_HEAD_DIMS = (576, 512)


def predict_call(call: AttentionCall, gpu: Gpu, *, tagged: bool = False) -> Prediction:
    """The assembly's or Composable Kernel's forward kernel, or MLA decode (fwd_kvcache).

    ``tagged``: of v0.1.20.post1. Raises UsageError for a paged batch, which Composable Kernel's split kernel
    takes, and for what is not known of that tag.
    """
    if call.entry == "fwd_kvcache":
        return _mla(call, gpu, tagged=tagged)
    if tagged and (call.entry != "varlen_fwd" or not _known(call, gpu)):
        raise UsageError(
            f"AITER {TAGGED} is known for MLA's decode and packed batches that its assembly takes, bf16 of "
            "head dim 128, or 192 with V of 128, without a window",
            hint=f"give --version {DEFAULT_VERSION} for the rules of that package",
        )
    if call.num_heads % call.num_heads_k:
        return Prediction(error="Number of heads in key/value must divide number of heads in query")
    if max(call.head_dim, call.head_dim_v or 0) > MOST_HEAD_DIM:
        return Prediction(error="CK only supports head dimension at most 256")
    if call.page_block_size is not None:
        raise UsageError("AITER's attention over pages, by Composable Kernel's split kernel, is not modelled")
    if call.batch * call.seqlen_q * call.seqlen_k == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries, or no keys"),))
    if tagged and assembly.opus_takes(call, gpu):
        return _opus(call)
    taken = tagged or assembly.takes(call, gpu)
    return _assembly(call, gpu) if taken else _composable_kernel(call, gpu)


def _known(call: AttentionCall, gpu: Gpu) -> bool:
    return assembly.takes(call, gpu, tagged=True) or assembly.opus_takes(call, gpu)


def _opus(call: AttentionCall) -> Prediction:
    launch = assembly.opus_forward(call)
    alone = "bf16, head dim 192 with V of 128 on a gfx950, and nobody asks for the LSE"
    reasons = (
        Reason("kernel", "OPUS", alone),
        Reason(
            "tile", str(assembly.OPUS_ROWS), "queries; of 512 blocks and more under a causal mask a block two"
        ),
        Reason("num_splits", "1", "it never splits keys"),
    )
    return Prediction((launch,), 1, reasons=reasons)


def _assembly(call: AttentionCall, gpu: Gpu) -> Prediction:
    launch = assembly.forward(call, gpu)
    if launch is None:
        return Prediction(error=assembly.REFUSAL[call.entry])
    rows = assembly.ROWS[call.head_dim]
    longer = "a packed batch" if call.entry == "varlen_fwd" else f"{call.seqlen_q} queries, more than 128"
    reasons = (
        Reason("kernel", "assembly", f"bf16, head dim {call.head_dim}, no window, bias or dropout; {longer}"),
        Reason("tile", str(rows), assembly.worked_off(call, gpu)),
        Reason("num_splits", "1", "the assembly never splits keys"),
    )
    return Prediction((launch,), 1, reasons=reasons)


def _composable_kernel(call: AttentionCall, gpu: Gpu) -> Prediction:
    """Of one query a sequence, the heads of a KV group become queries, as in FlashAttention-2."""
    queries, heads = call.seqlen_q, call.num_heads
    folded = folds(call)
    if folded:
        queries, heads = call.num_heads // call.num_heads_k, call.num_heads_k
    splits = ck_splits(call.batch, heads, queries, call.head_dim_v or call.head_dim, gpu.num_sms)
    grid = (heads, ceil_div(queries, BLOCK_M), call.batch)
    swapped = (Reason("queries", str(queries), "heads of a KV group, of one query"),) if folded else ()
    reasons = (
        Reason("kernel", "Composable Kernel", _why_not_assembly(call)),
        *swapped,
        Reason("tile", str(BLOCK_M), "queries; heads come first in the grid; read, not recorded"),
        Reason(
            "num_splits", str(splits),
            "never more: the heuristic is given blocks of the head dim, of which there is one, not of keys",
        ),
    )  # fmt: skip
    launch = KernelLaunch(KERNEL, grid, (ck_threads(call, queries, gpu), 1, 1))
    return Prediction((launch,), splits, reasons=reasons)


def folds(call: AttentionCall) -> bool:
    """Whether the heads of a KV group become queries. Source: csrc/py_itfs_ck/mha_fwd_kernels.cu."""
    alone = call.entry == "fwd" and call.seqlen_q == 1 and call.num_heads > call.num_heads_k
    return alone and assembly.window_of(call) == (-1, -1) and not (call.alibi or call.dropout_p)


def _why_not_assembly(call: AttentionCall) -> str:
    if call.entry == "fwd" and call.seqlen_q < assembly.LEAST_QUERIES:
        return f"{call.seqlen_q} queries: AITER's assembly takes more than 128"
    return "AITER's assembly takes bf16 of head dim 128, or 192 on gfx950, without window, ALiBi and dropout"


def _mla(call: AttentionCall, gpu: Gpu, *, tagged: bool) -> Prediction:
    dims = (call.head_dim, call.head_dim_v or MLA_HEAD_DIMS[1])
    if dims != MLA_HEAD_DIMS:
        return Prediction(error=f"AITER's MLA decode takes head dims {MLA_HEAD_DIMS}, not {dims}")
    if call.batch * call.seqlen_q == 0:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if tagged:
        return predict_mla(call, gpu)
    if call.scheduler_metadata:
        raise UsageError(f"AITER {DEFAULT_VERSION}'s MLA decode with a plan is not modelled")
    if call.num_heads not in assembly.MLA_HEADS:
        return Prediction(error=f"nhead={call.num_heads} not supported")
    kernel = assembly.mla_kernel(call.num_heads, call.seqlen_q, call.dtype)
    if isinstance(kernel, str):
        return Prediction(error=kernel)
    total = sum(call.seqlens_k) if call.seqlens_k else call.batch * call.seqlen_k
    asked = max(call.num_splits, 0)
    splits = mla_splits(
        gpu.num_sms, call.batch, total, call.num_heads, call.seqlen_q, call.dtype == "fp8", asked
    )
    why = f"of 1 to 16 the best for {call.batch} sequences on {gpu.num_sms} CUs with {total} keys in all"
    if asked:
        why = f"the caller asked for {asked}"
    launches = assembly.mla_launches(kernel, call.batch, call.seqlen_q, call.num_heads, splits, call.dtype)
    whole = "the first stage's output is the result" if len(launches) == 1 else "over sequences and heads"
    return Prediction(
        launches,
        splits,
        reasons=(
            Reason("kernel", kernel[0].removeprefix("aiter::"), f"{kernel[1]} query rows a block; read"),
            Reason("num_splits", str(splits), why),
            Reason("combine", "none" if len(launches) == 1 else "follows", whole),
        ),
        plan=(("num_kv_splits", splits),),
    )
