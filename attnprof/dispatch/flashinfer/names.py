"""FlashInfer's kernels: CUDA templates compiled on demand, CuTe DSL classes, and generated ones.

Source: the ``__global__`` functions and CuTe classes of the flashinfer-python 0.7.2.post1 and 0.7.4 wheels.
"""

from __future__ import annotations

from attnprof.dispatch.flashinfer import trtllm_gen
from attnprof.dispatch.names.arguments import numbers
from attnprof.dispatch.names.family import Family, bounded, row

LIBRARY = "flashinfer"
# Of kernels that are all called cake_blackwell_msa_HASH: the top-k selections, and those that add up.
_MSA_SELECTS = (
    "3cb239103137becab6db|9457a50f3f40d584c6c7|b5e804da75b24237502b|dce0ec63212385c16c81|b79b499d9406563bbd49"
)
_MSA_REDUCES = "37190e3efb7c5f267e04|5a7c4a2da9b6e9c14215|89bcd02bb77ea339d039"
FAMILIES: tuple[Family, ...] = (
    row(LIBRARY, "paged_decode", r"flashinfer::(?:\w+::)*(?!Append)\w*Decode\w*Kernel"),
    row(LIBRARY, "paged_prefill", r"flashinfer::\w*(?:Prefill|RaggedKV)\w*Kernel"),
    row(LIBRARY, "mla", r"flashinfer::(?:\w+::)*BatchMLA\w*Kernel"),
    row(LIBRARY, "pod", r"flashinfer::\w*POD\w*Kernel"),
    row(LIBRARY, "merge_states", r"flashinfer::(?:\w+::)*\w*(?:MergeState|AttentionSum)\w*", "combine"),
    row(
        LIBRARY, "persistent_merge_states",
        r"flashinfer::PersistentKernelTemplate<[\w:]*Reduction", "combine",
        anywhere=True,
    ),
    row(
        LIBRARY, "plan",
        r"flashinfer::(?:\w+::)*plan_kernel$|SparseAttentionPrepare\w+|_LoadBalanceScheduler", "scheduler",
    ),
    row(LIBRARY, "persistent", r"flashinfer::PersistentKernelTemplate"),
    row(LIBRARY, "sparse_mla_merge", r"(?:^|::)sparse_mla_\w*merge\d?_kernel", "combine"),
    row(LIBRARY, "sparse_mla", r"(?:^|::)sparse_mla_(?:decode|prefill|streaming)\w*kernel"),
    row(
        LIBRARY, "nvfp4_attention",
        r"(?:^|::)attention_kernel_ws$|kernel_cake_nvfp4_(?:attention|mla_decode)_\w+",
    ),
    row(LIBRARY, "cake_dense", r"kernel_cake_minimax_h3_\w*(?:dense|varlen|fp8)_attention_\w+"),
    row(LIBRARY, "mla_swa_combine", r"(?:^|::)dense_swa_\w*combine_kernel$", "combine"),
    row(LIBRARY, "mla_swa", r"(?:^|::)dense_swa_(?:direct|wgmma_roles)_kernel$"),
    row(LIBRARY, "msa", r"Msa(?:SparseDecode|SparseAttn(?:Fp8)?)(?=_object_at_|_\d|$)"),
    row(LIBRARY, "sparse_metadata", r"QTokenKvBlockSparse\w*MetadataKernel", "metadata"),
    row(LIBRARY, "cake_fmha_stage", r"kernel_cake_fmha_hd256_(?:prepare|stage|scatter)_?\w*", "metadata"),
    row(LIBRARY, "cake_fmha_combine", r"kernel_cake_fmha_\w*_reduce$", "combine"),
    row(LIBRARY, "cake_fmha", r"kernel_(?:cake_)?cake_fmha_\w+"),
    row(
        LIBRARY,
        "cake_mla",
        r"kernel_cake_(?:kimi_k3_mla_\w*attention|trtllm_mla_blackwell|mla_varq_dcp_decode)_\w+"
        r"|kernel_sm\d+_dsv\w*sparse_mla_(?:decode|prefill)\w*",
    ),
    row(LIBRARY, "block_sparse_reduce", rf"kernel_cake_blackwell_msa_(?:{_MSA_REDUCES})$", "combine"),
    row(
        LIBRARY,
        "block_sparse",
        r"kernel_cake_(?:vsa_(?:sm90|sm120|balanced)|sage_block_sparse_attention|msa_nvfp4_decode)_\w+"
        rf"|kernel_cake_blackwell_msa_(?!{_MSA_SELECTS})\w+"
        r"|kernel_flashinfer_(?:blackwell_)?vsa_\w+|kernel_vsa_sm\d+_\w+|kernel_minimax_sparse_prefill_\w+"
        r"|BlockSparseAttnForward(?!Combine)\w*|Sparse(?:Decode|Prefill)\w*Sm12x"
        r"|Sparse(?:Decode)?AttentionForward(?!Combine)\w*|SparseKVOuterForward",
    ),
    row(
        LIBRARY, "block_sparse_combine",
        r"BlockSparseAttnForwardCombine|SparseCombineSm\w*|Sparse\w*ForwardCombine", "combine",
    ),
    row(
        LIBRARY, "b12x_merge",
        r"(?:SparseGqa|SparseMLASplitDecode(?:Sink)?|DenseMla|LagunaVerifier|PagedPersistent)MergeKernel",
        "combine",
    ),
    row(
        LIBRARY, "b12x",
        r"attention\w*(?:Paged\w*ForwardKernel|Unified(?:Decode|Prefill)\w*Kernel|DenseMlaForwardKernel"
        r"|ContiguousAttentionForwardKernel)|^kernel_cutlass__msa_partial_kernel_",
    ),
    row(LIBRARY, "xqa", r"kernel_(?:cake_)?sm110_(?:xqa|gqa_decode)_\w+"),
    row(
        LIBRARY, "cute_combine",
        r"^kernel_cutlass_(?:parallel_|gmem_|parallel_gmem_)?(?:separate_)?reduction(?:_kernel)?_\w*"
        r"(?:Attention|Mla\w*Ts|MLAReducer|MixedCacheDecode)\w*"
        r"|decode_gen_(?:parallel_)?separate_reduction_kernel|MLAReducer",
        "combine",
    ),
    row(
        LIBRARY,
        "cute_mla",
        r"Multi(?:Head)?LatentAttentionForward\w*|HeavilyCompressedAttentionForward\w*|MlaDecodeTs"
        r"|MixedCacheDecode",
    ),
    row(
        LIBRARY,
        "cute_fmha",
        r"FusedMultiHead\w{0,20}AttentionForward\w*|FusedMultiHeadAttentionFP8Forward\w*"
        r"|GroupedQueryAttentionDecode\w*|fmha_context\w*FmhaTs|decode_gen_kernel_\w*|fmha_kernelFmhaTs",
    ),
    *trtllm_gen.FAMILIES,
)  # fmt: skip
_MASK_MODES = {0: "dense", 1: "causal", 2: "custom", 3: "multi-item"}
_MASK_MODE = bounded(r"MaskMode\)?(?:E)?(\d)")
_TRAITS = bounded(r"KernelTraits(?:<|I)")
_VARIANT = bounded(r"DefaultAttention(?:<|I)")
_MMA = 16  # rows and columns of a tensor core fragment
Fields = tuple[tuple[str, object], ...]


