"""Which attention backend an SGLang server takes, and with which it refuses to start.

Source: sglang/srt/arg_groups of the wheel: model_override_base.py get_default_attn_backend, model_overrides,
overrides.py, attention_hook.py; layers/attention/attention_registry.py. Agrees with the wheel's own
resolution (tests/data/golden, sglang_servers and sglang_backends), for servers without a draft model.
"""

from __future__ import annotations

from attnprof.dispatch.engines.layer import Choice, Layer, RuledOut, Sm
from attnprof.errors import UsageError
from attnprof.model import Gpu

BACKENDS = (
    "fa3", "trtllm_mha", "fa4", "flashinfer", "aiter", "triton", "trtllm_mla", "flashmla", "cutedsl_mla",
    "dsa",
)  # fmt: skip
LATENT_ONLY = ("trtllm_mla", "flashmla", "cutedsl_mla")
DETERMINISTIC = ("fa3", "fa4", "flashinfer", "triton")
_AITER_HEADS = (16, 128)
_RADIX = ("fa3", "fa4", "triton")
_TRTLLM_MHA_PAGES, _MLA_PAGES = (16, 32, 64, 128), (32, 64)
_WITH_SINKS = ("triton", "trtllm_mha", "fa3", "fa4")  # of those modelled
_DSA_DTYPES = ("auto", "bf16", "bfloat16", "fp8_e4m3")
_FP8 = ("fp8_e4m3", "fp8_e5m2", "fp8")


def choose(layer: Layer, gpu: Gpu) -> Choice:
    """The backend, and why each other one of SGLang's conditions is not. Raises UsageError for an unknown."""
    sm = (gpu.sm_major, gpu.sm_minor)
    if layer.backend is not None:
        if layer.backend not in BACKENDS:
            raise UsageError(
                f"SGLang's backend {layer.backend} is not modelled", hint=f"known are {', '.join(BACKENDS)}"
            )
        if layer.backend == "fa3" and layer.kv_dtype == "fp8_e5m2":
            other = RuledOut("fa3", ("its only FP8 is e4m3",))
            return Choice("triton", "what fp8_e5m2 makes of --attention-backend fa3", (other,))
        return Choice(layer.backend, "--attention-backend asks for it", ())
    if layer.mla and layer.sparse:
        why = "what SGLang sets for models with an indexer: DeepSeek V3.2, GLM 5"
        return Choice("dsa", why, (RuledOut("fa3", ("not asked: the model has an indexer",)),))
    chosen = _deepseek(layer, gpu) or _gpt_oss(layer, gpu)
    if chosen is None and layer.batch_invariant:
        chosen = deterministic(layer, gpu)
    chosen = chosen or (_mla(layer, gpu, sm) if layer.mla else _mha(layer, gpu, sm))
    if chosen.backend == "fa3" and layer.kv_dtype == "fp8_e5m2":
        return Choice("triton", "fa3's only FP8 is e4m3", (RuledOut("fa3", ("its only FP8 is e4m3",)),))
    return chosen


def _deepseek(layer: Layer, gpu: Gpu) -> Choice | None:
    """What the model's own override sets, before the defaults are asked."""
    if not (layer.mla and layer.deepseek and gpu.vendor == "nvidia" and gpu.sm_major == 10):
        return None
    others = (RuledOut("flashinfer", ("what other models with MLA take on SM 10.x",)),)
    return Choice("trtllm_mla", "what SGLang sets for DeepSeek V3, R1 and V3.1 on SM 10.x", others)


def _gpt_oss(layer: Layer, gpu: Gpu) -> Choice | None:
    """The same of models with sinks, which are OpenAI's here; the defaults agree but when deterministic."""
    if not layer.sinks or layer.mla or not layer.batch_invariant or gpu.vendor != "nvidia":
        return None
    taken = {9: "fa3", 10: "trtllm_mha"}.get(gpu.sm_major, "triton")
    return Choice(taken, "what SGLang sets for gpt-oss, deterministic or not", ())


def deterministic(layer: Layer, gpu: Gpu) -> Choice:
    """What deterministic inference falls back to where no model set a backend."""
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


def refusal(backend: str, layer: Layer, gpu: Gpu) -> str:
    """Why a server does not start with the backend, "" where it does."""
    if gpu.vendor != "nvidia":
        return ""
    return refused_arguments(backend, layer, gpu.sm_major) or _refused_backend(backend, layer, gpu.sm_major)


def refused_arguments(backend: str, layer: Layer, major: int) -> str:
    """As the resolution says it."""
    if layer.mla and layer.sparse and layer.kv_dtype not in _DSA_DTYPES:
        return f"dsa has no KV cache in {layer.kv_dtype}"
    if layer.sinks and backend not in _WITH_SINKS:
        return f"gpt-oss takes {', '.join(_WITH_SINKS)}, not {backend}"
    if layer.batch_invariant and backend not in (*DETERMINISTIC, "dsa"):
        return f"deterministic inference takes {', '.join(DETERMINISTIC)}, not {backend}"
    if layer.batch_invariant and backend == "dsa":
        return "deterministic inference has no backend for models with an indexer"
    if layer.batch_invariant and layer.mla and backend not in _RADIX:
        return f"deterministic inference of MLA takes {', '.join(_RADIX)}, not {backend}"
    if layer.batch_invariant and layer.mla and backend == "fa4" and major not in (10, 11):
        return "deterministic inference of MLA by fa4 needs SM 10.x or 11.0"
    if backend == "trtllm_mla" and major not in (10, 11, 12):
        return "trtllm_mla is for Blackwell"
    if backend == "trtllm_mla" and layer.kv_dtype not in ("auto", "bf16", "fp8_e4m3"):
        return f"trtllm_mla has no KV cache in {layer.kv_dtype}"
    if backend == "cutedsl_mla" and major != 10:
        return "cutedsl_mla is for SM 10.x"
    if backend == "cutedsl_mla" and layer.kv_dtype not in ("auto", "bf16", "bfloat16", "fp8_e4m3"):
        return f"cutedsl_mla has no KV cache in {layer.kv_dtype}"
    if backend == "trtllm_mha" and major not in (9, 10, 12):
        return "trtllm_mha is for Hopper, SM 10.x and SM 12.x"
    if backend == "trtllm_mha" and major == 12 and layer.kv_dtype == "fp8_e4m3":
        return "the prefill of trtllm_mha on SM 12.x takes no fp8_e4m3 KV cache"
    return ""


def _refused_backend(backend: str, layer: Layer, major: int) -> str:
    """As the backend says it when it is made."""
    if backend in LATENT_ONLY and not layer.mla:
        return f"{backend} attends over latents, which no MHA layer has"
    if backend == "trtllm_mha" and layer.mla:
        return "trtllm_mha has no MLA"
    if backend == "fa3" and not (major == 9 or (major == 8 and not layer.mla)):
        return "fa3 needs SM 8.x or 9.0, and 9.0 for MLA"
    return ""


def page_size(backend: str, layer: Layer, gpu_major: int) -> int:
    """Tokens of a page of the KV cache that the server settles on."""
    asked = 64 if layer.mla and layer.sparse else layer.block_size or 1
    if backend == "flashmla":
        return 64
    if backend in ("trtllm_mla", "cutedsl_mla"):
        return asked if asked in _MLA_PAGES else 64
    if backend == "trtllm_mha":
        return asked if asked in _TRTLLM_MHA_PAGES else 64
    if backend == "fa4" and gpu_major == 10 and not layer.mla:
        return 128
    return asked


def quantized(layer: Layer) -> bool:
    """Whether the KV cache is FP8."""
    return layer.kv_dtype in _FP8
