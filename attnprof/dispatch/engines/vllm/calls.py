"""From vLLM's backend to the call that reaches an attention library, and what vLLM decides about it before.

Source: vllm/v1/attention/backends/flash_attn.py (FlashAttentionMetadataBuilder.build,
FlashAttentionImpl.forward), flashinfer.py (FlashInferMetadataBuilder) and vllm/config/attention.py of the
wheels. Read; recorded are the choice of FlashInfer's kernels and the FlashAttention version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from attnprof.dispatch.engines.layer import AUTO, Layer, Note, Reached, Sm, Step, call_of
from attnprof.dispatch.engines.vllm.flash_attention import HD256_PAGE, Asked, Version, choose
from attnprof.dispatch.flex_attention.paged import TORCH
from attnprof.model import AttentionCall, Dtype, Entry

DEFAULT_BLOCK = 16
_AUTOMATIC_FA4 = -1
_FLASHINFER_ROUTE_PAGE = 64  # which both backends of the composite have
_HOPPER = (9, 0)
_FEW_TOKENS, _LONG = 256, 131_072  # 0.10: what TensorRT-LLM's kernels were taken for
_CONTINUED = (
    "TURBOQUANT attends prompts with packed keys request by request, up to 128 queries by decode's kernels, "
    "more by FlashAttention over unpacked keys: several calls in a step are not modelled"
)
_CAUSAL_ROUTE = {"TRITON_FLASH_ATTN": "FLASH_ATTN", "TRITON_FLASHINFER": "FLASHINFER"}
_DTYPES: dict[str, Dtype] = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a version of vLLM decides about a call.

    ``graph_splits``: the most splits under a full CUDA graph with FA3. ``wheel`` ends the names of its FA2
    and FA3 among ours. ``fork``, ``cutlass`` and ``triton``: the versions of its FA4 and CUTLASS MLA, "" for
    ones that were not recorded, and of its Triton kernels; ``flashinfer_package`` is what its wheel requires.
    ``cascade``: what it says of cascade attention. ``flash_refusal``: what FLASH_ATTN ends in once taken.
    ``flashinfer``: its (decode, prefill) kernels. ``chain``: its selector is 0.10's.
    ``flash_mla``: the version of its FlashMLA, "" for one that was not recorded.
    """

    version: str
    triton: str
    flashinfer_package: str
    graph_splits: int
    wheel: str
    fork: str
    cutlass: str
    cascade: str
    flash_version: Callable[[Layer, Sm], Version]
    flash_refusal: Callable[[Layer, Sm], str]
    flashinfer: Callable[[Layer, Step, Sm], tuple[str, str]]
    chain: bool = False
    flash_mla: str = ""


