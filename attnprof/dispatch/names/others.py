"""Families of the libraries that have no folder of their own."""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, bounded, row

_CUDNN = r"cudnn_generated_\w*(?:sdpa|flash|fmha|attention)\w*"
# cudnn-frontend's CuTe DSL classes, told by their module: some are called as FlashAttention-4's.
CUDNN_FRONTEND: tuple[Family, ...] = (
    row("cudnn", "frontend_combine", r"_cudnn\w*BlockSparseAttnForwardCombine", "combine"),
    row("cudnn", "frontend_plan", r"_cudnnflex_attentionplan\w*", "scheduler"),
    row(
        "cudnn", "frontend_bwd",
        r"_cudnn\w*(?:FusedMultiHeadAttention\w{0,9}|Fmha|FlashAttentionDSA|FlexAttention|HSTUAttention"
        r"|BlockSparseAttn|LocalPaired)Backward",
        "backward",
    ),
    row(
        "cudnn", "frontend_fwd",
        r"_cudnn\w*(?:FusedMultiHeadAttention\w{0,9}Forward|(?:Flex|HSTU)AttentionForward|BlockSparseAttnForward"
        r"|SparseAttentionForward|SelectAttentionFwd|SM\d+DecodeForward)",
    ),
)  # fmt: skip
OTHERS: tuple[Family, ...] = (
    row("infllm", "fwd_splitkv_stage1", r"flash_fwd_splitkv_stage1_kernel$"),
    row("cudnn", "cudnn_bwd", rf"{_CUDNN}(?:bprop|bwd)", "backward"),
    row("cudnn", "cudnn_fwd", _CUDNN),
    row("pytorch-mem-efficient", "mem_efficient_bwd", r"fmha_cutlassB_\w+", "backward"),
    row("pytorch-mem-efficient", "mem_efficient_fwd", r"fmha_cutlassF_\w+"),
    row(
        "natten", "natten_bwd",
        r"(?:^|::)(?:Sm\d+)?Fna\w*Bwd\w*|(?:^|::)fna_bwd_reference_\w+$"
        r"|^(?:fna\dd|fmha)_backward_\d+x\d+x\d+_sm\d+_\w+$",
        "backward",
    ),
    row(
        "natten", "natten_fwd",
        r"(?:^|::)(?:Sm\d+)?Fna\w*Kernel\w*|(?:^|::)fna_reference_kernel$"
        r"|^(?:fna\dd|fmha)_\d+x\d+x\d+_sm\d+_\w+$",
    ),
    row("xformers", "mem_efficient_bwd", r"efficient_attention_backward_\w+", "backward"),
    row("xformers", "mem_efficient_fwd", r"efficient_attention_forward_\w+"),
    row("xformers", "splitk_combine", r"^_?splitK_reduce\w*$", "combine"),
    row("xformers", "splitk", r"^_fwd_kernel_splitK\w*$"),
    row(  # FLA's kernels with a softmax over keys, beside its many without one
        "fla", "fla_bwd",
        r"^parallel_(?:attn|nsa(?:_compression)?|wall_attn|parallax|path|stickbreaking_attn)_bwd_\w*kernel\w*$",
        "backward",
    ),
    row(
        "fla", "fla_fwd",
        r"^parallel_(?:attn|nsa(?:_compression)?|wall_attn|parallax|path|stickbreaking_attn)_fwd_kernel$"
        r"|^(?:naive_attn_decoding|parallel_wall_attn_decode)_kernel$|^parallax_decode(?:_one_step)?_kernel$",
    ),
    row(
        "fla", "linear_attention",
        r"fused_(?:recurrent|sigmoid_gating_delta_rule)_\w*|chunk_(?:gated_)?delta_rule\w*|chunk_(?:gla|kda)_\w*"
        r"|^chunk_(?:scaled_dot_kkt_)?fwd_kernel\w*|^recompute_w_u_fwd_kernel$|^gdn_paged_\w*slots_kernel$"
        r"|^_fwd_(?:diag_kernel|none_diag_kernel|kv_parallel|kv_reduce)$|^_linear_attn_decode_kernel$|^seg_la_\w+_kernel$",
    ),
    row("tensorrt-llm", "trt_fmha_v2", r"^fmha_v2_\w+"),
    row("tensorrt-llm", "trt_mmha", r"masked_multihead_attention_kernel$|(?:^|::)kernel_mha$"),
    row("tensorrt-llm", "xqa", r"^xqa_kernel_\w+"),
    row("vllm", "paged_reduce", r"paged_attention_v2_reduce_kernel$", "combine"),
    row("vllm", "paged_decode", r"paged_attention_v[12]_kernel$"),
    row("sageattention", "sage_fwd", r"qk_int\w*_sv_\w*attn_kernel$|(?:^|::)sage\w*_attn\w*kernel$"),
    row("nunchaku", "nunchaku_fwd", r"nunchaku::(?:\w+::)*attention_\w*kernel$"),
    row("llama.cpp", "llama_metadata", r"^flash_attn_mask_to_KV_max$", "metadata"),
    row(
        "llama.cpp", "llama_combine", r"^flash_attn_(?:combine_results|stream_k_fixup\w*)$", "combine"
    ),
    row(
        "llama.cpp", "llama_fwd", r"^(?:kernel_)?flash_attn_(?:ext|tile|vec|wmma|mma)\w*$"
    ),
)  # fmt: skip
TRITON: tuple[Family, ...] = (
    row(
        "triton", "triton_reduce",
        r"^_?(?:kernel_|unified_attention_\w+_)?reduce_segments\w*$|_fwd_kernel_stage2\w*$"
        r"|^_segmented_attention_reduce$|^_paged_decode_reduce\w*$|^_reduce_partitions$"
        r"|^_verify_(?:mla_)?combine_stage2$|^_(?:sparse|swa)_(?:decode|mla)_(?:combine|reduce_kernel)$"
        r"|^_split_kv_stage2$|^_mla_decode_fwd_reduce_kernel$|^_merge_(?:topk_)?attn_out_kernel$|^_rel_mha_decode_reduce\w*$"
        r"|^_paged_attn_decode_\w*_reduce_kernel\w*$|^_gfx_sparse_decode_reduce_kernel$|^_qsa_merge_splitk_kernel$|^_combine_splitk_kernel\w*$",
        "combine",
    ),
    row(
        "triton", "merge_states",
        r"(?:^|::)(?:variable_length_)?merge_(?:attn_)?states?_(?:in_place_)?kernel$"
        r"|^_(?:merge_mla_segments|fused_suffix_attention_merge)_kernel$|^_(?:dcp_lse_combine|correct_attn_cp_out)_kernel$"
        r"|(?:^|::)wait_lse_combine_kernel$",
        "combine",
    ),
    row(
        "triton", "triton_unified",
        r"^_?kernel_(?:\w+_)?unified_attention\w*$|^unified_attention_\w*kernel$|^_segmented_attention_stage$"
        r"|^_unified_attention_gluon_kernel(?:_[23]d)?$",
    ),
    row(
        "triton", "triton_decode",
        r"^(?!gdn_)\w*paged_decode\w*_kernel$|_fwd_grouped_kernel_stage\d\w*|_fwd_kernel_stage\d|^_lean_attention_decode_kernel$"
        r"|^_verify_(?:mla_)?prefix_stage1$|^_mla_(?:decode|prefill)_fwd_kernel(?:_non_pipelined)?$|^_split_kv_stage1$|^_tq_decode_stage1$|^_(?:sparse|swa)_decode_split$"
        r"|^_?kernel_paged_attention_\w+$|^_paged_attn_decode_\w+_kernel\w*$|^_gqa_(?:share_)?sparse_\w*kernel\w*$"
        r"|^_tiled_sparse_decode_kernel$|^_decode_score_attn_kernel$|^_rel_mha_(?:decode|extend)_\w+$"
        r"|^_qsa_sparse_paged_gqa_splitk_kernel$|^_qsa_split_kernel$|^pod_persistent$|_FlintDecodeAttention",
    ),
    row(
        "triton", "triton_sparse",
        r"^_(?:bf16_)?(?:mla_)?sparse_(?:mla|attn_v4|gqa)_\w*(?:kernel|prefill)$|^_bf16_mla_sparse_kernel$"
        r"|^_attn_fwd_sparse\w*$|^_flash_attn_fwd_with_block_score_kernel$|^_compact_attention_kernel$"
        r"|^_mimo_local_attention_kernel$|^_(?:inkling_rel|deepencoder_rel_pos)_attention_kernel$|^_fused_gather_attn_\w+$",
    ),
    row("triton", "triton_bwd", r"^_attn_bwd\w*$|^_bwd_kernel$|^_hstu_attn_bwd\w*$", "backward"),
    row(
        "triton", "triton_fwd",
        r"^_attn_fwd(?!_inner|_mask|_no_mask)\w*$|^_fwd_kernel(?:_alibi|_unified|_dense_prefill)?$|^_hstu_attn_fwd$"
        r"|^_flash_attention_\w*kernel$|^flash_attention_\w*kernel$",
    ),
)  # fmt: skip

