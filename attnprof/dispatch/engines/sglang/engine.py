"""SGLang as an engine: the backend it takes by default, and the call that backend makes.

Source: sglang/srt/arg_groups of the wheel, model_override_base.py get_default_attn_backend and overrides.py
_deterministic_attention_backend; model_overrides/deepseek_v2.py; layers/attention for what is passed. The
choice agrees with every answer of the wheel's own functions (tests/data/golden, sglang_backends), for servers
without speculative decoding; DeepSeek's own and what is passed are read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attnprof.dispatch.aiter_paged.rules import TAGGED
from attnprof.dispatch.engines.layer import Choice, Layer, Note, Reached, RuledOut, Sm, Step, call_of
from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Entry, Gpu

NAME = "sglang"
DEFAULT_VERSION = "0.5.23"
VERSIONS = (DEFAULT_VERSION,)
BACKENDS = ("fa3", "trtllm_mha", "fa4", "flashinfer", "aiter", "triton", "trtllm_mla")
_FA3 = "sglang-kernel-0.4.10"
_LATENT, _ROTATED = 512, 64
_TRTLLM_MLA_PAGES = (32, 64)
_DECODE_TILE, _PREFILL_TILE = 2048, 4096  # keys of a fixed split when deterministic
_TRTLLM_PAGES = (16, 32, 64, 128)
_TENSOR_CORE_GROUPS = 4
_AITER_HEADS = (16, 128)


def version_of(name: str | None) -> str:
    """The version. Raises UsageError for one that was not read: it is not guessed."""
    if name not in (None, *VERSIONS):
        raise UsageError(
            f"SGLang {name} is not modelled: its choice was read and recorded for {', '.join(VERSIONS)}",
            hint=f"give --engine-version {DEFAULT_VERSION}",
        )
    return name or DEFAULT_VERSION


def choose(layer: Layer, gpu: Gpu, version: str) -> Choice:
    """The backend, by GPU and kind of attention, and why each other one of the chain is not."""
    sm = (gpu.sm_major, gpu.sm_minor)
    if layer.backend is not None:
        if layer.backend not in BACKENDS:
            raise UsageError(
                f"SGLang's backend {layer.backend} is not modelled", hint=f"known are {', '.join(BACKENDS)}"
            )
        return Choice(layer.backend, "--attention-backend asks for it", ())
    if layer.batch_invariant:
        return _deterministic(layer, gpu)
    return _mla(layer, gpu, sm) if layer.mla else _mha(layer, gpu, sm)


def _deterministic(layer: Layer, gpu: Gpu) -> Choice:
    blackwell = gpu.vendor == "nvidia" and gpu.sm_major in (10, 12)
    fa3 = RuledOut("fa3", ("taken when deterministic where the GPU is no Blackwell",))
    if not blackwell:
        others = (RuledOut("flashinfer", ("taken when deterministic on Blackwell",)),)
        return Choice("fa3", "deterministic inference outside Blackwell", others)
    if layer.mla:
        not_mla = RuledOut("flashinfer", ("not deterministic for DeepSeek's models",))
        return Choice("triton", "deterministic inference of MLA on Blackwell", (fa3, not_mla))
    return Choice("flashinfer", "deterministic inference on Blackwell", (fa3,))


def _mha(layer: Layer, gpu: Gpu, sm: Sm) -> Choice:
    nvidia = gpu.vendor == "nvidia"
    hopper, sm100 = nvidia and sm[0] == 9, nvidia and sm[0] == 10
    uneven = layer.v_head_dim not in (None, layer.head_dim)
    chain = (
        ("fa3", () if hopper else ("taken on Hopper alone",)),
        ("fa4", () if sm100 and uneven else ("taken on SM 10.x where V has another head dim",)),
        ("trtllm_mha", () if sm100 else ("taken on SM 10.x alone",)),
        ("aiter", () if not nvidia else ("taken on AMD GPUs alone",)),
        ("flashinfer", () if not layer.sinks else ("has no attention sinks",)),
        ("triton", ()),
    )
    return _first(chain)


def _mla(layer: Layer, gpu: Gpu, sm: Sm) -> Choice:
    nvidia = gpu.vendor == "nvidia"
    if layer.deepseek and nvidia and sm[0] == 10:
        others = (RuledOut("flashinfer", ("what other models with MLA take on SM 10.x",)),)
        return Choice("trtllm_mla", "what SGLang sets for DeepSeek V3, R1 and V3.1 on SM 10.x", others)
    served = layer.num_heads_k in _AITER_HEADS
    aiter = () if not nvidia and served else ("taken on AMD GPUs for 16 or 128 heads alone",)
    chain = (
        ("fa3", () if nvidia and sm[0] == 9 else ("taken on Hopper alone",)),
        ("flashinfer", () if nvidia and sm[0] == 10 else ("taken for MLA on SM 10.x alone",)),
        ("aiter", aiter),
        ("triton", ()),
    )
    return _first(chain)


def _first(chain: tuple[tuple[str, tuple[str, ...]], ...]) -> Choice:
    taken = next(name for name, reasons in chain if not reasons)
    others = tuple(RuledOut(name, reasons) for name, reasons in chain if name != taken)
    return Choice(taken, "the first of SGLang's conditions that holds", others)


def reach(choice: Choice, layer: Layer, step: Step, gpu: Gpu, version: str) -> Reached:
    """The call that the backend taken makes."""
    reached = _reached(choice, layer, step, gpu, version)
    planned = reached.call is not None and reached.call.library == "flashinfer"
    return replace(reached, version=_FLASHINFER) if planned else reached


def _reached(choice: Choice, layer: Layer, step: Step, gpu: Gpu, version: str) -> Reached:
    asked = 1 if layer.batch_invariant else 0
    why = "deterministic inference: never split" if asked else "0 leaves it to the library"
    note = Note("num_splits passed", str(asked), why)
    graph = Note("CUDA graph", "full" if step.cuda_graph else "none", "decode is captured by default")
    decode = step.seqlen_q == 1
    if layer.mla:
        return _reach_mla(choice, layer, step, (note, graph), version)
    if choice.backend == "triton":
        return Reached(
            (graph,), _call("sglang_triton", "fwd_kvcache" if decode else "batch_paged", layer, step), version
        )
    if choice.backend == "fa3":
        call = _packed("flash_attn_3", layer, step, num_splits=asked)
        return Reached((note, _COPY, graph), call, _FA3)
    if choice.backend == "fa4":
        call = _call(
            "flash_attn_4", "varlen_fwd", layer, step, num_splits=asked or -1, head_dim_v=layer.v_head_dim
        )
        return Reached((note, graph), call)
    if choice.backend == "trtllm_mha":
        return _trtllm_mha(layer, step, graph)
    if choice.backend == "flashinfer":
        return _flashinfer(layer, step, graph)
    if choice.backend == "aiter":
        return _aiter(layer, step, graph)
    return Reached(
        (graph,), why_not=f"SGLang's {choice.backend} attends over latents, which no MHA layer has"
    )


_OTHERS_OF_MLA = {
    "aiter": "SGLang hands AITER's MLA decode a plan or a split count, by heads and cache: not modelled",
    "fa4": "what SGLang passes to FlashAttention-4 for latents was not read",
}
_FLASHINFER = "0.7.2"  # what SGLang 0.5.23 asks for
_COPY = Note("library", _FA3, "sglang-kernel's own copy of FlashAttention-3, as it was recorded")


def _reach_mla(choice: Choice, layer: Layer, step: Step, notes: tuple[Note, Note], version: str) -> Reached:
    """A decode step over the cache's latents."""
    asked, graph = notes
    if step.seqlen_q > 1:
        why_not = (
            "SGLang attends prompts of MLA by head or as latents, by their lengths, which is not modelled"
        )
        return Reached((graph,), why_not=why_not)
    latent: dict[str, Any] = {"num_heads_k": 1, "head_dim": _LATENT + _ROTATED, "head_dim_v": _LATENT}
    if choice.backend == "triton":
        return Reached((graph,), _call("sglang_triton", "fwd_kvcache", layer, step, **latent), version)
    if choice.backend == "fa3":
        queries = Note("queries", f"{_ROTATED} and {_LATENT}", "the rotated part against K, qv against V")
        rotated = latent | {"head_dim": _ROTATED, "has_qv": True, "num_splits": int(asked.value)}
        return Reached((asked, _COPY, queries, graph), _packed("flash_attn_3", layer, step, **rotated), _FA3)
    if choice.backend == "flashinfer":
        return Reached((graph,), _call("flashinfer", "batch_mla", layer, step, **latent))
    if choice.backend == "trtllm_mla":
        page = layer.block_size if layer.block_size in _TRTLLM_MLA_PAGES else 64
        first = "FlashInfer's auto takes it, but where its autotuner timed cute-dsl as faster"
        told = (Note("decode kernel", "trtllm-gen", first), Note("page size", str(page), "32 or 64"), graph)
        call = _call(
            "flashinfer",
            "batch_mla",
            layer,
            step,
            backend="trtllm-gen",
            **(latent | {"page_block_size": page}),
        )
        return Reached(told, call)
    return Reached(
        (graph,), why_not=_OTHERS_OF_MLA.get(str(choice.backend), f"SGLang's {choice.backend} has no MLA")
    )