def reach(backend: str, layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """What ``backend``, none of MLA's, calls for a step."""
    if backend == "FLASH_ATTN":
        return _flash_attention(layer, step, sm, rules)
    if backend == "FLASHINFER":
        return _flashinfer(layer, step, sm, rules)
    if backend == "TRITON_ATTN":
        room: dict[str, Any] = {"uniform_q_len": step.seqlen_q} if step.drafts else {}
        call = vllm_call("vllm_triton", "batch_paged", layer, step, **room)
        return Reached((graph_note(step),), call, rules.triton)
    if backend == "FLEX_ATTENTION":
        return _flex_attention(layer, step, rules)
    if backend in _CAUSAL_ROUTE:
        return _composite(backend, layer, step, sm, rules)
    if backend == "TURBOQUANT":
        return _turboquant(layer, step, sm, rules)
    return Reached((graph_note(step),), why_not=f"the launches of vLLM's {backend} are not modelled")


def graph_note(step: Step) -> Note:
    if step.cuda_graph:
        return Note("CUDA graph", "full", "the step is replayed: what was chosen at capture stays")
    return Note("CUDA graph", "none", "attention is called anew in each step")


def capture_note(step: Step) -> tuple[Note, ...]:
    """What a captured step keeps of the server's longest context."""
    if not step.cuda_graph:
        return ()
    why = "captured with the server's max_model_len, which --seqlen-k stands for here"
    return (Note("split count", "of the capture", why),)


def vllm_call(
    library: str, entry: Entry, layer: Layer, step: Step, num_splits: int = 0, **more: Any
) -> AttentionCall:
    fields: dict[str, Any] = {
        "dtype": _DTYPES[layer.dtype],
        "causal": not layer.non_causal and layer.attn_type == "decoder",
        "alibi": layer.alibi,
        "page_block_size": layer.block_size or DEFAULT_BLOCK,
        "num_splits": num_splits,
    }
    return call_of(library, entry, layer, step, **(fields | more))


def _flex_attention(layer: Layer, step: Step, rules: Rules) -> Reached:
    """All requests' queries as one sequence; encoders have no pages."""
    graph = graph_note(step)
    if rules.version != "0.33.0":
        why_not = (
            f"the torch that vLLM {rules.version} requires was not read: its Inductor compiles flex_attention"
        )
        return Reached((graph,), why_not=why_not)
    if layer.batch_invariant:
        return Reached((graph,), why_not="flex_attention's tiles under batch invariance were not recorded")
    page: dict[str, Any] = {} if layer.attn_type == "decoder" else {"page_block_size": None}
    torch = Note("torch", TORCH, "what this vLLM requires: its Inductor compiles flex_attention")
    return Reached((torch, graph), vllm_call("flex_attention", "batch_paged", layer, step, **page), TORCH)


def _composite(backend: str, layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """One backend for a whole step: Triton's where an image is attended both ways, else the other."""
    causal = _CAUSAL_ROUTE[backend]
    why = "no request here holds an image to be attended both ways: a step with one runs TRITON_ATTN"
    pages = layer.block_size or (_FLASHINFER_ROUTE_PAGE if causal == "FLASHINFER" else None)
    reached = reach(causal, replace(layer, mm_prefix=False, block_size=pages), step, sm, rules)
    return replace(reached, notes=(Note("route", causal, why), *reached.notes))


def _turboquant(layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """Decode over the packed cache; new prompts are attended before they are packed, by FlashAttention."""
    graph = graph_note(step)
    if step.seqlen_q == 1:
        return Reached((graph,), vllm_call("vllm_triton", "batch_decode", layer, step), rules.triton)
    if step.seqlen_k > step.seqlen_q:
        return Reached((graph,), why_not=_CONTINUED)
    chosen = choose(layer, sm, Asked(layer.head_dim), newest=rules.version == "0.33.0")
    note = Note("FlashAttention", str(chosen.version or "none"), chosen.why)
    if chosen.version is None:
        return Reached((note, graph), why_not=f"vLLM ends with an error: {chosen.why}")
    if chosen.version == 4 and not rules.fork:
        return Reached((note, graph), why_not=fork_not_recorded(rules))
    return Reached((note, graph), *_unpaged(layer, step, chosen.version, rules))


def _unpaged(layer: Layer, step: Step, version: int, rules: Rules) -> tuple[AttentionCall, str]:
    """New queries over their own keys by a FlashAttention, and the version of its library."""
    if version == 4:
        call = vllm_call("flash_attn_4", "varlen_fwd", layer, step, _AUTOMATIC_FA4, page_block_size=None)
        return call, rules.fork
    call = vllm_call("vllm_flash_attn", "varlen_fwd", layer, step, page_block_size=None)
    return call, f"fa{version}{rules.wheel}"


def _quantized(layer: Layer, version: int, rules: Rules) -> str:
    """Why a quantized cache with a FlashAttention that is not 3 is not predicted."""
    if version == 2:
        return f"vLLM {rules.version} refuses a {layer.kv_dtype} KV cache with FlashAttention 2"
    return f"FA{version}'s launches over a {layer.kv_dtype} KV cache were not recorded"


def fork_not_recorded(rules: Rules) -> str:
    return f"the FlashAttention-4 that vLLM {rules.version} ships was not recorded"


def _flash_attention(layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    chosen = rules.flash_version(layer, sm)
    cascade = Note("cascade attention", "no", rules.cascade)
    if refusal := rules.flash_refusal(layer, sm):
        return Reached((cascade, graph_note(step)), why_not=f"vLLM ends with an error: {refusal}")
    if chosen.version is None:
        refused = (Note("FlashAttention", "none", chosen.why), cascade, graph_note(step))
        return Reached(refused, why_not=f"vLLM ends with an error: {chosen.why}")
    own_kernel = chosen.version == 4 and layer.head_dim == 256 and sm[0] in (10, 11)
    asked, why = splits(layer, step, chosen.version, rules, own_kernel=own_kernel)
    planned = chosen.version == 3 and not layer.batch_invariant
    notes = (
        Note("FlashAttention", str(chosen.version), chosen.why),
        Note("num_splits passed", str(asked), why),
        Note("scheduler metadata", "passed" if planned else "not passed", _metadata(layer, chosen.version)),
        cascade,
        graph_note(step),
    )
    if chosen.version == 4 and not rules.fork:
        return Reached(notes, why_not=fork_not_recorded(rules))
    if layer.kv_dtype != AUTO and chosen.version != 3:
        return Reached(notes, why_not=_quantized(layer, chosen.version, rules))
    page: dict[str, Any] = {"page_block_size": HD256_PAGE} if own_kernel and layer.block_size is None else {}
    if chosen.version == 4:
        call = vllm_call("flash_attn_4", "varlen_fwd", layer, step, asked or _AUTOMATIC_FA4, **page)
        return Reached(notes, call, rules.fork)
    fp8: dict[str, Any] = {"dtype": "fp8"} if layer.kv_dtype.startswith("fp8") else {}
    call = vllm_call("vllm_flash_attn", "varlen_fwd", layer, step, asked, scheduler_metadata=planned, **fp8)
    return Reached(notes, call, f"fa{chosen.version}{rules.wheel}")


def splits(
    layer: Layer, step: Step, version: int, rules: Rules, *, own_kernel: bool = False
) -> tuple[int, str]:
    """``max_num_splits`` as the library gets it, 0 for its own choice, and why."""
    if layer.batch_invariant:
        return 1, "VLLM_BATCH_INVARIANT: never split"
    if own_kernel:
        return 1, "FA4's kernel for head dim 256 never splits"
    if step.cuda_graph and version == 3:
        return rules.graph_splits, "a full CUDA graph: room for this many was set aside at capture"
    return 0, "left to the library"


def _metadata(layer: Layer, version: int) -> str:
    if version != 3:
        return "only FA3 plans ahead"
    if layer.batch_invariant:
        return "the plan would vary with the batch"
    return "get_scheduler_metadata plans a step once, for all its layers"


def _flashinfer(layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    decode, prefill = rules.flashinfer(layer, step, sm)
    # Drafts are decode where its kernel takes several queries: Hopper's own and Blackwell's do not.
    drafted = step.drafts and (decode != "native" or sm < _HOPPER)
    phase, kernel = ("decode", decode) if step.seqlen_q == 1 or drafted else ("prefill", prefill)
    other = {
        "trtllm-gen": "TensorRT-LLM's generated kernels",
        "xqa": "XQA's decode kernel",
        "native": "FlashInfer's own kernels, planned on the host",
    }
    notes = (Note(f"{phase} kernel", kernel, other[kernel]), graph_note(step))
    if kernel == "xqa":
        return _xqa(layer, step, rules, notes)
    fp8 = layer.kv_dtype.startswith("fp8")
    # A decode wrapper with tensor cores takes fa2 of auto; a prompt's does where fa3 would want FP8 queries.
    own = "fa2" if sm[0] == 8 or phase == "decode" or fp8 else ""
    backend = "trtllm-gen" if kernel == "trtllm-gen" else own
    dtype: dict[str, Any] = {"dtype": "fp8"} if fp8 else {}
    if layer.kv_dtype.startswith("nvfp4"):  # TensorRT-LLM's kernels want FP8 queries over it
        dtype = {"dtype": "fp8", "kv_dtype": "nvfp4"} if kernel == "trtllm-gen" else {"dtype": "nvfp4"}
    entry: Entry = "batch_decode" if (phase, kernel) == ("decode", "trtllm-gen") else "batch_paged"
    call = vllm_call("flashinfer", entry, layer, step, backend=backend, **dtype)
    return Reached(notes, call, rules.flashinfer_package)


def _xqa(layer: Layer, step: Step, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    """XQA's decode; its splits follow from the width of the page table, as the cache has room for."""
    wide = Note("page table", "of max_model_len", "splits follow its width: --seqlen-k stands for it here")
    kept = next((name for name in ("fp8", "nvfp4") if layer.kv_dtype.startswith(name)), None)
    dtype: dict[str, Any] = {"dtype": kept} if kept else {}
    call = vllm_call("flashinfer", "batch_decode", layer, step, backend="xqa", **dtype)
    return Reached((wide, *notes), call, rules.flashinfer_package)


def flashinfer_kernels(layer: Layer, step: Step, sm: Sm) -> tuple[str, str]:
    """(decode, prefill) kernels of 0.33's FlashInfer backend."""
    able = layer.num_heads % layer.num_heads_k == 0 and not layer.batch_invariant
    fa2_cache = layer.kv_dtype.startswith("nvfp4") and sm[0] in (8, 9, 12)
    decode = "native"
    if able and sm[0] == 10:
        decode = "trtllm-gen"
    elif able and (sm == (9, 0) or sm[0] == 12) and (not fa2_cache or sm[0] == 12):
        fits = 16 <= layer.head_dim <= 256 and layer.head_dim % 16 == 0
        decode = "xqa" if fits else "native"
    large_page = (layer.block_size or DEFAULT_BLOCK) >= 128
    generated = able and sm[0] == 10 and (layer.sinks or large_page or _prefers_generated(layer))
    return decode, "trtllm-gen" if generated else "native"


def _prefers_generated(layer: Layer) -> bool:
    """Whether a prefill's cache is not quantized, or its queries are made E4M3 beside one that is."""
    return layer.kv_dtype in (AUTO, "fp8", "fp8_e4m3") or layer.kv_dtype.startswith("nvfp4")


def flashinfer_kernels_0_20(layer: Layer, step: Step, sm: Sm) -> tuple[str, str]:
    """(decode, prefill) kernels of 0.20's FlashInfer backend."""
    able = layer.num_heads % layer.num_heads_k == 0 and not layer.batch_invariant and sm[0] == 10
    generated = able and (layer.sinks or _prefers_generated(layer))
    return "trtllm-gen" if able else "native", "trtllm-gen" if generated else "native"


def flashinfer_kernels_0_10(layer: Layer, step: Step, sm: Sm) -> tuple[str, str]:
    """(decode, prefill) kernels of 0.10's FlashInfer backend: they depend on the step."""
    able = layer.num_heads % layer.num_heads_k == 0 and sm == (10, 0)

    def kernel(tokens: int) -> str:
        small = tokens <= _FEW_TOKENS and step.seqlen_k < _LONG and layer.kv_dtype == AUTO
        return "trtllm-gen" if able and (layer.sinks or small) else "native"

    return kernel(step.batch), kernel(step.batch * step.seqlen_q)
