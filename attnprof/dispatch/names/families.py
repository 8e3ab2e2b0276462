"""Attention kernel families by name: a table, first match wins.

Every row was written for names that were really seen (tests/data/golden/kernel_names.jsonl). A row matches
the kernel's own name, not the names of functors among its template arguments, unless it says ``anywhere``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from attnprof.dispatch.libraries import kernel_families

NOT_ATTENTION = "not_attention"
_LONGEST = 1024  # characters of an attention kernel's own name


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of kernel: which library ships it and how its name reads."""

    library: str
    name: str
    pattern: re.Pattern[str]
    anywhere: bool = False

    def matches(self, kernel_name: str) -> bool:
        text = kernel_name if self.anywhere else own_name(kernel_name)
        # A pattern may look at every pair of characters, so a name made to be long would take minutes.
        return (self.anywhere or len(text) <= _LONGEST) and self.pattern.search(text) is not None


def own_name(kernel_name: str) -> str:
    """The qualified name before template and call arguments; of a wrapper, the wrapped kernel's too."""
    text = kernel_name.strip().removeprefix("void ")
    if text.startswith("_Z"):
        # A symbol's own name ends where its template arguments begin.
        return (
            re.split(r"(?<=[a-z0-9_])I(?=\d|L|N|S|Z)", text, maxsplit=1)[0] if "ck_tile" not in text else text
        )
    wrapper = re.match(r"(?:cutlass::)?device_kernel<", text)
    if wrapper:
        inner = text[wrapper.end() :].removeprefix("flash::")
        wrapped = re.match(r"enable_\w+<", inner)
        text = inner[wrapped.end() :] if wrapped else inner
    return re.split(r"[<(]", text, maxsplit=1)[0]


def _family(library: str, name: str, pattern: str, *, anywhere: bool = False) -> Family:
    return Family(library, name, re.compile(pattern), anywhere)