def _packed(library: str, layer: Layer, step: Step, **more: Any) -> AttentionCall:
    """A step over a paged cache with packed queries."""
    tokens = sum(step.seqlens_q) or step.batch * step.seqlen_q
    return _call(library, "fwd_kvcache", layer, step, cache_seqlens=True, total_q=tokens, **more)


def _aiter(layer: Layer, step: Step, graph: Note) -> Reached:
    """Paged attention over single tokens, or AITER's unified_attention where a model has windows."""
    if layer.window is not None or layer.sinks:
        return _aiter_unified(layer, step, graph)
    if step.seqlen_q == 1:
        kernel = Note("decode kernel", "paged_attention_ragged", "over pages of one token")
        context = Note("partitions", "of the context", "--seqlen-k stands for the server's longest")
        call = _call("aiter_paged", "fwd_kvcache", layer, step, page_block_size=1, cache_seqlens=True)
        return Reached((kernel, context, graph), call)
    kernel = Note("prefill kernel", "mha_batch_prefill_func", "Composable Kernel's, over the paged cache")
    return Reached((kernel, graph), _call("aiter_paged", "varlen_fwd", layer, step, page_block_size=1))


def _aiter_unified(layer: Layer, step: Step, graph: Note) -> Reached:
    """All layers of a model with windows, its prompts too; keys are counted in whole pages."""
    page = layer.block_size or 1
    fp8 = layer.kv_dtype.startswith("fp8") and step.seqlen_q == 1  # a prompt's queries stay as they are
    if layer.kv_dtype.startswith("fp8") and not fp8:
        return Reached(
            (graph,), why_not="prompts by AITER's unified_attention over an FP8 cache are not modelled"
        )
    kernel = Note("kernel", "unified_attention", "a model with windows or sinks: decode and prompts alike")
    aiter = Note("AITER", TAGGED, "the newest that was read; a server's may launch otherwise")
    context = "of the capture: --seqlen-k stands for the server's longest context" if step.cuda_graph else ""
    told = (Note("longest request", "of the context", context),) if context else ()
    keys = ceil_div(step.seqlen_k, page) * page
    more: dict[str, Any] = {"dtype": "fp8"} if fp8 else {}
    call = _call("aiter_paged", "batch_paged", layer, step, page_block_size=page, seqlen_k=keys, **more)
    return Reached((kernel, aiter, *told, graph), call, TAGGED)


