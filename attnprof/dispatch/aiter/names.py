"""Kernels of AMD GPUs: AITER's assembly, Composable Kernel, AOTriton and vLLM's own for ROCm.

Source: the code objects of amd-aiter 0.1.7.post2.dev18 (hsa/gfx942, hsa/gfx950), names recorded by profilers,
and AOTriton's kernel list. AITER's Triton kernels share their names with AOTriton's and vLLM's.
"""

from __future__ import annotations

import re
from math import prod

from attnprof.dispatch.names.family import Family, bounded, row

LIBRARY = "aiter"
FAMILIES: tuple[Family, ...] = (
    row("vllm-rocm", "rocm_paged_decode", r"paged_attention_ll4mi_QKV\w*"),
    row("vllm-rocm", "rocm_paged_reduce", r"paged_attention_ll4mi_reduce_kernel$", "combine"),
    row(LIBRARY, "rocm_bwd", r"(?:^|::)fmha_bwd_\w+", "backward"),
    row(LIBRARY, "rocm_fwd", r"(?:^|::)gqa_d(?:128|192_v128)_kernel$"),
    row(LIBRARY, "rocm_fwd", r"(?:^aiter::|^)fmha_fwd_(?:hd\d|\w*bf16|\w*fp16|\w*fp8)\w*"),
    row(LIBRARY, "mla_reduce", r"(?:^|::)(?:kn_)?mla_reduce\w*|_fwd_kernel_stage2_asm$", "combine"),
    row(LIBRARY, "mla_metadata", r"(?:^|::)(?:kn_)?get_(?:ps_|mla_)metadata\w*", "metadata"),
    row(LIBRARY, "mla", r"(?:^|::)mla_(?:a\d+w\d+|dec_|pfl_|stage1)\w*"),
    row(LIBRARY, "pa_reduce", r"(?:^|::)_?(?:pa|paged_attention)_\w*reduce\w*", "combine"),
    row(
        LIBRARY,
        "pa",
        r"^aiter::pa_\w+|(?:^|::)pa_(?:bf16|fp16|a\d+w\d+|kernel_func)\w*|^_?pa_(?:decode|prefill)_\w+",
    ),
    row("ck-tile", "rocm_prefill", r"(?:^|::)Fmha\w*Prefill\w*Kernel$"),
    row("ck-tile", "rocm_combine", r"(?:^|::)FmhaFwdSplitKVCombineKernel$", "combine"),
    row("ck-tile", "rocm_append", r"(?:^|::)FmhaFwdAppendKV\w*", "metadata"),
    row("ck-tile", "rocm_fwd", r"(?:^|::)FmhaFwd\w*Kernel$"),
    row("ck-tile", "rocm_bwd", r"(?:^|::)FmhaBwd\w*Kernel$", "backward"),
    row("ck", "ck_fwd", r"(?:^|::)kernel_(?:batched|grouped)_gemm_softmax_gemm_\w+"),
    row("ck", "ck_fwd", r"(?:^|::)kernel_(?:batched|grouped)_multihead_attention_(?:forward|infer)_\w+"),
    row("ck", "ck_bwd", r"(?:^|::)kernel_(?:batched|grouped)_multihead_attention_backward_\w+", "backward"),
    row("aotriton", "aotriton_fwd", r"^attn_fwd(?:_\w+)?$"),
    row(
        "aotriton",
        "aotriton_bwd",
        r"^bwd_(?:kernel_\w+|preprocess\w*)$|^_bwd_(?:kernel|preprocess)\w*$",
        "backward",
    ),
)
_DTYPES = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8"}
_FMHA = bounded(
    r"fmha_(?:fwd|bwd)_hd(?P<head_dim>\d+)(?:(?:_hd|x)(?P<head_dim_v>\d+))?_(?P<dtype>bf16|fp16|fp8\w*?)(?=_|$)(?P<rest>\w*)"
)
_MLA = bounded(
    r"mla_(?:dec_stage1_|pfl_)?(?:(?P<dtype>bf16|fp16)_)?a(?P<q_bits>\d+)w(?P<kv_bits>\d+)(?P<rest>\w*)"
)
_MLA_PARTS = (
    ("heads", bounded(r"_qh(\d+)")), ("queries", bounded(r"_qseqlen(\d+)")),
    ("group_size", bounded(r"_(?:gqaratio|mqa)(\d+)")), ("block_m", bounded(r"_m(\d+)x")),
    ("block_n", bounded(r"_n(\d+)x")), ("mask", bounded(r"_(?:mask|msk)(\d)")),
)  # fmt: skip
_PA = bounded(
    r"pa_(?P<dtype>bf16|fp16)_(?P<kv>noquant|\w*?(?:Fp8|Int8))_gqa(?P<group_size>\d+)_(?P<groups>\d+)tg_(?P<waves>\d+)w"
)
_CK_TILE = bounded(
    r"TileFmhaShape(?:<ck_tile::sequence<|INS_8sequenceIJ)(?:\(int\)|Li)?(\d+)(?:E|, )(?:\(int\)|Li)?(\d+)"
    r"(?:E|, )(?:\(int\)|Li)?(\d+)(?:E|, )(?:\(int\)|Li)?(\d+)(?=[E,>])"
)
# Of the first product: threads in waves of 64.
_CK_WAVES = bounded(
    r"TileFmhaShape(?:<ck_tile::sequence<[0-9, ]{1,60}>, ck_tile::sequence<"
    r"|INS_8sequenceIJ[Li0-9E]{1,80}EENS\w{0,3}_IJLi)(\d+)(?:ELi|, )(\d+)(?:ELi|, )(\d+)(?=[E>])"
)
_CK_ELEMENTS = (("DF16b", "bf16"), ("DF16_", "fp16"), ("__bf16", "bf16"), ("_Float16", "fp16"))
_LL4MI = bounded(r"ll4mi_QKV\w*<[^<>]*?KVCacheDataType\)\d, (\d+), (\d+), (\d+)")
Fields = tuple[tuple[str, object], ...]


