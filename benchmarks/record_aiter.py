"""Records what AITER's unified attention launches, without a GPU.

    pip download --no-deps amd-aiter==0.1.7.post2.dev18 && unzip amd_aiter-*.whl 'aiter/*.py'
    python -m benchmarks.record_aiter . 0.1.7 tests/data/golden

The wheel's own Python runs over tensors of device ``meta``, as in record_triton.py; a GPU is its CUs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.record_triton import Launches, _Finder, _lengths, _load, _StandIn, _triton, write_golden

ROWS = 400
_GPUS = (("MI300X", 9, 4, 304), ("MI355X", 9, 5, 256), ("MI325X", 9, 4, 304))
_HEADS = ((64, 8), (32, 8), (32, 32), (28, 4), (16, 1), (24, 1), (48, 3), (40, 8), (71, 1), (8, 8))


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    import torch

    launches = Launches()
    sys.meta_path.insert(0, _Finder("aiter"))
    sys.modules |= {"triton": _triton(launches), "triton.language": _StandIn("triton.language")}
    types = _StandIn("aiter.ops.triton.utils.types")
    types.e4m3_dtype = torch.float8_e4m3fnuz  # type: ignore[attr-defined]
    sys.modules["aiter.ops.triton.utils.types"] = types
    operations = folder / "aiter/ops/triton"
    name = "aiter.ops.triton"
    _load(f"{name}._triton_kernels.unified_attention", operations / "_triton_kernels/unified_attention.py")
    module = _load(f"{name}.unified_attention", operations / "unified_attention.py")
    rng, rows = Random(f"aiter {version}"), []
    for _ in range(ROWS):
        call = _call(rng, version)
        rows.append({"call": call, "expect": _unified(call, module, launches)})
    return rows


def _call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    heads, heads_k = rng.choice(_HEADS)
    queries, keys = _lengths(rng, rng.choice((12, 100, 255, 256, 2000)))
    window = rng.choice((-1, -1, -1, 127))
    return {
        "library": "aiter_paged", "version": version, "entry": "batch_paged", "batch": len(queries),
        "seqlens_q": queries, "seqlens_k": keys, "num_heads": heads, "num_heads_k": heads_k,
        "head_dim": rng.choice((64, 128, 128, 256)), "dtype": rng.choice(("bf16", "fp16")),
        "causal": rng.random() < 0.95, "window_left": window, "page_size": rng.choice((16, 32, 64)),
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms, "vendor": "amd"},
    }  # fmt: skip


def _unified(call: dict[str, Any], module: Any, launches: Launches) -> dict[str, Any]:
    import torch

    module.get_num_sms = lambda: call["device"]["num_sms"]
    empty = lambda *size: torch.empty(size, dtype=torch.bfloat16, device="meta")  # noqa: E731
    batch, heads_k, dim, page = (call[name] for name in ("batch", "num_heads_k", "head_dim", "page_size"))
    query, cache = empty(sum(call["seqlens_q"]), call["num_heads"], dim), empty(64, page, heads_k, dim)
    launches.clear()
    error = None
    try:
        module.unified_attention(
            query, cache, cache, query, empty(batch + 1), max(call["seqlens_q"]), empty(batch),
            max(call["seqlens_k"]), 1.0, call["causal"], (call["window_left"], -1), empty(batch, 8), 0, None,
            None, None,
        )  # fmt: skip
    except AssertionError as problem:
        error = str(problem)
    return {"error": error, "launches": [dict(one) for one in launches]}


def main() -> int:
    folder, version, out = sys.argv[1:4]
    write_golden(Path(out) / f"aiter_unified_{version}.jsonl.gz", record(Path(folder), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