FAMILIES: tuple[Family, ...] = (
    _family("flashmla", "mla_combine", r"flash_fwd_splitkv_mla_combine_kernel|flash_fwd_mla_combine_kernel"),
    _family("flashmla", "mla_splitkv", r"flash_fwd_splitkv_mla\w*kernel"),
    _family(
        "pytorch-bundled-flash",
        "fwd_splitkv_combine",
        r"pytorch_flash(?:::|\d+)flash_fwd_splitkv_combine_kernel$",
    ),
    _family("pytorch-bundled-flash", "fwd_splitkv", r"pytorch_flash(?:::|\d+)flash_fwd_splitkv_kernel$"),
    _family("pytorch-bundled-flash", "fwd", r"pytorch_flash(?:::|\d+)flash_fwd_kernel$"),
    _family("pytorch-bundled-flash", "bwd", r"pytorch_flash(?:::|\d+)flash_bwd_\w+$"),
    _family("pytorch-bundled-flash-v1", "fa1_fwd", r"fmha_fwd_loop_kernel|pytorch_fmha::fmha_fwd"),
    _family("pytorch-bundled-flash-v1", "fa1_bwd", r"fmha_bwd_\w*loop\w*|pytorch_fmha::fmha_bwd"),
    _family("flash-attn", "fwd_splitkv_combine", r"flash_fwd_splitkv_combine_kernel$"),
    _family("flash-attn", "fwd_splitkv", r"flash_fwd_splitkv_kernel$"),
    _family("flash-attn", "fwd", r"flash_fwd_kernel$"),
    _family("flash-attn-4", "fa4_bwd", r"flash_bwd_sm\d+|cuteflash_bwd", anywhere=True),
    _family(
        "flash-attn-4", "fa4_fwd", r"flash_fwd_sm\d+|cuteflash_fwd|FlashAttentionForwardSm\d+", anywhere=True
    ),
    _family("flash-attn", "bwd", r"flash_bwd_(?:dq_dk_dv|dot_do_o|convert_d)\w*$"),
    _family("flash-attn-3", "fa3_bwd_aux", r"FlashAttnBwd(?:Pre|Post)process\w*$"),
    _family("flash-attn-3", "fa3_bwd", r"FlashAttnBwd\w*$"),
    _family("flash-attn-3", "fa3_combine", r"FlashAttnFwdCombine$"),
    _family("flash-attn-3", "fa3_fwd_sm80", r"FlashAttnFwdSm80$"),
    _family("flash-attn-3", "fa3_fwd", r"FlashAttnFwdSm90$"),
    _family("flash-attn-3", "fa3_fwd_early", r"compute_attn_ws\w*$"),
    _family("flash-attn-3", "scheduler_aux", r"prepare_varlen_num_blocks_kernel$"),
    _family("cudnn", "cudnn_bwd", r"cudnn_generated_\w*(?:sdpa|flash)\w*bprop"),
    _family("cudnn", "cudnn_fwd", r"cudnn_generated_\w*(?:sdpa|flash)\w*(?:fprop)?"),
    _family("pytorch-mem-efficient", "mem_efficient_bwd", r"fmha_cutlassB_\w+"),
    _family("pytorch-mem-efficient", "mem_efficient_fwd", r"fmha_cutlassF_\w+"),
    _family("xformers", "mem_efficient_fwd", r"efficient_attention_forward_\w+"),
    _family("flexattention", "flex_bwd", r"triton_tem_fused_\w*flex_attention\w*_backward"),
    _family("flexattention", "flex_fwd", r"triton_tem_fused_\w*flex_(?:attention|decoding)\w*"),
    _family("fla", "linear_attention", r"fused_recurrent_\w*|chunk_(?:gated_)?delta_rule\w*|chunk_gla\w*"),
    _family("flashinfer", "paged_decode", r"flashinfer::\w*Decode\w*Kernel"),
    _family("flashinfer", "paged_prefill", r"flashinfer::\w*(?:Prefill|RaggedKV)\w*Kernel"),
    _family("flashinfer", "merge_states", r"flashinfer::\w*MergeState\w*"),
    _family("trtllm-gen", "trtllm_gen_decode", r"^fmhaSm1\d\d[af]?Kernel_\w*ForGen"),
    _family("trtllm-gen", "trtllm_gen_prefill", r"^fmhaSm1\d\d[af]?Kernel_\w*"),
    _family("tensorrt-llm", "trt_fmha_v2", r"^fmha_v2_\w+"),
    _family("tensorrt-llm", "trt_mmha", r"masked_multihead_attention_kernel$|^kernel_mha$"),
    _family("aiter", "rocm_fwd", r"^aiter::fmha_fwd_\w+|^fmha_fwd_hd\d+\w*"),
    _family("aiter", "rocm_bwd", r"^aiter::fmha_bwd_\w+"),
    _family("vllm-rocm", "rocm_paged_decode", r"paged_attention_ll4mi_QKV\w*"),
    _family("vllm-rocm", "rocm_paged_reduce", r"paged_attention_ll4mi_reduce_kernel$"),
    _family("vllm", "paged_decode", r"paged_attention_v[12]_kernel$|paged_attention_v2_reduce_kernel$"),
    _family("ck-tile", "rocm_prefill", r"ck_tile\w{0,400}Fmha\w{0,100}Prefill\w*", anywhere=True),
    _family("ck-tile", "rocm_fwd", r"ck_tile.{0,400}FmhaFwd\w{0,100}Kernel", anywhere=True),
    _family("triton", "triton_unified", r"kernel_unified_attention_\w+"),
    _family(
        "triton", "triton_decode", r"\w*paged_decode_kernel$|_fwd_grouped_kernel_stage\d|_fwd_kernel_stage\d"
    ),
    _family("triton", "triton_fwd", r"^_attn_fwd\w*$|^_fwd_kernel$"),
)

# One of these stands in every name that any row matches; most kernels have none of them.
_HINT = re.compile(
    r"[Ff]lash|[Ff]mha|[Aa]tt(?:n|ention)|sdpa|mha|fused_recurrent|chunk_|prepare_varlen|paged|_fwd_|flex_"
)


def family_of(kernel_name: str) -> Family | None:
    """The first row that a name matches."""
    if not _HINT.search(kernel_name):
        return None
    families = (*FAMILIES, *cast("tuple[Family, ...]", kernel_families()))
    return next((family for family in families if family.matches(kernel_name)), None)
