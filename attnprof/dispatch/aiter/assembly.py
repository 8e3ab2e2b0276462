"""AITER's assembly kernels: which takes a call, its name, grid and threads.

Source: the amd-aiter 0.1.7.post2.dev18 wheel: aiter/ops/mha.py ``_flash_attn_forward`` and
``_flash_attn_varlen_forward``, hsa/gfx942 and hsa/gfx950 fmha_v3_fwd/codegen.py ``fmha_fwd_v3``, aiter/mla.py
``mla_decode_fwd`` and csrc/py_itfs_cu/asm_mla.cu ``mla_decode_stage1_asm_fwd``.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch

GFX90A, GFX942, GFX950 = (9, 0), (9, 4), (9, 5)
REFUSAL = {"fwd": "invalid argument for fmha_fwd", "varlen_fwd": "invalid argument for fmha_v3_varlen_fwd 3"}
LEAST_QUERIES = 129  # of a batch whose sequences are alike: Composable Kernel takes shorter ones
ROWS = {128: 256, 192: 128}  # head dim of Q -> queries of a tile
THREADS = {128: 512, 192: 256}
ROUNDINGS = ("rtne", "rtna", "rtz")  # how a gfx942 rounds P to bf16, by how_v3_bf16_cvt, which is 1
_DEFAULT_ROUNDING = 1
_GFX942_CUS = (304, 80, 64)  # of the GPUs whose code objects there are
OPUS, OPUS_ROWS, OPUS_THREADS = "gqa_d192_v128_kernel", 256, 512  # queries of a block
_OPUS_PAIRED = 512  # blocks from which one works off two under a causal mask
MLA_THREADS = 256
STAGE2 = "_fwd_kernel_stage2_asm"
STAGE2_THREADS = 256  # four waves
MLA_HEADS = (16, 128)
_MOST_FP8_QUERIES = 4
_SUB_Q = 128


def takes(call: AttentionCall, gpu: Gpu, *, tagged: bool = False) -> bool:
    """Whether the assembly is asked for a call of ``flash_attn_func`` or ``flash_attn_varlen_func``.

    ``tagged``: of v0.1.20.post1, which has head dims of 192 and 128 on gfx942 too.
    """
    dims = (call.head_dim, call.head_dim_v or call.head_dim)
    arch = (gpu.sm_major, gpu.sm_minor)
    fits = dims == (128, 128) or (dims == (192, 128) and (arch == GFX950 or (tagged and arch == GFX942)))
    slides = any(side > 0 for side in window_of(call))
    reach = call.seqlen_k * call.num_heads_k * call.head_dim * 2  # bytes of a packed batch's K
    fits = fits and (dims == (128, 128) or not tagged or reach < 1 << 32)
    long = call.entry == "varlen_fwd" or call.seqlen_q >= LEAST_QUERIES
    plain = not (call.alibi or call.dropout_p) and call.dtype == "bf16"
    return fits and plain and long and not slides


def window_of(call: AttentionCall) -> tuple[int, int]:
    """The window as AITER counts it: one that reaches over all keys is none."""
    left, right = (-1 if side >= call.seqlen_k else side for side in call.window)
    return left, right


def forward(call: AttentionCall, gpu: Gpu) -> KernelLaunch | None:
    """The launch of a call that the assembly ``takes``; None where it refuses: REFUSAL.

    Under a causal mask a thread block works off two tiles. Raises UsageError on a gfx942 of other CUs, for
    which no code object is loaded.
    """
    arch, (left, right) = (gpu.sm_major, gpu.sm_minor), window_of(call)
    causal = call.causal and call.seqlen_q > 1
    right = 0 if causal else right
    if arch not in (GFX942, GFX950) or (left, right) not in ((-1, -1), (-1, 0)):
        return None
    if arch == GFX942 and gpu.num_sms not in _GFX942_CUS:
        raise UsageError(f"AITER has no code objects for a gfx942 of {gpu.num_sms} CUs")
    masked, group = (left, right) == (-1, 0), call.entry == "varlen_fwd"
    pairs = masked and not _one_tile(call, gpu)
    blocks = ceil_div(ceil_div(call.seqlen_q, ROWS[call.head_dim]), 2 if pairs else 1)
    grid = (call.num_heads, call.batch, blocks) if group else (blocks, call.num_heads, call.batch)
    rounding = ROUNDINGS[_DEFAULT_ROUNDING] if arch == GFX942 else ""
    name = forward_name(call.head_dim, causal=masked, rounding=rounding, group=group)
    return KernelLaunch(name, grid, (THREADS[call.head_dim], 1, 1))


def opus_takes(call: AttentionCall, gpu: Gpu) -> bool:
    """Whether v0.1.20.post1 has its OPUS kernel take a packed batch: where nobody asks for the LSE."""
    dims, arch = (call.head_dim, call.head_dim_v), (gpu.sm_major, gpu.sm_minor)
    plain = not (call.alibi or call.dropout_p or call.softcap or call.return_softmax)
    slides = any(side > 0 for side in window_of(call))
    return dims == (192, 128) and arch == GFX950 and plain and call.dtype == "bf16" and not slides


def opus_forward(call: AttentionCall) -> KernelLaunch:
    """The launch of a call that OPUS takes; of many blocks under a causal mask one works off two."""
    blocks = ceil_div(call.seqlen_q, OPUS_ROWS)
    pairs = call.causal and blocks * call.num_heads * call.batch >= _OPUS_PAIRED
    grid = (call.num_heads, call.batch, ceil_div(blocks, 2) if pairs else blocks)
    masked = "true" if call.causal else "false"
    name = f"void {OPUS}<opus_gqa_d192_traits<32, 64, 8, {masked}, true"
    return KernelLaunch(name, grid, (OPUS_THREADS, 1, 1))


def _one_tile(call: AttentionCall, gpu: Gpu) -> bool:
    return (gpu.sm_major, gpu.sm_minor) == GFX942 and call.head_dim == 192


def worked_off(call: AttentionCall, gpu: Gpu) -> str:
    """How many tiles of queries a thread block works off, in words."""
    if _one_tile(call, gpu):
        return "queries, a tile a thread block"
    return "queries; under a causal mask a thread block works off two"


def forward_name(head_dim: int, *, causal: bool, rounding: str, group: bool) -> str:
    """How a forward kernel is called. ``rounding``: of ROUNDINGS, "" on gfx950.  ``group``: packed."""
    dims = "hd128" if head_dim == 128 else "hd192x128" if rounding else "hd192_hd128"
    parts = ("causal" * causal, rounding, "group" * group)
    return "_".join(["aiter::fmha_fwd", dims, "bf16", *(part for part in parts if part)])


def mla_kernel(num_heads: int, seqlen_q: int, dtype: str) -> tuple[str, int] | str:
    """(name, query rows of a block) of MLA's first stage, or AITER's refusal.

    FP8 stands for both queries and cache.  num_heads: of MLA_HEADS.
    """
    if dtype == "fp8" and num_heads == 128:
        return "aiter::mla_a8w8_qh128_m32x4_n16x2_msk1", _SUB_Q
    if dtype == "fp8":
        if seqlen_q > _MOST_FP8_QUERIES:
            return "mla_decode_stage1_asm_fwd:only support fp8 mla decoding for qo_len <= 4"
        queries = 1 if seqlen_q == 1 else 2 if seqlen_q == 2 else 4
        return f"aiter::mla_a8w8_qh16_qseqlen{queries}_gqaratio16", _SUB_Q
    if dtype != "bf16":
        return "mla_decode_stage1_asm_fwd: unsupport current data type or shape. please refer to asm_mla.cu"
    if num_heads == 128:
        return "aiter::mla_dec_stage1_bf16_a16w16_subQ128_mqa128", _SUB_Q
    if seqlen_q == 1:
        return "aiter::mla_dec_stage1_bf16_a16w16_subQ16_mqa16", 16
    rows = "m16x4" if seqlen_q <= 4 else "m32x4"
    return f"aiter::mla_a16w16_qh16_{rows}_n16x1_coex0_mask1", _SUB_Q


def mla_launches(
    kernel: tuple[str, int], batch: int, seqlen_q: int, num_heads: int, splits: int, dtype: str
) -> tuple[KernelLaunch, ...]:
    """The first stage, and what adds up its splits unless it writes the result of one itself."""
    name, rows = kernel
    grid = (ceil_div(seqlen_q * num_heads, rows), batch, splits)
    first = KernelLaunch(name, grid, (MLA_THREADS, 1, 1))
    if writes_result(splits, seqlen_q, dtype):
        return (first,)
    return first, KernelLaunch(STAGE2, (batch, num_heads, 1), (STAGE2_THREADS, 1, 1))


def writes_result(splits: int, seqlen_q: int, dtype: str) -> bool:
    """Whether the first stage's output is the result already."""
    return splits == 1 and (dtype == "fp8" or (dtype == "bf16" and seqlen_q == 4))
