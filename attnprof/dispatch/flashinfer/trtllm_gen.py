"""TensorRT-LLM's generated kernels (``fmhaSm100fKernel_…``): everything a name states.

Grammar read off the 13,452 names of flashinfer-cubin 0.6.13; a test reads all their forms back in full.
"""

from __future__ import annotations

from attnprof.dispatch.names.family import Family, bounded, row

LIBRARY = "trtllm-gen"
FAMILIES: tuple[Family, ...] = (
    row(LIBRARY, "trtllm_gen_decode", r"^fmhaSm1\d\d[af]?Kernel_\w{1,400}ForGen$"),
    row(LIBRARY, "trtllm_gen_prefill", r"^fmhaSm1\d\d[af]?Kernel_\w*"),
    row(LIBRARY, "trtllm_gen_combine", r"(?:^|::)fmhaReductionKernel$", "combine"),
)
_DTYPES = {
    "Bfloat16": "bf16", "Fp16": "fp16", "E4m3": "fp8", "E2m1": "nvfp4", "Fp32": "fp32", "Int8": "int8",
}  # fmt: skip
_ELEMENT = "(?:Bfloat16|Fp16|E4m3|E2m1|Fp32|Int8)"
_NAME = bounded(
    rf"^fmhaSm(?P<arch>\d+)[af]?Kernel_"
    rf"(?:Qkv(?P<qkv>{_ELEMENT})|Qk(?P<qk>{_ELEMENT})V(?P<v>{_ELEMENT})"
    rf"|Q(?P<q>{_ELEMENT})(?:Kv(?P<kv>{_ELEMENT})|K(?P<k>{_ELEMENT})V(?P<v2>{_ELEMENT})))"
    rf"O(?P<out>{_ELEMENT})"
    r"(?:HQk(?P<head_dim_qk>\d+)HV(?P<head_dim_v>\d+)|H(?P<head_dim>\d+))(?:HVPerCta(?P<v_per_cta>\d+))?"
    r"(?P<layout>PagedKv|PackedQkv|SeparateQkv|ContiguousKv)?"
    r"(?P<mask>Dense|Causal|SlidingOrChunkedCausal|Custom)(?P<sparse>\w{0,20}TokenSparse)?"
    r"(?:P(?P<page_size>\d+)|(?P<any_page>Paged))?"
    r"(?P<multi_cta>MultiCtasKv(?:Cga|GmemSep|Gmem|CgaSmem)?)?"
    r"(?P<varlen>VarSeq)?(?P<skips>SkipsSoftmax)?"
    r"Q(?P<block_m>\d+)Kv(?P<block_n>\d+)"
    r"(?:SageQ(?P<sage_q>\d+)SageK(?P<sage_k>\d+)SageV(?P<sage_v>\d+))?"
    r"(?P<scheduler>Static|Persistent|Dynamic)(?P<ctas>\d+Cta)?(?P<rest>\w*)$"
)
_MASKS = {
    "Dense": "dense", "Causal": "causal", "SlidingOrChunkedCausal": "sliding or chunked",
    "Custom": "custom",
}  # fmt: skip
_LAYOUTS = {
    "PagedKv": "paged",
    "PackedQkv": "packed",
    "SeparateQkv": "separate",
    "ContiguousKv": "contiguous",
}
Fields = tuple[tuple[str, object], ...]


def stated(name: str) -> Fields:
    """Elements, head dims, layout, mask, page size, tiles, scheduler, multi-CTA; () if unreadable."""
    found = _NAME.match(name)
    if found is None:
        return ()
    part = found.groupdict()
    q = part["qkv"] or part["qk"] or part["q"]
    key = part["qkv"] or part["qk"] or part["kv"] or part["k"]
    value = part["qkv"] or part["v"] or part["kv"] or part["v2"]
    head_dim = part["head_dim"] or part["head_dim_qk"]
    fields: list[tuple[str, object]] = [
        ("arch", int(part["arch"])),
        ("dtype", _DTYPES[q]),
        ("kv_dtype", _DTYPES[key] if key == value else f"{_DTYPES[key]}/{_DTYPES[value]}"),
        ("out_dtype", _DTYPES[part["out"]]),
        ("head_dim", int(head_dim)),
        ("head_dim_v", int(part["head_dim_v"] or head_dim)),
    ]
    if part["v_per_cta"]:
        fields.append(("head_dim_v_per_cta", int(part["v_per_cta"])))
    fields += [
        ("kv_layout", _LAYOUTS.get(part["layout"] or "", "")),
        ("mask", _MASKS[part["mask"]]),
        ("page_size", int(part["page_size"]) if part["page_size"] else None),
        ("block_m", int(part["block_m"])),
        ("block_n", int(part["block_n"])),
        ("scheduler", part["scheduler"].lower()),
        ("multi_cta", _multi_cta(part["multi_cta"])),
        ("varlen", part["varlen"] is not None),
        ("skips_softmax", part["skips"] is not None),
        ("sparse", (part["sparse"] or "no").removesuffix("TokenSparse").lower()),
        ("swaps_ab", "SwapsAb" in part["rest"]),
        ("phase", "decode" if "ForGen" in part["rest"] else "prefill"),
    ]
    if part["sage_q"]:
        fields.append(("sage_blocks", f"{part['sage_q']}/{part['sage_k']}/{part['sage_v']}"))
    return tuple(fields)


def _multi_cta(text: str | None) -> str:
    """Whether the keys of one query tile are shared out among thread blocks, and where these meet."""
    if text is None:
        return "no"
    meets = text.removeprefix("MultiCtasKv")
    return {"": "in global memory", "Cga": "in a cluster"}.get(meets, meets)


def short(name: str) -> str | None:
    """``fmhaSm100f H128 Causal P32 Gen``: head dims, mask, page size and phase."""
    found = _NAME.match(name)
    if found is None:
        return None
    part = found.groupdict()
    head = part["head_dim"] or f"{part['head_dim_qk']}/{part['head_dim_v']}"
    mask = part["mask"].replace("SlidingOrChunkedCausal", "Sliding")
    page = f" P{part['page_size']}" if part["page_size"] else ""
    phase = "Gen" if "ForGen" in part["rest"] else "Context"
    return f"{name.partition('Kernel_')[0]} H{head} {mask}{page} {phase}"
