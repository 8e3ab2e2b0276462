"""Records what vLLM's backend ROCM_ATTN launches, without a GPU.

    python -m benchmarks.record_rocm_attn vllm-0.33.0 attention_kernels.cuh 0.33.0 tests/data/golden

The wheel's own Python runs over tensors of device ``meta``, from the backend's ``forward`` on: as in
record_triton.py a launch of Triton is noted, and so is the call of ``paged_attention_rocm``, whose kernels
are HIP's: its launches are those of its host code, of csrc/rocm of the sdist (rocm_launcher.py). Whether it
is taken is answered by ``use_rocm_custom_paged_attention`` of vllm/platforms/rocm.py, cut out of its module,
which imports AMD's libraries.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks.record_triton import (
    Launches,
    _Anything,
    _Finder,
    _lengths,
    _load,
    _StandIn,
    _triton,
    write_golden,
)
from benchmarks.rocm_launcher import launches_of

ROWS = 500
PAGED = "paged_attention_rocm"  # a call of it, until its own launches take its place
_GPUS = (("MI210", 9, 0, 104), ("MI300X", 9, 4, 304), ("MI355X", 9, 5, 256))
_HEADS = (
    (32, 8), (32, 32), (28, 4), (64, 8), (16, 1), (24, 1), (17, 1), (48, 3), (40, 8), (71, 1), (14, 2), (8, 8)
)  # fmt: skip


def _custom_answer(package: Path) -> Any:
    """``use_rocm_custom_paged_attention`` of the wheel, on CDNA."""
    import torch

    tree = ast.parse((package / "platforms/rocm.py").read_text())
    name = "use_rocm_custom_paged_attention"
    own = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    space: dict[str, Any] = {"torch": torch, "on_cdna": lambda: True, "_ON_GFX1X": False}
    own.decorator_list = []
    exec(compile(ast.Module([own], []), "rocm.py", "exec"), space)
    return space[name]


def load(folder: Path, launches: Launches) -> ModuleType:
    """The backend's module over the operations of its wheel."""
    import torch

    sys.meta_path.insert(0, _Finder("vllm"))
    package = folder / "vllm"
    platform = SimpleNamespace(
        fp8_dtype=lambda: torch.float8_e4m3fnuz, is_rocm=lambda: True, is_cuda=lambda: False,
        is_cuda_alike=lambda: True, has_device_capability=lambda least: least <= 90,
        get_device_capability=lambda: (9, 4),
    )  # fmt: skip
    named = {
        name: _StandIn(f"vllm.{name}")
        for name in ("triton_utils", "platforms", "platforms.rocm", "_custom_ops", "v1.kv_cache_interface")
    }
    named["triton_utils"].triton = _triton(launches)  # type: ignore[attr-defined]
    named["triton_utils"].tl = _StandIn("tl")  # type: ignore[attr-defined]
    named["platforms"].current_platform = platform  # type: ignore[attr-defined]
    named["platforms.rocm"].use_rocm_custom_paged_attention = _custom_answer(package)  # type: ignore[attr-defined]
    named["platforms.rocm"].on_gfx1x = lambda: False  # type: ignore[attr-defined]

    def paged(out: Any, *rest: Any, **given: Any) -> None:
        table, heads_k = given["block_tables"], rest[-1]
        sizes = (*out.shape[1:2], heads_k, out.shape[2], given["block_size"], table.shape[1])
        launches.append({PAGED: (table.shape[0], *sizes, given["max_seq_len"])})

    named["_custom_ops"].paged_attention_rocm = paged  # type: ignore[attr-defined]
    named["v1.kv_cache_interface"].is_quantized_kv_cache = lambda name: name.startswith("fp8")  # type: ignore[attr-defined]
    backend = _StandIn("vllm.v1.attention.backend")
    backend.AttentionType = SimpleNamespace(  # type: ignore[attr-defined]
        DECODER="decoder", ENCODER="encoder", ENCODER_ONLY="encoder_only"
    )
    for name in ("AttentionImpl", "AttentionMetadataBuilder", "AttentionBackend"):
        setattr(backend, name, type(name, (_Anything,), {}))
    whole = _StandIn("vllm")
    whole._custom_ops = named["_custom_ops"]  # type: ignore[attr-defined]
    sys.modules |= {each.__name__: each for each in (whole, *named.values(), backend)}
    _load("vllm.utils.math_utils", package / "utils/math_utils.py")
    operations = package / "v1/attention/ops"
    for name in ("triton_prefill_attention", "prefix_prefill", "paged_attn", "chunked_prefill_paged_decode"):
        _load(f"vllm.v1.attention.ops.{name}", operations / f"{name}.py")
    return _load("vllm_rocm_attn", package / "v1/attention/backends/rocm_attn.py")