def stated(name: str) -> Fields:
    """Head dims, tiles and mask of a decode or prefill template; () where the name is cut before them."""
    if trtllm := trtllm_gen.stated(name):
        return trtllm
    if "DecodeWithKVCacheKernel" in name or "DecodeWithPagedKVCacheKernel" in name:
        return (*_decode(name), *_variant(name))
    if traits := _TRAITS.search(name):
        return (*_prefill(name, traits.end()), *_variant(name))
    return ()


def _decode(name: str) -> Fields:
    """num_stages_smem, tile_size_per_bdx, vec_size, bdx, bdy, bdz follow the position encoding."""
    _, found, text = name.partition("PosEncodingMode")
    symbol = name.startswith("_Z")
    given = numbers(("_Z" if symbol else "") + text)[0 if symbol else 1 :]  # its own value is no ``Lj…E``
    if not found or len(given) < 6:
        return ()
    stages, tile, vec_size, bdx, bdy, bdz = given[:6]
    return (
        ("head_dim", vec_size * bdx),
        ("block_n", tile * bdy * bdz),
        ("group_size", bdy),
        ("stages", stages),
    )


def _prefill(name: str, start: int) -> Fields:
    """CTA_TILE_Q, NUM_MMA_Q, NUM_MMA_KV, NUM_MMA_D_QK, NUM_MMA_D_VO, NUM_WARPS_Q, NUM_WARPS_KV."""
    mode = _MASK_MODE.compiled.search(name, start)
    text = name[mode.end() :] if mode else ""
    given = numbers(("_Z" if name.startswith("_Z") else "") + text)
    if mode is None or len(given) < 7:
        return ()
    block_m, _, mma_kv, mma_qk, mma_vo, _, warps_kv = given[:7]
    return (
        ("head_dim", mma_qk * _MMA),
        ("head_dim_v", mma_vo * _MMA),
        ("mask", _MASK_MODES.get(int(mode.group(1)), mode.group(1))),
        ("block_m", block_m),
        ("block_n", mma_kv * warps_kv * _MMA),
    )


def _variant(name: str) -> Fields:
    """DefaultAttention's switches: custom mask, sliding window, soft cap, ALiBi."""
    found = _VARIANT.search(name)
    given = numbers(("_Z" if name.startswith("_Z") else "") + name[found.end() :])[:4] if found else []
    if len(given) < 4:
        return ()
    switches = ("custom_mask", "sliding_window", "softcap", "alibi")
    return tuple((switch, bool(value)) for switch, value in zip(switches, given, strict=True))


def short(name: str) -> str | None:
    """A short spelling of a generated kernel, whose own name is a sentence."""
    return trtllm_gen.short(name)
