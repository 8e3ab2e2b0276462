"""FlashAttention-4's kernels: how the CuTe DSL spells them, and what a spelling says.

``kernel_cutlass_<method>_<module without dots><class>_object_at_<arguments>``; the module is flash_attn.cute,
vLLM's copy of it or SGLang's, and the class says the rest. A longer spelling, proposed upstream, puts the
tile and the flags in front. Source: the classes of flash_attn/cute in flash-attn-4 4.0.0b36, vllm 0.33.0
(vllm_flash_attn/cute, third_party) and sglang 0.5.23.
"""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, bounded, row

LIBRARY = "flash-attn-4"

FAMILIES: tuple[Family, ...] = (
    row(
        LIBRARY,
        "fa4_bwd",
        r"flash_bwd_sm\d+|cuteflash_bwd|FlashAttention\w{0,40}Backward\w*|DSinkReduceKernel"
        r"|MultiHeadAttentionBackward\w*",
        "backward",
    ),
    row(LIBRARY, "fa4_combine", r"FlashAttentionForwardCombine", "combine"),
    row(
        LIBRARY,
        "fa4_scheduler",
        r"FlashPrepareScheduler|CuSeqlensToBlocks\w*|CuBlocksToBatch\w*",
        "scheduler",
    ),
    row(LIBRARY, "fa4_block_sparsity", r"BlockSparsityKernel", "metadata"),
    row(LIBRARY, "fa4_mla", r"FlashAttentionMLA(?:Forward|Decode)\w*"),
    row(
        LIBRARY,
        "fa4_fwd",
        r"^(?!.*BlockSparseAttn)\w*flash_fwd_sm\d+|cuteflash_fwd|FlashAttentionForwardSm\d+|_fp8_attention_sm\d+"
        r"|(?:cute|fa4)sm100_hd256_2cta_fmha_forward\w*",
    ),
)
_CLASS = bounded(
    r"(FlashAttention\w+?|FlashPrepareScheduler|BlackwellFusedMultiHeadAttention(?:Forward|Backward)\w*?)"
    r"(?=_object_at_|_\d|$)"
)
_ARCH = bounded(r"[Ss]m_?(\d{2,3})(?=\D|$)")
_PROPOSED = bounded(
    r"^flash_(?:fwd|bwd)_sm\d+_(?P<dtype>bf16|fp16|fp8\w*?)_head_dim(?P<head_dim>\d+)(?:_head_dim_v(?P<head_dim_v>\d+))?"
    r"_tile(?P<block_m>\d+)x(?P<block_n>\d+)"
)
_THREADS = bounded(r"_threads(\d+)")


def short(name: str) -> str | None:
    """The class that the name ends with."""
    found = _CLASS.search(name.partition("_object_at_")[0])
    return (
        found.group(1)[found.group(1).find("BlackwellFused") :]
        if found and "BlackwellFused" in found.group(1)
        else (found.group(1) if found else None)
    )


def stated(name: str) -> tuple[tuple[str, object], ...]:
    """What a name says: the architecture always, the rest in the longer spelling alone."""
    fields: list[tuple[str, object]] = []
    spelled = name.partition("_object_at_")[0]
    if arch := _ARCH.search(short(name) or spelled) or _ARCH.search(spelled):
        fields.append(("arch", int(arch.group(1))))
    if "MLA" in spelled:
        fields.append(("mla", True))
    if proposed := _PROPOSED.match(name):
        fields += [
            (key, value if key == "dtype" else int(value))
            for key, value in proposed.groupdict().items()
            if value is not None
        ]
        flags = name.partition("_kernel_cutlass_")[0]
        if threads := _THREADS.search(flags):
            fields.append(("threads", int(threads.group(1))))
        fields.append(("causal", "_causal" in flags))
    return tuple(fields)
