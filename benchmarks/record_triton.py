"""Records the launches of vLLM's and SGLang's Triton attention, without a GPU.

Upstream's own Python runs over tensors of device ``meta``; only ``triton.jit`` is another: it notes launches.
What the packages import besides is stood in for. SGLang's split counts are computed on the device: that
kernel runs in Triton's interpreter (TRITON_INTERPRET=1, set here).

    pip download --no-deps vllm==0.33.0 && unzip vllm-*.whl 'vllm/*.py' -d vllm-0.33.0
    python -m benchmarks.record_triton vllm vllm-0.33.0 0.33.0 tests/data/golden
    python -m benchmarks.record_triton vllm_drafts vllm-0.33.0 0.33.0 tests/data/golden
    python -m benchmarks.record_triton vllm_mla vllm-0.33.0 0.33.0 tests/data/golden
    python -m benchmarks.record_triton sglang sglang-0.5.23 0.5.23 tests/data/golden
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
ROWS, MLA_ROWS, DRAFT_ROWS = 800, 300, 400
_GPUS = (  # name, sm, SMs
    ("A100", 8, 0, 108), ("L40S", 8, 9, 142), ("H100", 9, 0, 132), ("H20", 9, 0, 78), ("B200", 10, 0, 148),
    ("RTX PRO 6000", 12, 0, 188), ("RTX 5060 Ti", 12, 0, 36), ("RTX 5070", 12, 0, 48), ("A10", 8, 6, 72),
    ("T4", 7, 5, 40),
)  # fmt: skip
_HEADS = (
    (1, 1), (8, 1), (8, 8), (16, 16), (28, 4), (32, 8), (32, 32), (64, 8), (40, 8), (16, 1), (24, 1), (48, 3),
    (12, 6), (71, 1), (128, 8), (20, 10), (14, 2), (25, 5), (7, 1), (96, 96),
)  # fmt: skip
_CONSTANTS = ("BLOCK_M", "BLOCK_Q", "BLOCK_N", "TILE_SIZE", "NUM_SEGMENTS_PER_SEQ", "MAX_KV_SPLITS")
_CAPTURED = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]  # vLLM's default, VllmConfig


class Launches(list[dict[str, Any]]):
    """What was launched since it was last emptied."""


class _Kernel:
    """In the place of a jitted function: ``kernel[grid](...)`` notes the launch."""

    def __init__(self, name: str, launches: Launches) -> None:
        self.name, self.launches = name, launches

    def __getitem__(self, grid: Any) -> Any:
        def launch(*_: Any, **given: Any) -> None:
            sizes = grid(given) if callable(grid) else grid
            kept = {key: given[key] for key in _CONSTANTS if type(given.get(key)) in (int, bool)}
            warps = given.get("num_warps")
            padded = [*map(int, sizes), 1, 1][:3]
            self.launches.append({"kernel": self.name, "grid": padded, "num_warps": warps, "constants": kept})

        return launch


class _OfClass(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __or__(cls, _: Any) -> Any:
        return cls

    __ror__ = __or__


class _Anything(metaclass=_OfClass):
    """Stands for whatever is imported and not asked."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __init_subclass__(cls, **_: Any) -> None: ...
    def __class_getitem__(cls, _: Any) -> type:
        return cls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Anything()

    def __or__(self, _: Any) -> Any:
        return self

    __ror__ = __or__