def _call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    heads, heads_k = rng.choice(_HEADS)
    queries, keys = _lengths(rng, rng.choice((12, 100, 2000)))
    if rng.random() < 0.05:
        keys[0] = rng.choice((131_072, 131_073, 200_000))
    encodes = rng.random() < 0.1
    return {
        "library": "vllm_rocm", "version": version, "entry": "varlen_fwd" if encodes else "batch_paged",
        "batch": len(queries), "seqlens_q": queries, "seqlens_k": queries if encodes else keys,
        "num_heads": heads, "num_heads_k": heads_k,
        "head_dim": rng.choice((64, 64, 64, 128, 128, 128, 128, 32, 80, 96, 160, 192, 224, 256)),
        "dtype": rng.choice(("bf16", "bf16", "bf16", "fp16", "fp32")),
        "causal": not encodes and rng.random() < 0.95, "alibi": not encodes and rng.random() < 0.1,
        "window_left": rng.choice((-1, -1, -1, -1, -1, 127, 1023)),
        "page_size": rng.choice((16, 16, 16, 16, 32, 32, 64, 544)),
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms, "vendor": "amd"},
    }  # fmt: skip


def _launches(call: dict[str, Any], module: ModuleType, launches: Launches) -> dict[str, Any]:
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[call["dtype"]]
    heads, heads_k, dim, page = call["num_heads"], call["num_heads_k"], call["head_dim"], call["page_size"]
    tokens, batch, left = sum(call["seqlens_q"]), call["batch"], call["window_left"]
    encodes = call["entry"] == "varlen_fwd"
    empty = lambda *size, kind=dtype: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
    made = module.RocmAttentionImpl(
        heads, dim, 1.0, heads_k, [0.0] * heads if call["alibi"] else None, left + 1 if left >= 0 else None,
        "auto", None, "encoder_only" if encodes else "decoder", None,
    )  # fmt: skip
    metadata = SimpleNamespace(
        num_actual_tokens=tokens, max_query_len=max(call["seqlens_q"]), max_seq_len=max(call["seqlens_k"]),
        query_start_loc=empty(batch + 1, kind=torch.int32), seq_lens=empty(batch, kind=torch.int32),
        block_table=empty(batch, 8, kind=torch.int32), causal=call["causal"],
    )  # fmt: skip
    layer = SimpleNamespace(_k_scale=None, _v_scale=None, _q_scale_float=1.0)
    cache = empty(2, 64, page, heads_k * dim).transpose(0, 1)
    launches.clear()
    error = None
    try:
        new = empty(tokens, heads_k, dim)
        made.forward(layer, empty(tokens, heads, dim), new, new, cache, metadata, empty(tokens, heads, dim))
    except AssertionError as problem:
        error = str(problem)
    return {"error": error, "launches": [] if error else [dict(one) for one in launches]}


def record(folder: Path, header: Path, version: str) -> list[dict[str, Any]]:
    launches = Launches()
    module, rng, rows = load(folder, launches), Random(f"vllm rocm {version}"), []
    for _ in range(ROWS):
        call = _call(rng, version)
        rows.append({"call": call, "expect": _launches(call, module, launches)})
    paged = [one for row in rows for one in row["expect"]["launches"] if PAGED in one]
    own = dict(zip(map(id, paged), launches_of(header, [one[PAGED] for one in paged]), strict=True))
    for row in rows:
        whole = [own.get(id(one), [one]) for one in row["expect"]["launches"]]
        row["expect"]["launches"] = [one for part in whole for one in part]
    return rows


def main() -> int:
    folder, header, version, out = sys.argv[1:5]
    write_golden(Path(out) / f"vllm_rocm_{version}.jsonl.gz", record(Path(folder), Path(header), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
