"""Records what decode of vLLM's backend TURBOQUANT launches, without a GPU.

    python -m benchmarks.record_turboquant vllm-0.33.0 0.33.0 tests/data/golden

The wheel's own Python runs over tensors of device ``meta``, from the backend's ``_decode_attention`` on as
in record_triton.py. The splits are the default of its configuration, read out of vllm/config/attention.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.record_triton import Launches, _Anything, _Finder, _load, _StandIn, _triton, write_golden

ROWS = 120
_GPUS = (("H100", 9, 0, 132), ("L40S", 8, 9, 142), ("B200", 10, 0, 148), ("T4", 7, 5, 40))
_HEADS = ((32, 8), (32, 32), (28, 4), (64, 8), (16, 1), (71, 1), (40, 8))
_KINDS = ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc")


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    package, launches = folder / "vllm", Launches()
    sys.meta_path.insert(0, _Finder("vllm"))
    named = {name: _StandIn(f"vllm.{name}") for name in ("triton_utils", "platforms", "v1.worker.workspace")}
    triton_utils, platforms, workspace = named.values()
    triton_utils.triton, triton_utils.tl = _triton(launches), _StandIn("tl")  # type: ignore[attr-defined]
    platforms.current_platform = SimpleNamespace(is_cuda_alike=bool, is_rocm=bool)  # type: ignore[attr-defined]
    workspace.is_workspace_manager_initialized = lambda: False  # type: ignore[attr-defined]
    backend = _StandIn("vllm.v1.attention.backend")
    for name in ("AttentionImpl", "AttentionMetadataBuilder", "AttentionBackend", "AttentionMetadata"):
        setattr(backend, name, type(name, (_Anything,), {}))
    sys.modules |= {each.__name__: each for each in (*named.values(), backend)}
    config = "model_executor/layers/quantization/turboquant/config"
    configs = _load(f"vllm.{config.replace('/', '.')}", package / f"{config}.py")
    for name in ("triton_decode_attention", "triton_turboquant_decode"):
        _load(f"vllm.v1.attention.ops.{name}", package / f"v1/attention/ops/{name}.py")
    module = _load("vllm_turboquant", package / "v1/attention/backends/turboquant_attn.py")
    stated = re.search(
        r"tq_max_kv_splits_for_cuda_graph: int = (\d+)", (package / "config/attention.py").read_text()
    )
    assert stated is not None
    rng, rows = Random(f"turboquant {version}"), []
    for _ in range(ROWS):
        call = _call(rng, version)
        launches.clear()
        _decode(call, module, configs, int(stated[1]))
        rows.append({"call": call, "expect": {"error": None, "launches": [dict(one) for one in launches]}})
    return rows


def _call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    heads, heads_k = rng.choice(_HEADS)
    batch = rng.choice((1, 2, 3, 8, 33, 64, 256, 1000))
    return {
        "library": "vllm_triton", "version": version, "entry": "batch_decode", "batch": batch,
        "seqlens_q": [1] * batch, "seqlens_k": [rng.randint(1, 40_000)] * batch,
        "num_heads": heads, "num_heads_k": heads_k, "head_dim": rng.choice((64, 128, 128, 256)),
        "dtype": rng.choice(("bf16", "fp16")), "causal": True, "page_size": rng.choice((16, 32)),
        "kv_dtype": rng.choice(_KINDS),
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms},
    }  # fmt: skip


def _decode(call: dict[str, Any], module: Any, configs: Any, most: int) -> None:
    import torch

    empty = lambda *size, kind=torch.bfloat16: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
    batch, heads, heads_k, dim = (call[name] for name in ("batch", "num_heads", "num_heads_k", "head_dim"))
    config = configs.TurboQuantConfig.from_cache_dtype(call["kv_dtype"], dim)
    made = SimpleNamespace(
        head_size=dim, max_num_kv_splits=most, num_heads=heads, num_kv_groups=heads // heads_k,
        tq_config=config, scale=1.0, sinks=None, sliding_window=None, _use_flydsl=False,
    )  # fmt: skip
    metadata = SimpleNamespace(
        block_table=empty(batch, 8, kind=torch.int32), seq_lens=empty(batch, kind=torch.int32),
        max_seq_len=max(call["seqlens_k"]),
    )  # fmt: skip
    rotation, cache = empty(dim, dim, kind=torch.float32), empty(64, call["page_size"], heads_k, 4 * dim)
    decode = module.TurboQuantAttentionImpl._decode_attention
    query = empty(batch, heads, dim)
    decode(made, query, cache, metadata, rotation, empty(8, kind=torch.float32), rotation, SimpleNamespace())


def main() -> int:
    folder, version, out = sys.argv[1:4]
    write_golden(Path(out) / f"vllm_turboquant_{version}.jsonl.gz", record(Path(folder), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
