"""XQA, TensorRT-LLM's decode kernel as FlashInfer builds it: splits by the page table's width, one kernel.

Source: flashinfer 0.7.2.post1, xqa.py (xqa, xqa_mla), jit/xqa.py, csrc/xqa/mha.cu (launchMHAFlashInfer),
mha_sm90.cu (launchHopperF8MHAFlashInfer) and mla_sm120.cu (launchMLAFlashInfer). The thread block that ends
last adds the splits up, so no kernel follows.
"""

from __future__ import annotations

from attnprof.dispatch.flashinfer.backends import Choice
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

KERNEL = "kernel_mha"  # all of them
MAJORS = (9, 10, 12)
PAGES = (16, 32, 64, 128)
KEYS, KEYS_HOPPER = 256, 64  # of a thread block at once
THREADS, THREADS_HOPPER, THREADS_MLA = (128, 1, 2), (128, 1, 3), (384, 1, 1)
ROWS, ROWS_HOPPER = 32, 64  # of a draft's queries x heads in a thread block
SWAPPED_ROWS = 32  # up to which Hopper's kernel would swap its operands, which it gets wrong for drafts
MOST_HOPPER = 256  # head dim
MLA_CLUSTER = 4
_MOST_GROUP = 64  # query heads of a KV head
_QUERY_BYTES = 16 << 10  # of shared memory for the rows of a thread block
_ASSERTION = "static assertion failed"  # nvcc, where the kernel is compiled


