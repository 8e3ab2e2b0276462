"""The functions of flash_attn 2.8.3 as far as their arguments go, for a rehearsal without the package."""

import flash_attn_2_cuda


def flash_attn_func(
    q, k, v, dropout_p=0.0, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None
):
    return flash_attn_2_cuda.fwd(
        q, k, v, None, alibi_slopes, dropout_p, 1.0, causal, *window_size, softcap, False, None
    )[0]


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_q,
    cu_k,
    max_q,
    max_k,
    dropout_p=0.0,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
):
    return flash_attn_2_cuda.varlen_fwd(
        q,
        k,
        v,
        None,
        cu_q,
        cu_k,
        None,
        None,
        None,
        alibi_slopes,
        max_q,
        max_k,
        dropout_p,
        1.0,
        False,
        causal,
        *window_size,
        softcap,
        False,
        None,
    )[0]


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    k=None,
    v=None,
    cache_seqlens=None,
    block_table=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    num_splits=0,
):
    return flash_attn_2_cuda.fwd_kvcache(
        q,
        k_cache,
        v_cache,
        k,
        v,
        cache_seqlens,
        None,
        None,
        None,
        None,
        block_table,
        alibi_slopes,
        None,
        1.0,
        causal,
        *window_size,
        softcap,
        True,
        num_splits,
    )[0]
