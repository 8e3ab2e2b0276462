"""Records what AITER's unified attention launches, without a GPU.

    pip download --no-deps amd-aiter==0.1.7.post2.dev18 && unzip amd_aiter-*.whl 'aiter/*.py'
    python -m benchmarks.record_aiter . 0.1.7 tests/data/golden

A later one is no package: the folder is then a checkout of ROCm/aiter at the tag, here v0.1.20.post1.

    python -m benchmarks.record_aiter aiter 0.1.20.post1 tests/data/golden

AITER's own Python runs over tensors of device ``meta``, as in record_triton.py; a GPU is its CUs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.record_triton import (
    Launches,
    _Finder,
    _Kernel,
    _lengths,
    _load,
    _StandIn,
    _triton,
    write_golden,
)

ROWS = 400
_GPUS = (("MI300X", 9, 4, 304), ("MI355X", 9, 5, 256), ("MI325X", 9, 4, 304))
_DIMS = (64, 128, 128, 256)
_DTYPES = ("bf16", "bf16", "fp16", "fp8")
_HEADS = ((64, 8), (32, 8), (32, 32), (28, 4), (16, 1), (24, 1), (48, 3), (40, 8), (71, 1), (8, 8))


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    import torch

    launches = Launches()
    sys.meta_path.insert(0, _Finder("aiter"))
    triton = _triton(launches)
    triton.jit = lambda function=None, **how: _jit(function, launches, **how)  # type: ignore[attr-defined]
    sys.modules |= {"triton": triton, "triton.language": _StandIn("triton.language")}
    types = _StandIn("aiter.ops.triton.utils.types")
    types.e4m3_dtype = torch.float8_e4m3fnuz  # type: ignore[attr-defined]
    sys.modules["aiter.ops.triton.utils.types"] = types
    operations = folder / "aiter/ops/triton"
    newer = (operations / "attention").is_dir()
    name = "aiter.ops.triton"
    for asked in ("utils._triton", "_triton_kernels.flash_attn_triton_amd.utils"):
        sys.modules[f"{name}.{asked}"] = _architecture(f"{name}.{asked}")
    inner = "attention." if newer else ""
    if newer:
        _load(f"{name}.utils._triton.kernel_repr", operations / "utils/_triton/kernel_repr.py")
    for module_name in (f"_triton_kernels.{inner}unified_attention", f"{inner}unified_attention"):
        path = operations / f"{module_name.replace('.', '/')}.py"
        module = _load(f"{name}.{module_name}", path)
    rng, rows = Random(f"aiter {version}"), []
    for _ in range(ROWS):
        call = _call(rng, version, (*_DIMS, 32, 96, 512) if newer else _DIMS)
        if newer:  # FP8 caches, odd pages, and sinks, which change no launch
            call |= {"page_size": rng.choice((1, 16, 16, 32, 48, 64, 128)), "dtype": rng.choice(_DTYPES)}
        rows.append({"call": call, "expect": _unified(call, module, launches)})
    return rows


class _Spelled(_Kernel):
    """A kernel that spells constants of its launch out in its name."""

    def __init__(self, name: str, launches: Launches, spell: Any) -> None:
        super().__init__(name, launches)
        self.spell = spell

    def __getitem__(self, grid: Any) -> Any:
        noted = super().__getitem__(grid)

        def launch(*args: Any, **given: Any) -> None:
            noted(*args, **given)
            self.launches[-1]["kernel"] = self.spell(SimpleNamespace(constants=given))

        return launch


def _jit(function: Any, launches: Launches, **how: Any) -> Any:
    """``triton.jit``, plain or with its arguments: ``repr`` names the kernel by what it was compiled for."""
    if function is None:
        return lambda given: _jit(given, launches, **how)
    name = function.__name__
    return _Spelled(name, launches, how["repr"]) if "repr" in how else _Kernel(name, launches)


def _architecture(name: str) -> Any:
    """Neither RDNA nor gfx1250: what the host code asks of an Instinct's."""
    module = _StandIn(name)
    module.get_arch = lambda: SimpleNamespace(name="gfx942", is_rdna=False)  # type: ignore[attr-defined]
    module.arch_info = SimpleNamespace(get_arch=lambda: "gfx942")  # type: ignore[attr-defined]
    return module


def _call(rng: Random, version: str, dims: tuple[int, ...]) -> dict[str, Any]:
    name, major, minor, sms = rng.choice(_GPUS)
    heads, heads_k = rng.choice(_HEADS)
    queries, keys = _lengths(rng, rng.choice((12, 100, 255, 256, 2000)))
    window = rng.choice((-1, -1, -1, 127))
    return {
        "library": "aiter_paged", "version": version, "entry": "batch_paged", "batch": len(queries),
        "seqlens_q": queries, "seqlens_k": keys, "num_heads": heads, "num_heads_k": heads_k,
        "head_dim": rng.choice(dims), "dtype": rng.choice(("bf16", "fp16")),
        "causal": rng.random() < 0.95, "window_left": window, "page_size": rng.choice((16, 32, 64)),
        "device": {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms, "vendor": "amd"},
    }  # fmt: skip


def _unified(call: dict[str, Any], module: Any, launches: Launches) -> dict[str, Any]:
    import torch

    module.get_num_sms = lambda: call["device"]["num_sms"]
    kind = torch.float8_e4m3fnuz if call["dtype"] == "fp8" else torch.bfloat16
    empty = lambda *size: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
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