def predict_xqa(call: AttentionCall, gpu: Gpu, choice: Choice) -> Prediction:
    """One kernel. ``dtype`` fp8 or nvfp4 says what the cache is; queries are bf16 or fp16 all the same.

    ``seqlen_k`` is what the page table has room for. Several queries a request are a draft with its mask.
    """
    if call.entry == "batch_mla":
        return _mla(call, gpu, choice)
    if refusal := _refused(call, gpu):
        return Prediction(error=refusal)
    if not call.seqlen_q:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    page, group = call.page_block_size or PAGES[0], call.num_heads // call.num_heads_k
    general = _generals(call, gpu, group)
    room = ceil_div(call.seqlen_k, page) * page
    splits = num_splits(call.batch * call.num_heads_k, room, gpu.num_sms, hopper=not general)
    if general:
        blocks = ceil_div(call.seqlen_q * group, ROWS) if call.seqlen_q > 1 else 1
        launch = KernelLaunch(KERNEL, (splits, call.num_heads_k * blocks, call.batch), THREADS)
    else:
        blocks = ceil_div(call.seqlen_q, ROWS_HOPPER // group) if call.seqlen_q > 1 else 1
        launch = KernelLaunch(KERNEL, (blocks, splits, call.num_heads_k * call.batch), THREADS_HOPPER)
    share = "the SMs" if general else "three quarters of the SMs"
    block = KEYS if general else KEYS_HOPPER
    width = f"at most the blocks of {block} keys that a page table of {room} has room for"
    why = f"{share} / {call.batch} requests / {call.num_heads_k} KV heads, {width}"
    reasons = (
        *choice.reasons,
        Reason("kernel", "mha.cu" if general else "mha_sm90.cu", general or "over an FP8 cache"),
        Reason("num_splits", str(splits), why),
        *((Reason("draft", str(blocks), _rows(call, group, general)),) if call.seqlen_q > 1 else ()),
        Reason("combine", "none", "the thread block that ends last adds the splits up"),
    )
    return Prediction((launch,), splits, reasons=reasons, plan=(("nb_sub_seq", splits),))


def _rows(call: AttentionCall, group: int, general: str) -> str:
    rows = f"{call.seqlen_q} queries x {group} heads of a KV head"
    if general:
        return f"blocks of {ROWS} rows: {rows}"
    return f"blocks of {ROWS_HOPPER // group} queries, whose heads fill {ROWS_HOPPER} rows: {rows}"


def _generals(call: AttentionCall, gpu: Gpu, group: int) -> str:
    """Why the kernel of every GPU takes the call; "" where Hopper's over an FP8 cache does."""
    if call.dtype != "fp8" or gpu.sm_major != 9:
        return "over an FP8 cache Hopper alone has another" if call.dtype == "fp8" else "not an FP8 cache"
    if call.head_dim > MOST_HOPPER:
        return f"Hopper's has head dims up to {MOST_HOPPER}"
    if call.seqlen_q > 1:
        if len(set(call.seqlens_q)) > 1:
            return "drafts of several lengths"
        if call.window[0] >= 0:
            return "a draft over a window"
        if call.seqlen_q * group <= SWAPPED_ROWS:
            return f"a draft of at most {SWAPPED_ROWS} rows"
    return ""


def _refused(call: AttentionCall, gpu: Gpu) -> str:
    """Upstream's own words, in its order; of what does not compile nvcc's."""
    if call.dtype == "nvfp4" and gpu.sm_major != 12:
        return "XQA NVFP4 KV is only supported on SM12x GPUs"
    if gpu.sm_major not in MAJORS:
        return "XQA is only supported on SM90, SM100, SM120/SM121 GPUs"
    page = call.page_block_size or PAGES[0]
    if page not in PAGES:
        return f"Invalid page_size: {page}, only 16, 32, 64, 128 are supported"
    if call.head_dim % 16 or not 16 <= call.head_dim <= 512:
        said = "must be divisible by 16 and in range [16, 512]"
        return f"Invalid head_dim: {call.head_dim}, {said}"
    group = call.num_heads // call.num_heads_k
    if call.head_dim > MOST_HOPPER and call.seqlen_q > 1:
        said = "does not support speculative decoding (q_seq_len > 1)"
        return f"head_dim {call.head_dim} > 256 {said}"
    if call.head_dim > MOST_HOPPER and group > 16:
        return f"head_dim {call.head_dim} > 256 requires head_group_ratio <= 16, got {group}"
    if call.seqlen_q > 1:
        large = gpu.sm_major == 9 and group > _MOST_GROUP  # the module holds Hopper's kernel too
        return "mha_sm90.cu: zero-sized variable is not allowed in device code" if large else ""
    rows = ceil_div(group, 16) * 16
    padded = max(64, 1 << (call.head_dim - 1).bit_length())
    fits = 2 * padded * rows <= _QUERY_BYTES and rows <= _MOST_GROUP
    return "" if fits else f"mha.cu: {_ASSERTION}"


def _mla(call: AttentionCall, gpu: Gpu, choice: Choice) -> Prediction:
    """A cluster of four thread blocks for each request, which is never split."""
    if call.seqlen_q != 1:
        return Prediction(error=f"XQA MLA only supports q_len_per_request == 1, got {call.seqlen_q}")
    if gpu.sm_major != 12:
        return Prediction(error="XQA MLA requires SM120a (CUDA >= 12.8) or SM121a (CUDA >= 12.9)")
    if call.num_heads != 128:
        return Prediction(error="Only head group ratio 128 is supported for xqa MLA")
    if call.head_dim != 576:
        return Prediction(error="Only head dim 576 is supported for xqa_module_mla")
    page = call.page_block_size or PAGES[0]
    if page not in PAGES:
        return Prediction(error=f"Invalid page_size: {page}, only 16, 32, 64, 128 are supported")
    launch = KernelLaunch(KERNEL, (MLA_CLUSTER, 1, call.batch), THREADS_MLA)
    reasons = (
        *choice.reasons,
        Reason("kernel", "mla_sm120.cu", "MLA's, of SM 12.0 and 12.1"),
        Reason("num_splits", "1", "its several blocks a request are switched off"),
    )
    return Prediction((launch,), 1, reasons=reasons, plan=(("nb_sub_seq", 1),))


def num_splits(requests_and_heads: int, room: int, num_sms: int, *, hopper: bool) -> int:
    """Splits of every request; of Hopper's kernel a quarter of three times the SMs, rounded half up."""
    block = KEYS_HOPPER if hopper else KEYS
    return min(most_splits(requests_and_heads, num_sms, hopper=hopper), ceil_div(room, block))


def most_splits(requests_and_heads: int, num_sms: int, *, hopper: bool) -> int:
    """The same of contexts without end."""
    share = (num_sms * 3 // requests_and_heads + 2) // 4 if hopper else num_sms // requests_and_heads
    return max(1, share)
