"""Calls of every library, drawn in the domain of its rules, for what is read back from their launches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from attnprof.dispatch import libraries
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Dtype, Entry, Gpu

Drawn = tuple[AttentionCall, Gpu, str]
_HEADS = ((28, 4), (32, 32), (8, 1), (64, 8), (12, 12), (16, 1))


@dataclass(frozen=True)
class Domain:
    """``draw`` a call, its GPU and version.  ``counts``: the split count shows in the launches.

    ``theirs``: other libraries have kernels of these names, whose a spoilt launch may be.
    ``undecided``: part of the names of kernels whose spoilt sizes may be neither found nor another call's.
    """

    draw: Callable[[Random], Drawn]
    counts: bool = True
    undecided: str = ""
    theirs: bool = False


def _call(rng: Random, library: str, entry: Entry) -> AttentionCall:
    heads, heads_k = rng.choice(_HEADS)
    queries = rng.choice((1, 1, rng.randint(2, 400), 128, 1024))
    keys = queries + rng.choice((0, rng.randint(0, 500), rng.randint(500, 20_000)))
    return AttentionCall(
        library, entry, rng.choice((1, 2, 3, 8, 17)), queries, keys, heads, heads_k,
        rng.choice((64, 128, 128, 256)), causal=rng.random() < 0.5, dtype=rng.choice(("bf16", "fp16")),
    )  # fmt: skip


def _gpu(rng: Random, *names: str) -> Gpu:
    return gpu_by_name(rng.choice(names))


def _flash_attn(rng: Random) -> Drawn:
    entry: Entry = rng.choice(("fwd", "varlen_fwd", "fwd_kvcache"))
    call = _call(rng, "flash_attn", entry)
    cache = entry == "fwd_kvcache"
    call = replace(
        call, total_q=call.batch * call.seqlen_q if entry == "varlen_fwd" else None, cache_seqlens=cache,
        window=rng.choice(((-1, -1), (-1, -1), (100, 0))), softcap=rng.choice((0.0, 0.0, 30.0)),
        num_splits=rng.choice((0, 0, 7)) if cache else 0,
    )  # fmt: skip
    return call, _gpu(rng, "a100", "h100", "4090"), rng.choice(("2.3.4", "2.5.6", "2.6.3", "2.8.3"))


def _torch(rng: Random) -> Drawn:
    call = _call(rng, "torch", rng.choice(("fwd", "varlen_fwd")))
    call = replace(call, num_heads_k=call.num_heads, dropout_p=rng.choice((0.0, 0.0, 0.1)))
    if call.entry == "varlen_fwd":
        call = replace(call, total_q=call.batch * call.seqlen_q)
    return call, _gpu(rng, "a100", "h100", "4090"), rng.choice(("2.4.0", "2.6.0", "2.13.0"))


def _flash_attn_3(rng: Random) -> Drawn:
    entry: Entry = rng.choice(("fwd", "varlen_fwd", "fwd_kvcache"))
    call = _call(rng, "flash_attn_3", entry)
    call = replace(
        call, total_q=call.batch * call.seqlen_q if entry == "varlen_fwd" else None,
        cache_seqlens=entry == "fwd_kvcache", num_splits=rng.choice((0, 0, -1, 3)),
    )  # fmt: skip
    return call, _gpu(rng, "h100", "h20"), rng.choice(("2.7.4", "2.8.3", "3.0.0"))


def _vllm_flash_attn(rng: Random) -> Drawn:
    call = _call(rng, "vllm_flash_attn", "varlen_fwd")
    version = rng.choice(("fa2", "fa3"))
    call = replace(call, total_q=call.batch * call.seqlen_q, page_block_size=16 if version == "fa2" else 128)
    return call, _gpu(rng, "h100", "h20"), version


def _flash_attn_4(rng: Random) -> Drawn:
    call = _call(rng, "flash_attn_4", rng.choice(("fwd", "fwd", "varlen_fwd")))
    gpu = _gpu(rng, "b200", "b300", "h100", "a100", "5090")
    call = replace(call, head_dim=rng.choice((64, 96, 128)), num_splits=rng.choice((-1, -1, 0, 3)))
    if rng.random() < 0.2 and gpu.sm_major == 10:
        call = replace(call, head_dim=64, head_dim_v=512)
    version = rng.choice(("4.0.0b36", "vllm-0.33.0"))
    rare = Random(repr(call))  # of Blackwell
    kind = rare.choice(("topk", "wide", "fp8", "softcap", *("",) * 6)) if gpu.sm_major == 10 else ""
    if kind == "topk":  # keys that an indexer picks
        call = replace(
            call, head_dim=64, head_dim_v=512, num_heads=rare.choice((8, 16, 32, 64, 128)), num_heads_k=1,
            index_topk=rare.choice((512, 2048)), num_splits=0, causal=False,
        )  # fmt: skip
    elif kind == "wide":
        call = replace(call, head_dim=256, head_dim_v=256)
        version = "vllm-0.33.0"
    elif kind and call.head_dim_v is None:
        call = replace(call, dtype="fp8") if kind == "fp8" else replace(call, softcap=30.0)
    return call, gpu, version


def _flashinfer(rng: Random) -> Drawn:
    entries: tuple[Entry, ...] = ("batch_paged", "batch_ragged", "batch_decode", "batch_mla", "varlen_fwd")
    entry = rng.choice((*entries, "single_prefill", "single_decode"))
    call = replace(_call(rng, "flashinfer", entry), page_block_size=rng.choice((1, 16, 64)), dtype="bf16")
    gpu = _gpu(rng, "a100", "h100", "l40s", "b200")
    if entry == "batch_decode" and rng.random() < 0.3:
        return _xqa(rng, call)
    if "decode" in entry or entry == "batch_mla":
        call = replace(call, seqlen_q=1)
    if entry.startswith("single"):
        call = replace(
            call, batch=1, page_block_size=None, head_dim=128 if "prefill" in entry else call.head_dim
        )
    if entry == "batch_mla":
        call = replace(call, num_heads_k=1, head_dim=576, head_dim_v=512)
    if entry == "batch_decode" and rng.random() < 0.4:
        call, gpu = replace(call, backend="trtllm-gen", page_block_size=16, causal=True), gpu_by_name("b200")
        if rng.random() < 0.4:  # over a cache of another dtype
            kinds: tuple[tuple[Dtype, str], ...] = (("fp16", "fp8"), ("fp8", "nvfp4"))
            call = replace(call, dtype=(kind := rng.choice(kinds))[0], kv_dtype=kind[1])
    elif entry == "batch_mla" and rng.random() < 0.4:  # over keys that an indexer picks
        call = replace(
            call, backend="trtllm-gen", num_heads=rng.choice((8, 16, 64, 128)), index_topk=2048,
            page_block_size=64, head_dim=rng.choice((576, 512)),
        )  # fmt: skip
        gpu = _gpu(rng, "b200", "b300")
    elif entry == "varlen_fwd":
        dims = rng.choice(((192, 128), (256, 256), (128, 128)))
        call = replace(
            call, backend="trtllm-gen", head_dim=dims[0], head_dim_v=dims[1], page_block_size=None,
            num_heads_k=call.num_heads, total_q=call.batch * call.seqlen_q,
        )  # fmt: skip
        gpu = _gpu(rng, "b200", "b300")
    elif entry in ("batch_paged", "batch_ragged", "single_prefill"):
        call = replace(call, backend="fa2" if gpu.sm_major != 9 else rng.choice(("fa2", "fa3")))
    batch = not entry.startswith("single") and call.backend != "trtllm-gen"
    if batch:
        keys = tuple(call.seqlen_q + rng.randint(0, 5000) for _ in range(call.batch))
        call = replace(call, seqlens_k=keys, seqlen_k=max(keys), cuda_graph=rng.random() < 0.3)
    return call, gpu, "0.7.2.post1"


def _xqa(rng: Random, call: AttentionCall) -> Drawn:
    """A step, or a draft of a few queries; over FP8 on Hopper its own kernel."""
    call = replace(
        call, backend="xqa", seqlen_q=rng.choice((1, 1, 2, 4, 9, 20)), head_dim=rng.choice((64, 128, 256)),
        dtype=rng.choice(("bf16", "fp8", "fp8")), causal=True,
    )  # fmt: skip
    gpu = _gpu(rng, "h100", "b200", "5090")
    if gpu.sm_major == 12 and rng.random() < 0.4:
        latent = replace(call, entry="batch_mla", num_heads=128, num_heads_k=1, head_dim=576, seqlen_q=1)
        return replace(latent, head_dim_v=512), gpu, "0.7.2.post1"
    return call, gpu, "0.7.2.post1"


def _latent(rng: Random, library: str, entry: Entry = "fwd_kvcache") -> AttentionCall:
    return replace(
        _call(rng, library, entry), seqlen_q=1, num_heads=rng.choice((16, 128)), num_heads_k=1, head_dim=576,
        head_dim_v=512, causal=True, dtype="bf16",
    )  # fmt: skip


def _flash_mla(rng: Random) -> Drawn:
    version = rng.choice(("vllm-0.33.0", "sglang-kernel-0.4.10"))
    drawn = rng.random()
    if drawn < 0.3:  # over keys that an indexer picks, of one cache or two
        head_dim = rng.choice((576, 576, 512))
        call = replace(
            _latent(rng, "flash_mla"), seqlen_q=rng.choice((1, 1, 2)), num_heads=rng.choice((64, 128)),
            index_topk=rng.choice((512, 2048)), head_dim=head_dim,
        )  # fmt: skip
        if head_dim == 512:
            call = replace(call, extra_topk=rng.choice((0, 128, 512)), backend="v4")
        return call, _gpu(rng, "h100", "h20", "b200"), version
    if drawn < 0.5:
        dims = rng.choice(((192, 128), (128, 128)))
        call = replace(_call(rng, "flash_mla", "varlen_fwd"), head_dim=dims[0], head_dim_v=dims[1])
        return replace(call, dtype="bf16"), _gpu(rng, "b200", "b300"), version
    call = replace(_latent(rng, "flash_mla"), seqlen_q=rng.choice((1, 1, 2)))
    return call, _gpu(rng, "h100", "h20"), version


def _cutlass_mla(rng: Random) -> Drawn:
    call = replace(_latent(rng, "cutlass_mla"), page_block_size=128)
    return call, _gpu(rng, "b200", "b300"), "0.33.0"


def _flex_attention(rng: Random) -> Drawn:
    if rng.random() < 0.3:  # a step of vLLM's
        call = _call(rng, "flex_attention", "batch_paged")
        gpu = _gpu(rng, "a100", "h100", "l40s", "b200")
        return replace(call, page_block_size=rng.choice((None, 16, 64)), causal=True), gpu, "2.13.0"
    call = replace(_call(rng, "flex_attention", "fwd"), seqlen_q=rng.choice((1, 1, 4, 127)))
    groups = rng.choice((1, 2, 4, 8))
    return replace(call, num_heads=call.num_heads_k * groups), _gpu(rng, "a100", "h100", "b200"), "2.13.0"


def _aiter(rng: Random) -> Drawn:
    call = _call(rng, "aiter", rng.choice(("fwd", "varlen_fwd", "fwd_kvcache")))
    if call.entry == "fwd_kvcache":
        call = replace(
            _latent(rng, "aiter"), seqlen_q=rng.choice((1, 1, 2, 4)), dtype=rng.choice(("bf16", "fp8"))
        )
        call = replace(call, num_splits=rng.choice((0, 0, 1)))
    return call, _gpu(rng, "mi300x", "mi355x"), "0.1.7"


def _tokenspeed_mla(rng: Random) -> Drawn:
    dtype = rng.choice(("fp8", "fp8", "bf16", "fp16"))
    call = replace(_latent(rng, "tokenspeed_mla"), dtype=dtype, page_block_size=rng.choice((32, 64)))
    return call, _gpu(rng, "b200", "b300"), libraries.default_version("tokenspeed_mla")


def _aiter_paged(rng: Random) -> Drawn:
    call = _call(rng, "aiter_paged", rng.choice(("fwd_kvcache", "varlen_fwd", "batch_paged")))
    call = replace(call, causal=True, page_block_size=16)
    if call.entry == "varlen_fwd":
        call = replace(call, head_dim=rng.choice((64, 128)))
    if call.entry == "fwd_kvcache":
        call = replace(call, seqlen_q=1)
        return call, _gpu(rng, "mi300x", "mi355x"), libraries.default_version("aiter_paged")
    version = rng.choice(libraries.library("aiter_paged").known_versions())
    return call, _gpu(rng, "mi300x", "mi355x"), version


def _vllm_rocm(rng: Random) -> Drawn:
    call = replace(_call(rng, "vllm_rocm", "batch_paged"), seqlen_q=1, causal=True, page_block_size=16)
    if rng.random() < 0.2:  # an encoder; prompts over a cache are two calls of a trace
        call = replace(_call(rng, "vllm_rocm", "varlen_fwd"), dtype=rng.choice(("bf16", "fp32")))
    return call, _gpu(rng, "mi300x", "mi355x"), libraries.default_version("vllm_rocm")


def _vllm_triton(rng: Random) -> Drawn:
    call = replace(_call(rng, "vllm_triton", "batch_paged"), causal=True, page_block_size=16)
    if rng.random() < 0.3:
        call = replace(_latent(rng, "vllm_triton", "batch_mla"), page_block_size=16)
    version = rng.choice(("0.10.2", "0.20.0", "0.33.0"))
    if version == "0.33.0" and call.entry == "batch_paged" and rng.random() < 0.3:
        drafts = rng.randint(2, 9)
        call = replace(call, seqlen_q=drafts, seqlen_k=call.seqlen_k + drafts, uniform_q_len=drafts)
    if rng.random() < 0.2:
        decode = replace(call, entry="batch_decode", seqlen_q=1, num_splits=rng.choice((0, 7)))
        return decode, _gpu(rng, "a100", "h100", "b200"), rng.choice(("0.20.0", "0.33.0"))
    return call, _gpu(rng, "a100", "h100", "b200", "mi300x"), version


def _sglang_triton(rng: Random) -> Drawn:
    call = _call(rng, "sglang_triton", rng.choice(("fwd_kvcache", "batch_paged")))
    if call.entry == "fwd_kvcache":
        call = replace(call, seqlen_q=1)
    gpu = _gpu(rng, "a100", "h100", "b200", "mi300x", "mi355x")
    if call.entry == "batch_paged" and (rng.random() < 0.5 or gpu.vendor == "amd"):
        call = replace(call, fixed_split_size=256)  # without it other programs' on AMD GPUs
    return call, gpu, "0.5.23"


DOMAINS: dict[str, Domain] = {
    "flash_attn": Domain(_flash_attn),
    "torch": Domain(_torch),
    "flash_attn_3": Domain(_flash_attn_3, counts=False),  # of a persistent kernel the least
    "vllm_flash_attn": Domain(_vllm_flash_attn, counts=False),
    "flash_attn_4": Domain(_flash_attn_4),
    "flashinfer": Domain(
        _flashinfer, counts=False,  # each sequence has its own
        undecided="fmhaSm100f",  # upstream weighs tiles for drafts by a model of time, not turned around
    ),
    "flash_mla": Domain(_flash_mla, counts=False),
    "cutlass_mla": Domain(_cutlass_mla),
    "flex_attention": Domain(_flex_attention),
    "aiter": Domain(_aiter),
    "tokenspeed_mla": Domain(_tokenspeed_mla),
    "aiter_paged": Domain(_aiter_paged, counts=False, theirs=True),  # what there is room for; vLLM's names
    "vllm_triton": Domain(_vllm_triton),
    "vllm_rocm": Domain(_vllm_rocm, counts=False),  # what there is room for
    "sglang_triton": Domain(_sglang_triton, counts=False),  # what there is room for
}  # fmt: skip
NOT_READ_BACK: dict[str, str] = {  # a library, or an entry of one, without read-back, and why it has none
}