def _trtllm_mha(layer: Layer, step: Step, graph: Note) -> Reached:
    asked = layer.block_size or 1
    page = asked if asked in _TRTLLM_PAGES else 64
    note = Note("page size", str(page), "TensorRT-LLM's kernels take 16, 32, 64 or 128; others become 64")
    entry: Entry = "batch_decode" if step.seqlen_q == 1 else "batch_paged"
    call = _call("flashinfer", entry, layer, step, backend="trtllm-gen", page_block_size=page)
    return Reached((note, graph), call)


def _flashinfer(layer: Layer, step: Step, graph: Note) -> Reached:
    decode, groups = step.seqlen_q == 1, layer.num_heads // layer.num_heads_k
    if decode and not layer.batch_invariant and layer.kv_dtype == "auto" and groups < _TENSOR_CORE_GROUPS:
        cores = Note("tensor cores", "no", f"{groups} query heads per KV head: 4 are needed")
        return Reached((cores, graph), _call("flashinfer", "batch_decode", layer, step))
    page = layer.block_size or 1
    tile = (_DECODE_TILE if decode else _PREFILL_TILE) if layer.batch_invariant else None
    fixed = {} if tile is None else {"fixed_split_size": tile // page, "disable_split_kv": step.cuda_graph}
    split = Note(
        "split size",
        "automatic" if tile is None else f"{tile} keys",
        "FlashInfer plans it" if tile is None else "deterministic inference fixes it",
    )
    return Reached((split, graph), _call("flashinfer", "batch_paged", layer, step, **fixed))


def _call(library: str, entry: Entry, layer: Layer, step: Step, **more: Any) -> AttentionCall:
    fields: dict[str, Any] = {
        "dtype": layer.dtype,
        "causal": not layer.non_causal,
        "page_block_size": layer.block_size or 1,
    }
    return call_of(library, entry, layer, step, **(fields | more))