class _StandIn(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything if name[0].isupper() else _Anything()


class _Finder:
    """Every module of ``root`` is stood in for, but those put into sys.modules before."""

    def __init__(self, root: str) -> None:
        self.root = root

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] != self.root:
            return None
        return importlib.util.spec_from_loader(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def _triton(launches: Launches) -> ModuleType:
    """``triton`` as far as the host code asks it."""
    module = _StandIn("triton")
    module.jit = lambda function: _Kernel(function.__name__, launches)  # type: ignore[attr-defined]
    module.cdiv = lambda x, y: -(-x // y)  # type: ignore[attr-defined]
    module.next_power_of_2 = lambda n: 1 << (n - 1).bit_length()  # type: ignore[attr-defined]
    module.__version__ = "3.7.0"  # type: ignore[attr-defined]
    return module


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _lengths(rng: Random, most_queries: int) -> tuple[list[int], list[int]]:
    """Queries and keys of each request of a step: decoding, a few drafts, or chunks of prompts."""
    batch = rng.choice((1, 1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 32, 33, 64, 65, 100, 128, 129, 200, 256))
    longest = rng.choice((16, 100, 600, 4096, 20_000, 131_072))
    keys = [rng.randint(1, longest) for _ in range(batch)]
    if rng.random() < 0.3:
        keys = [longest] * batch
    elif rng.random() < 0.3:  # about as long as each other
        keys = [rng.randint(longest * 4 // 5, longest) for _ in keys]
        if batch > 1 and rng.random() < 0.7:
            keys[:2] = [longest * 4 // 5, longest]
    kind = rng.choice(("decode", "decode", "draft", "mixed", "prefill"))
    if kind == "decode" or most_queries == 1:
        return [1] * batch, keys
    most = {"draft": rng.randint(2, 9), "mixed": most_queries, "prefill": most_queries}[kind]
    queries = [rng.randint(1, most) if kind != "mixed" or rng.random() < 0.2 else 1 for _ in keys]
    return queries, [max(q, k) for q, k in zip(queries, keys, strict=True)]


# vLLM


def record_vllm(folder: Path, version: str, drafts: bool = False) -> Iterator[dict[str, Any]]:
    """Calls of the Triton backend: its metadata builder and unified_attention, one after the other.

    drafts: each request verifies as many queries as speculative decoding is configured for.
    """
    import torch

    launches = Launches()
    sys.meta_path.insert(0, _Finder("vllm"))
    package = folder / "vllm"
    platform = SimpleNamespace(
        fp8_dtype=lambda: torch.float8_e4m3fn, is_cuda=lambda: True, is_rocm=lambda: False
    )
    platform.is_xpu = lambda: False
    triton_utils = _StandIn("vllm.triton_utils")
    triton_utils.triton, triton_utils.tl = _triton(launches), _StandIn("tl")  # type: ignore[attr-defined]
    sys.modules["vllm.triton_utils"] = triton_utils
    for name in ("vllm.platforms", "vllm.envs"):
        sys.modules[name] = _StandIn(name)
    sys.modules["vllm.platforms"].current_platform = platform  # type: ignore[attr-defined]
    sys.modules["vllm.envs"].VLLM_BATCH_INVARIANT = False  # type: ignore[attr-defined]
    math_utils = package / "utils/math_utils.py"
    if math_utils.exists():
        _load("vllm.utils.math_utils", math_utils)
    modes = _StandIn("vllm.v1.kv_cache_interface")
    modes.KVQuantMode = SimpleNamespace(  # type: ignore[attr-defined]
        NONE=0, FP8_PER_TENSOR=1, INT8_PER_TOKEN_HEAD=2, FP8_PER_TOKEN_HEAD=3, INT4_PER_TOKEN_HEAD=4
    )
    sys.modules["vllm.v1.kv_cache_interface"] = modes
    backend = _StandIn("vllm.v1.attention.backend")
    base = type("AttentionMetadataBuilder", (_Anything,), {"__init__": _builder_base})
    backend.AttentionMetadataBuilder = base  # type: ignore[attr-defined]
    sys.modules["vllm.v1.attention.backend"] = backend
    old = package / "attention/ops/triton_unified_attention.py"
    new = package / "v1/attention/ops/triton_unified_attention.py"
    ops = _load("vllm.v1.attention.ops.triton_unified_attention", new if new.exists() else old)
    attn = None
    if new.exists():
        modules = SimpleNamespace(FULL_AND_PIECEWISE=1, FULL_DECODE_ONLY=2, FULL=3)
        config = _StandIn("vllm.config")
        config.CUDAGraphMode = modules  # type: ignore[attr-defined]
        sys.modules["vllm.config"] = config
        utils = _StandIn("vllm.v1.attention.backends.utils")
        utils.get_num_attention_heads_from_layers = lambda config, names: None  # type: ignore[attr-defined]
        sys.modules["vllm.v1.attention.backends.utils"] = utils
        attn = _load(
            "vllm.v1.attention.backends.triton_attn", package / "v1/attention/backends/triton_attn.py"
        )
    rng = Random(f"vllm {'drafts ' * drafts}{version}")
    for _ in range(DRAFT_ROWS if drafts else ROWS):
        call = _vllm_call(rng, version)
        if drafts:
            queries = rng.choice((2, 3, 4, 6, 8, 9, 12))
            lengths = {"seqlens_q": [queries] * call["batch"], "uniform_q_len": queries}
            call |= lengths | {"seqlens_k": [max(queries, each) for each in call["seqlens_k"]]}
        yield {"call": call, "expect": _vllm_launches(call, ops, attn, platform, launches)}


def _builder_base(self: Any, spec: Any, names: Any, config: Any, device: Any) -> None:
    self.kv_cache_spec, self.layer_names, self.vllm_config, self.device = spec, names, config, device


def _vllm_call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    heads, heads_k = rng.choice(_HEADS)
    queries, keys = _lengths(rng, rng.choice((12, 100, 2000)))
    head_dim = rng.choice((32, 64, 80, 96, 128, 128, 192, 256, 256, 512))
    window = rng.choice((-1, -1, -1, 1023, 4095, 127))
    return {
        "library": "vllm_triton", "version": version, "entry": "batch_paged", "batch": len(queries),
        "seqlens_q": queries, "seqlens_k": keys, "num_heads": heads, "num_heads_k": heads_k,
        "head_dim": head_dim, "dtype": rng.choice(("bf16", "bf16", "fp16", "fp8")),
        "causal": rng.random() < 0.9, "window_left": window, "window_right": 0 if window >= 0 else -1,
        "page_size": rng.choice((16, 16, 32, 64)), "cuda_graph": rng.random() < 0.5,
        "disable_split_kv": rng.random() < 0.1,
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms},
    }  # fmt: skip


def _vllm_launches(
    call: dict[str, Any], ops: ModuleType, attn: ModuleType | None, platform: Any, launches: Launches
) -> dict[str, Any]:
    import torch

    device = call["device"]
    capability = (device["sm_major"], device["sm_minor"])
    platform.is_device_capability = lambda asked: asked == capability
    platform.is_device_capability_family = lambda asked: capability[0] == asked // 10
    platform.num_compute_units = lambda: device["num_sms"]
    queries, keys, heads, heads_k = (
        call["seqlens_q"],
        call["seqlens_k"],
        call["num_heads"],
        call["num_heads_k"],
    )
    head_dim, page, tokens = call["head_dim"], call["page_size"], sum(call["seqlens_q"])
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}[call["dtype"]]
    empty = lambda *size, kind=dtype: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
    lengths, starts = empty(len(queries), kind=torch.int32), empty(len(queries) + 1, kind=torch.int32)
    table, cache = empty(len(queries), 8, kind=torch.int32), empty(64, page, heads_k, head_dim)
    more: dict[str, Any] = {}
    threshold = None
    if attn is not None:
        metadata = _vllm_metadata(call, attn, (lengths, starts, table))
        names = ("seq_threshold_3D", "num_par_softmax_segments", "softmax_segm_output", "softmax_segm_max")
        more = {name: getattr(metadata, name) for name in (*names, "softmax_segm_expsum")}
        threshold = metadata.seq_threshold_3D
        ops.is_batch_invariant = call["disable_split_kv"]  # type: ignore[attr-defined]
    launches.clear()
    error = None
    query = empty(tokens, heads, head_dim)
    try:
        ops.unified_attention(
            q=query, k=cache, v=cache, out=query, cu_seqlens_q=starts, max_seqlen_q=max(queries),
            seqused_k=lengths, max_seqlen_k=max(keys), softmax_scale=1.0, causal=call["causal"],
            window_size=(call["window_left"], call["window_right"]), block_table=table, softcap=0,
            q_descale=None, k_descale=None, v_descale=None, **more,
        )  # fmt: skip
    except (AssertionError, ZeroDivisionError) as problem:
        error = str(problem)
    return {"error": error, "threshold": threshold, "launches": [dict(one) for one in launches]}


def _vllm_metadata(call: dict[str, Any], attn: ModuleType, tensors: tuple[Any, ...]) -> Any:
    """What the backend's builder makes of the batch."""
    lengths, starts, table = tensors
    model = SimpleNamespace(
        get_num_attention_heads=lambda _: call["num_heads"], get_num_kv_heads=lambda _: call["num_heads_k"],
        get_head_size=lambda: call["head_dim"], rswa_window=None,
    )  # fmt: skip
    compilation = SimpleNamespace(
        cudagraph_mode=1 if call["cuda_graph"] else 0, cudagraph_capture_sizes=list(_CAPTURED)
    )
    config = SimpleNamespace(
        model_config=model, compilation_config=compilation, parallel_config=None,
        speculative_config=SimpleNamespace(
            num_speculative_tokens=call["uniform_q_len"] - 1, parallel_drafting=False
        ) if call.get("uniform_q_len") else None,
        scheduler_config=SimpleNamespace(max_num_seqs=256),
    )  # fmt: skip
    spec = SimpleNamespace(block_size=call["page_size"], kv_quant_mode=0)
    builder = attn.TritonAttentionMetadataBuilder(spec, [], config, "meta")
    common = SimpleNamespace(
        num_reqs=call["batch"], num_actual_tokens=sum(call["seqlens_q"]), query_start_loc=starts,
        max_query_len=max(call["seqlens_q"]), max_seq_len=max(call["seqlens_k"]), seq_lens=lengths,
        block_table_tensor=table, slot_mapping=None, causal=call["causal"],
        mm_req_doc_ranges=None, rswa_prefix_lens=None,
    )  # fmt: skip
    return builder.build(0, common)


def record_vllm_mla(folder: Path, version: str) -> Iterator[dict[str, Any]]:
    """Decode steps of TRITON_MLA: its implementation's own method over a cache of latents."""
    import torch

    launches = Launches()
    sys.meta_path.insert(0, _Finder("vllm"))
    package, platform = folder / "vllm", SimpleNamespace(is_rocm=lambda: False)
    triton_utils = _StandIn("vllm.triton_utils")
    triton_utils.triton, triton_utils.tl = _triton(launches), _StandIn("tl")  # type: ignore[attr-defined]
    platforms, envs = _StandIn("vllm.platforms"), _StandIn("vllm.envs")
    platforms.current_platform = platform  # type: ignore[attr-defined]
    workspace = _StandIn("vllm.v1.worker.workspace")
    workspace.is_workspace_manager_initialized = lambda: False  # type: ignore[attr-defined]
    sys.modules |= {
        each.__name__: each for each in (triton_utils, platforms, envs, workspace)
    }  # fmt: skip
    modes = _StandIn("vllm.v1.kv_cache_interface")
    modes.is_quantized_kv_cache = lambda name: name.startswith("fp8")  # type: ignore[attr-defined]
    sys.modules["vllm.v1.kv_cache_interface"] = modes
    operations = next(package.rglob("triton_decode_attention.py"))
    name = ".".join(operations.relative_to(folder).with_suffix("").parts)
    _load(name, operations)
    backend = _load("vllm_triton_mla", package / "v1/attention/backends/mla/triton_mla.py")
    backend.envs = envs  # type: ignore[attr-defined]
    own = vars(backend.TritonMLAImpl)
    forward = own.get("forward_mqa") or own["_forward_decode"]
    rng = Random(f"vllm mla {version}")
    for _ in range(MLA_ROWS):
        call = _vllm_mla_call(rng, version)
        batch, heads, queries = call["batch"], call["num_heads"], max(call["seqlens_q"])
        envs.VLLM_BATCH_INVARIANT = call["disable_split_kv"]  # type: ignore[attr-defined]
        empty = lambda *size, kind=torch.bfloat16: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
        state = SimpleNamespace(
            num_heads=heads, kv_lora_rank=512, qk_rope_head_dim=64, scale=1.0, kv_cache_dtype="auto",
            _sm_count=call["device"]["num_sms"], dcp_world_size=1, _v_up_proj=lambda out: out,
        )  # fmt: skip
        lengths = empty(batch, kind=torch.int32)
        decode = SimpleNamespace(block_table=empty(batch, 8, kind=torch.int32), seq_lens=lengths)
        metadata = SimpleNamespace(decode=decode, max_seq_len=max(call["seqlens_k"]), causal=True)
        rows = empty(batch * queries, heads, 576)
        arguments = [rows, empty(64, call["page_size"], 576), metadata]
        if version == "0.10.0":  # which takes the parts of the queries one by one
            arguments[:1] = [rows[..., :512], rows[..., 512:]]
        else:
            arguments.append(SimpleNamespace(_k_scale=None))
        launches.clear()
        forward(state, *arguments)
        yield {"call": call, "expect": {"error": None, "launches": [dict(one) for one in launches]}}


def _vllm_mla_call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    _, keys = _lengths(rng, 1)
    queries = rng.choice((1, 1, 1, 2, 4)) if version == "0.33.0" else 1
    return {
        "library": "vllm_triton", "version": version, "entry": "batch_mla", "batch": len(keys),
        "seqlens_q": [queries] * len(keys), "seqlens_k": [max(queries, each) for each in keys],
        "num_heads": rng.choice((1, 2, 4, 8, 16, 16, 24, 32, 64, 128, 128)), "num_heads_k": 1,
        "head_dim": 576, "head_dim_v": 512, "dtype": "bf16", "causal": True,
        "page_size": rng.choice((16, 32, 64)),
        "disable_split_kv": version != "0.10.0" and rng.random() < 0.15,
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms},
    }  # fmt: skip


# SGLang


def load_sglang(folder: Path, launches: Launches) -> tuple[Any, Any, Any]:
    """Modules of decode, extend and the backend."""
    import torch

    package = folder / "sglang"
    metadata = _load("sglang_metadata", package / "kernels/ops/attention/metadata.py")  # with the real triton
    sys.meta_path.insert(0, _Finder("sglang"))
    sys.meta_path.insert(0, _Finder("sgl_kernel"))
    real = {name: sys.modules[name] for name in ("triton", "triton.language")}
    sys.modules |= {"triton": _triton(launches), "triton.language": _StandIn("triton.language")}
    sys.modules["sglang.kernels.ops.attention.metadata"] = metadata
    utils = _StandIn("sglang.srt.utils")
    for name in ("is_hip", "is_gfx95_supported", "is_gfx1250_supported", "is_gfx942_supported", "is_xpu"):
        setattr(utils, name, lambda: False)
    utils.is_cuda = lambda: True  # type: ignore[attr-defined]
    utils.next_power_of_2 = lambda n: 1 << (n - 1).bit_length()  # type: ignore[attr-defined]
    sys.modules["sglang.srt.utils"] = utils
    modding = _StandIn("sglang.kernels.ops.attention.score_mod")
    modding.unpack_aux_tensors = lambda *_: (None, 0, 0, 0)  # type: ignore[attr-defined]
    sys.modules["sglang.kernels.ops.attention.score_mod"] = modding
    torch.cuda.get_device_capability = lambda *_: (9, 0)  # type: ignore[assignment, return-value]
    operations = package / "kernels/ops/attention"
    decode = _load("sglang.kernels.ops.attention.decode_attention", operations / "decode_attention.py")
    extend = _load("sglang.kernels.ops.attention.extend_attention", operations / "extend_attention.py")
    backend = _load(
        "sglang.srt.layers.attention.triton_backend", package / "srt/layers/attention/triton_backend.py"
    )
    sys.modules |= real  # the interpreter asks for them as it runs
    return decode, extend, backend


def record_sglang(folder: Path, version: str) -> Iterator[dict[str, Any]]:
    """Decode steps: split counts of each request and both stages; extend: the one kernel."""
    launches = Launches()
    decode, extend, backend = load_sglang(folder, launches)
    rng = Random(f"sglang {version}")
    for _ in range(ROWS):
        call = sglang_call(rng, version)
        if call["entry"] == "fwd_kvcache":
            yield {"call": call, "expect": _sglang_decode(call, decode, backend, launches)}
        else:
            extend.CUDA_CAPABILITY = (call["device"]["sm_major"], call["device"]["sm_minor"])
            yield {"call": call, "expect": sglang_extend(call, extend, launches)}


def sglang_call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    decodes = rng.random() < 0.7
    heads, heads_k = rng.choice(_HEADS)
    head_dim = rng.choice((32, 64, 80, 96, 128, 128, 192, 256))
    head_dim_v = None
    if rng.random() < 0.15:
        heads, heads_k, head_dim, head_dim_v = rng.choice((16, 32, 128)), 1, 576, 512
    queries, keys = _lengths(rng, 1 if decodes else rng.choice((12, 100, 2000)))
    return {
        "library": "sglang_triton", "version": version, "entry": "fwd_kvcache" if decodes else "batch_paged",
        "batch": len(queries), "seqlens_q": queries, "seqlens_k": keys,
        "seqlen_k": max(max(keys), rng.choice((4096, 32_768, 131_072))),
        "num_heads": heads, "num_heads_k": heads_k, "head_dim": head_dim, "head_dim_v": head_dim_v,
        "dtype": rng.choice(("bf16", "fp16")), "causal": True, "page_size": 1, "cache_seqlen": 1,
        "num_splits_arg": rng.choice((0, 0, 0, 4, 16)),
        "fixed_split_size": rng.choice((None, None, None, None, 256, 1000)),
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms},
    }  # fmt: skip


def sglang_splits(call: dict[str, Any], backend: Any) -> tuple[Any, int]:
    """The splits of each request, and the most that a request may have, as SGLang's backend asks for them."""
    import torch

    sms, tile = call["device"]["num_sms"], call["fixed_split_size"]
    most = call["num_splits_arg"] or 8
    if call["head_dim_v"]:
        most = backend._mla_decode_kv_splits_cap(most, sms, call["seqlen_k"])
    if tile is not None:  # as TritonAttnBackend.__init__
        most = (call["seqlen_k"] + tile - 1) // tile
    state = SimpleNamespace(
        static_kv_splits=False, device_core_count=sms, enable_deterministic=tile is not None,
        split_tile_size=tile, max_kv_splits=most, num_head=call["num_heads"], num_kv_head=call["num_heads_k"],
    )  # fmt: skip
    splits = torch.zeros(call["batch"], dtype=torch.int32)
    backend.TritonAttnBackend.get_num_kv_splits(state, splits, torch.tensor(call["seqlens_k"]))
    return splits, most


def _sglang_decode(call: dict[str, Any], decode: Any, backend: Any, launches: Launches) -> dict[str, Any]:
    import torch

    batch, heads, heads_k = call["batch"], call["num_heads"], call["num_heads_k"]
    head_dim_v = call["head_dim_v"] or call["head_dim"]
    splits, most = sglang_splits(call, backend)
    empty = lambda *size, kind=torch.bfloat16: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
    launches.clear()
    decode.decode_attention_fwd(
        empty(batch, heads, call["head_dim"]), empty(64, heads_k, call["head_dim"]),
        empty(64, heads_k, head_dim_v), empty(batch, heads, head_dim_v), empty(batch + 1), empty(64),
        empty(batch, heads, most, head_dim_v), empty(batch, heads, most), splits, most, 1.0, 1.0, 1.0,
        has_mla=bool(call["head_dim_v"]),
    )  # fmt: skip
    return {"error": None, "num_kv_splits": splits.tolist(), "launches": [dict(one) for one in launches]}


def sglang_extend(call: dict[str, Any], extend: Any, launches: Launches, **more: Any) -> dict[str, Any]:
    """more: what ``extend_attention_fwd`` is given beside."""
    import torch

    batch, heads, heads_k = call["batch"], call["num_heads"], call["num_heads_k"]
    head_dim, head_dim_v = call["head_dim"], call["head_dim_v"] or call["head_dim"]
    empty = lambda *size: torch.empty(size, dtype=torch.bfloat16, device="meta")  # noqa: E731
    tokens, starts = sum(call["seqlens_q"]), empty(batch + 1)
    query, out = empty(tokens, heads, head_dim), empty(tokens, heads, head_dim_v)
    keys, values = empty(64, heads_k, head_dim), empty(64, heads_k, head_dim_v)
    longest = max(call["seqlens_q"])
    launches.clear()
    if call["fixed_split_size"] is not None:  # deterministic inference
        extend.extend_attention_fwd_unified(
            query,
            out,
            keys,
            values,
            1.0,
            1.0,
            starts,
            starts,
            empty(64),
            empty(batch),
            max(call["seqlens_q"]),
        )
    else:
        new_k, new_v = empty(tokens, heads_k, head_dim), empty(tokens, heads_k, head_dim_v)
        extend.extend_attention_fwd(
            query, new_k, new_v, out, keys, values, starts, starts, empty(64), None, True, None,
            longest, 1.0, 1.0, **more,
        )  # fmt: skip
    return {"error": None, "num_kv_splits": None, "launches": [dict(one) for one in launches]}


def write_golden(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A golden file: the same bytes for the same rows, whenever it is written."""
    lines = [json.dumps(row) + "\n" for row in rows]
    path.write_bytes(gzip.compress("".join(lines).encode(), 9, mtime=0))
    print(f"{path}: {len(lines)} rows")


def main() -> int:
    library, folder, version, out = sys.argv[1:5]
    record = {
        "vllm": record_vllm, "vllm_drafts": partial(record_vllm, drafts=True), "vllm_mla": record_vllm_mla,
        "sglang": record_sglang,
    }[library]  # fmt: skip
    path = Path(out) / f"{library}_triton_{version}.jsonl.gz"
    write_golden(path, record(Path(folder), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
