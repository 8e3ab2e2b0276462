"""vLLM's functions as far as their arguments go, for a rehearsal without its wheel."""

import torch

FA3_AVAILABLE = True


def get_scheduler_metadata(
    batch_size,
    max_seqlen_q,
    max_seqlen_k,
    num_heads_q,
    num_heads_kv,
    headdim,
    cache_seqlens,
    qkv_dtype=torch.bfloat16,
    *,
    cu_seqlens_q=None,
    page_size=None,
    causal=False,
    window_size=(-1, -1),
    has_softcap=False,
    num_splits=0,
):
    return torch.ops._vllm_fa3_C.get_scheduler_metadata(batch_size, max_seqlen_q, max_seqlen_k)


def flash_attn_varlen_func(
    q,
    k,
    v,
    max_seqlen_q,
    cu_seqlens_q,
    max_seqlen_k,
    cu_seqlens_k=None,
    seqused_k=None,
    causal=False,
    window_size=None,
    softcap=0.0,
    block_table=None,
    scheduler_metadata=None,
    num_splits=0,
    fa_version=2,
):
    assert fa_version == 3
    assert (cu_seqlens_k is None) != (seqused_k is None)
    return torch.ops._vllm_fa3_C.fwd(
        q,
        k,
        v,
        *[None] * 4,
        cu_seqlens_q,
        cu_seqlens_k,
        *[None] * 2,
        seqused_k,
        max_seqlen_q,
        max_seqlen_k,
        block_table,
        *[None] * 8,
        1.0,
        causal,
        *window_size,
        softcap,
        True,
        scheduler_metadata,
        num_splits,
        None,
        0,
        None,
    )[0]
