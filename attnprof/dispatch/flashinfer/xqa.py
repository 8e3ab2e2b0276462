"""XQA, TensorRT-LLM's decode kernel as FlashInfer builds it: splits by the page table's width, one kernel.

Source: flashinfer 0.7.2.post1, xqa.py (xqa), csrc/xqa/mha.cu (launchMHAFlashInfer) and mha_sm90.cu
(launchHopperF8MHAFlashInfer). The thread block that ends last adds the splits up, so no kernel follows.
"""

from __future__ import annotations

from attnprof.dispatch.flashinfer.backends import Choice
from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

KERNEL = "kernel_mha"  # both of them
_PAGES = (16, 32, 64, 128)
_KEYS, _KEYS_HOPPER = 256, 64  # of a thread block at once
_THREADS, _THREADS_HOPPER = (128, 1, 2), (128, 1, 3)
_MOST_HOPPER = 256  # head dim


def predict_xqa(call: AttentionCall, gpu: Gpu, choice: Choice) -> Prediction:
    """One kernel. ``dtype`` fp8 says that the cache is E4M3; queries are bf16 or fp16 all the same.

    ``seqlen_k`` is what the page table has room for. Raises UsageError for several queries a request.
    """
    if call.seqlen_q != 1:
        raise UsageError("XQA with several queries a request, whose mask a draft has, is not modelled")
    if gpu.sm_major not in (9, 10, 12):
        return Prediction(error="XQA is only supported on SM90, SM100, SM120/SM121 GPUs")
    page = call.page_block_size or 16
    if page not in _PAGES:
        return Prediction(error=f"Invalid page_size: {page}, only 16, 32, 64, 128 are supported")
    if call.head_dim % 16 or not 16 <= call.head_dim <= 512:
        said = "must be divisible by 16 and in range [16, 512]"
        return Prediction(error=f"Invalid head_dim: {call.head_dim}, {said}")
    hopper = call.dtype == "fp8" and gpu.sm_major == 9 and call.head_dim <= _MOST_HOPPER
    room = ceil_div(call.seqlen_k, page) * page
    splits = num_splits(call.batch * call.num_heads_k, room, gpu.num_sms, hopper=hopper)
    if hopper:
        launch = KernelLaunch(KERNEL, (1, splits, call.num_heads_k * call.batch), _THREADS_HOPPER)
    else:
        launch = KernelLaunch(KERNEL, (splits, call.num_heads_k, call.batch), _THREADS)
    share = "three quarters of the SMs" if hopper else "the SMs"
    block = _KEYS_HOPPER if hopper else _KEYS
    width = f"at most the blocks of {block} keys that a page table of {room} has room for"
    kind = Reason("kernel", "mha_sm90.cu" if hopper else "mha.cu", "over an FP8 cache" if hopper else "else")
    why = f"{share} / {call.batch} requests / {call.num_heads_k} KV heads, {width}"
    reasons = (
        *choice.reasons,
        kind,
        Reason("num_splits", str(splits), why),
        Reason("combine", "none", "the thread block that ends last adds the splits up"),
    )
    return Prediction((launch,), splits, reasons=reasons, plan=(("nb_sub_seq", splits),))


def num_splits(requests_and_heads: int, room: int, num_sms: int, *, hopper: bool) -> int:
    """Splits of every request; of Hopper's kernel a quarter of three times the SMs, rounded half up."""
    if hopper:
        share, block = (num_sms * 3 // requests_and_heads + 2) // 4, _KEYS_HOPPER
    else:
        share, block = num_sms // requests_and_heads, _KEYS
    return min(max(1, share), ceil_div(room, block))