_CUDNN_NAME = bounded(
    r"sdpa_sm(?P<arch>\d+)_\w*?(?P<direction>fprop|bprop)(?:_(?P<mma>w?g?mma))?_(?P<dtype>[a-z]+\d+\w*?)_knob_(?P<knob>\d+)"
    r"_(?P<block_m>\d+)x(?P<block_n>\d+)x(?P<head_dim>\d+)(?:_(?P<warps>\d+x\d+x\d+))?(?:_cga(?P<cluster>\d+x\d+x\d+))?"
)
_MEM_EFFICIENT = bounded(
    r"fmha_cutlass[FB]_(?P<dtype>\w+?)_(?P<aligned>aligned|notaligned)_(?P<block_m>\d+)x(?P<block_n>\d+)_\w*?sm(?P<arch>\d+)"
)
_TRT_FMHA = bounded(
    r"fmha_v2_flash_attention_(?P<dtype>\w+?)_(?P<block_m>\d+)_(?P<block_n>\d+)_S_(?P<layout>\w+?)_(?P<head_dim>\d+)"
    r"(?:x(?P<head_dim_v>\d+))?(?:_(?P<mask>\w+?))?_sm(?P<arch>\d+)"
)
_SAGE = bounded(r"qk_int\w*_sv_\w*attn_kernel<(\d+)u?, (\d+)")
_READ = (_CUDNN_NAME, _MEM_EFFICIENT, _TRT_FMHA)


def stated(name: str) -> tuple[tuple[str, object], ...]:
    """What the names of cuDNN, PyTorch's memory-efficient, TensorRT-LLM's and SageAttention's kernels say."""
    for pattern in _READ:
        if found := pattern.search(name):
            return tuple(
                (field, int(value) if value.isdigit() else value)
                for field, value in found.groupdict().items()
                if value is not None
            )
    if sage := _SAGE.search(name):
        return (("block_m", int(sage.group(1))), ("block_n", int(sage.group(2))))
    return ()


def short(name: str) -> str | None:
    """A cuDNN kernel in few words: ``sdpa sm90 fprop 64x128x128``."""
    found = _CUDNN_NAME.search(name)
    if found is None:
        return None
    tile = "x".join(found[part] for part in ("block_m", "block_n", "head_dim"))
    return f"cudnn sdpa sm{found['arch']} {found['direction']} {tile}"
