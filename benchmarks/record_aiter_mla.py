"""Records what AITER's MLA decode asks of its kernels, without a GPU.

    python -m benchmarks.record_aiter_mla aiter 0.1.20.post1 tests/data/golden

The folder is a checkout of ROCm/aiter at the tag. Its own Python, ``mla_decode_fwd`` and the functions that
size a plan, runs over tensors of device ``meta``: which first stage is asked with how many splits and heads,
what adds them up, and the refusals. The kernels' names and grids are chosen in C++, which is not run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.record_aiter import _jit
from benchmarks.record_triton import Launches, _Finder, _load, _StandIn, _triton, write_golden

ROWS = 600
_GPUS = (("MI300X", 9, 4, 304), ("MI355X", 9, 5, 256), ("MI325X", 9, 4, 304))
_DIMS = (576, 512)


class _Asked(list[dict[str, Any]]):
    """What was asked of AITER's compiled functions."""

    def stage1(self, q: Any, _: Any, qo_indptr: Any, *rest: Any) -> None:
        planned, logits = rest[4] is not None, rest[12]
        self.append(
            {"stage": "first", "heads": q.shape[1], "batch": len(qo_indptr) - 1, "planned": planned,
             "splits": None if planned else logits.shape[1]}
        )  # fmt: skip

    def reduce(self, partial: Any, _: Any, indptr: Any, *rest: Any) -> None:
        self.append({"stage": "reduce", "heads": partial.shape[-2], "tiles": len(indptr) - 1})


def load(folder: Path, launches: Launches, asked: _Asked) -> tuple[Any, Any]:
    """The modules ``aiter.mla`` and ``aiter.ops.attention``."""
    import torch

    sys.meta_path.insert(0, _Finder("aiter"))
    sys.meta_path.insert(0, _Finder("csrc"))
    triton = _triton(launches)
    triton.jit = lambda function=None, **how: _jit(function, launches, **how)  # type: ignore[attr-defined]
    sys.modules |= {"triton": triton, "triton.language": _StandIn("triton.language")}
    kinds = SimpleNamespace(
        fp8=torch.float8_e4m3fn, bf16=torch.bfloat16, fp16=torch.float16, fp32=torch.float32, i32=torch.int32
    )
    core = _StandIn("aiter.jit.core")
    core.compile_ops = lambda *_, **__: lambda function: function  # type: ignore[attr-defined]
    core.is_experimental_enabled = lambda: False  # type: ignore[attr-defined]
    sys.modules["aiter.jit.core"] = core
    sys.modules["aiter.jit.utils.chip_info"] = _StandIn("aiter.jit.utils.chip_info")
    top = _StandIn("aiter")
    top.dtypes = kinds  # type: ignore[attr-defined]
    top.mla_decode_stage1_asm_fwd = asked.stage1  # type: ignore[attr-defined]
    top.mla_reduce_v1 = asked.reduce  # type: ignore[attr-defined]
    sys.modules["aiter"] = top
    sys.modules["aiter.ops.enum"] = enum = _StandIn("aiter.ops.enum")
    enum.MlaVersion = SimpleNamespace(V32=SimpleNamespace(value=0))  # type: ignore[attr-defined]
    attention = _load("aiter.ops.attention", folder / "aiter/ops/attention.py")
    return _load("aiter.mla", folder / "aiter/mla.py"), attention


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    launches, asked = Launches(), _Asked()
    mla, attention = load(folder, launches, asked)
    rng, rows = Random(f"aiter mla {version}"), []
    for _ in range(ROWS):
        call = _call(rng, version)
        rows.append({"call": call, "expect": _decode(call, mla, attention, launches, asked)})
    return rows


def _call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    batch = rng.choice((1, 2, 3, 7, 16, 31, 32, 33, 64, 128, 250))
    longest = rng.choice((40, 300, 4096, 30_000))
    planned = rng.random() < 0.6
    return {
        "library": "aiter", "version": version, "entry": "fwd_kvcache", "batch": batch,
        "seqlen_q": 1 if planned else rng.choice((1, 1, 2, 3, 4)),
        "seqlens_k": [rng.randint(1, longest) for _ in range(batch)],
        "num_heads": rng.choice((8, 16, 16, 32, 48, 64, 80, 96, 112, 128, 128)), "num_heads_k": 1,
        "head_dim": _DIMS[0], "head_dim_v": _DIMS[1], "dtype": rng.choice(("bf16", "bf16", "fp8")),
        "plan": planned, "plan_batch": max(batch, rng.choice((batch, 256, 1024))) if planned else None,
        "num_splits_arg": None if planned else rng.choice((None, None, 1, 4)),
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms, "vendor": "amd"},
    }  # fmt: skip


def _decode(
    call: dict[str, Any], mla: Any, attention: Any, launches: Launches, asked: _Asked
) -> dict[str, Any]:
    import torch

    device = call["device"]
    for module in (mla, attention):
        module.get_gfx = lambda: f"gfx9{device['sm_minor']}{0 if device['sm_minor'] == 5 else 2}"
        module.get_cu_num = lambda: device["num_sms"]
    mla.get_meta_param.cache_clear()
    mla.torch = SimpleNamespace(**{name: getattr(torch, name) for name in dir(torch)})
    mla.torch.arange = lambda *sizes, **_: torch.arange(*sizes, dtype=torch.int32, device="meta")
    kind = torch.float8_e4m3fn if call["dtype"] == "fp8" else torch.bfloat16
    empty = lambda *size, of=torch.int32: torch.empty(size, dtype=of, device="meta")  # noqa: E731
    batch, heads, queries = call["batch"], call["num_heads"], call["seqlen_q"]
    more: dict[str, Any] = {"num_kv_splits": call["num_splits_arg"]}
    if call["plan"]:
        sizes = attention.get_mla_metadata_info_v1(
            call["plan_batch"], 1, heads, kind, kind, is_sparse=False, fast_mode=True
        )
        names = (
            "work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map",
            "reduce_partial_map",
        )  # fmt: skip
        more |= {
            name: empty(*(size if isinstance(size, tuple) else (size,)))
            for name, (size, _) in zip(names, sizes, strict=True)
        }
    launches.clear()
    asked.clear()
    error = None
    q, out = (
        empty(batch * queries, heads, _DIMS[0], of=kind),
        empty(batch * queries, heads, _DIMS[1], of=torch.bfloat16),
    )
    try:
        mla.mla_decode_fwd(
            q, empty(64, 1, 1, _DIMS[0], of=kind), out, empty(batch + 1), empty(batch + 1),
            empty(sum(call["seqlens_k"])), empty(batch), queries, q_scale=empty(1), kv_scale=empty(1), **more,
        )  # fmt: skip
    except (AssertionError, KeyError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return {
        "error": error,
        "asked": [dict(one) for one in asked],
        "launches": [dict(one) for one in launches],
    }


def main() -> int:
    folder, version, out = sys.argv[1:4]
    write_golden(Path(out) / f"aiter_mla_{version}.jsonl.gz", record(Path(folder), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