def stated(name: str) -> Fields:
    """Head dims, elements, mask, tiles, page size and partitions, as far as the name holds them."""
    if fmha := _FMHA.search(name):
        dims = (
            ("head_dim", int(fmha["head_dim"])),
            ("head_dim_v", int(fmha["head_dim_v"] or fmha["head_dim"])),
        )
        rounding = re.search(r"_(rtz|rtna|rtne)", fmha["rest"])
        return (
            *dims, ("dtype", fmha["dtype"]), ("causal", "causal" in fmha["rest"]),
            ("varlen", "group" in fmha["rest"]),
            *((("rounding", rounding.group(1)),) if rounding else ()),
        )  # fmt: skip
    if mla := _MLA.search(name):
        parts = [
            (field, int(found.group(1)))
            for field, pattern in _MLA_PARTS
            if (found := pattern.search(mla["rest"]))
        ]
        named = (("q_bits", int(mla["q_bits"])), ("kv_bits", int(mla["kv_bits"])))
        rest = mla["rest"].rstrip("E")
        return (
            *named,
            *parts,
            ("causal", "_causal" in rest),
            ("persistent", re.search(r"_ps(?:_|$)", rest) is not None),
        )
    if pa := _PA.search(name):
        return (
            ("dtype", pa["dtype"]), ("kv_dtype", pa["dtype"] if pa["kv"] == "noquant" else pa["kv"]),
            ("group_size", int(pa["group_size"])), ("waves", int(pa["waves"])),
        )  # fmt: skip
    if paged := _LL4MI.search(name):
        page, head_dim, _ = map(int, paged.groups())
        return (("page_size", page), ("head_dim", head_dim))
    return _ck_tile(name)


def _ck_tile(name: str) -> Fields:
    """Queries, keys, unrolled head dim and V head dim of the tile (the first four of its shape)."""
    shape = _CK_TILE.search(name)
    if shape is None:
        return ()
    block_m, block_n, _, head_dim_v = map(int, shape.groups())
    dtype = next((ours for theirs, ours in _CK_ELEMENTS if theirs in name), None)
    fields: Fields = (("block_m", block_m), ("block_n", block_n), ("head_dim_v", head_dim_v))
    if waves := _CK_WAVES.search(name):
        fields = (*fields, ("waves", prod(map(int, waves.groups()))))
    return (*fields, ("dtype", dtype)) if dtype else fields
