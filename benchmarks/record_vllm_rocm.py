"""Records which attention backend vLLM takes on AMD GPUs, by its ROCm platform's own selector.

    python benchmarks/record_vllm_rocm.py WHEEL OUT.csv.gz --count 2400

Without a GPU, as record_vllm_backends.py, with the platform of vllm/platforms/rocm.py: its facts of the
architecture are set to the row's, and AITER is taken as installed where that platform supports it; ``aiter``
is VLLM_ROCM_USE_AITER. Packed caches, and the three backends that have nothing else, are left out.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

from record_vllm_backends import COLUMNS, Upstream, rows, write

ARCHES = {"gfx90a": (9, 0), "gfx942": (9, 4), "gfx950": (9, 5)}
PACKED = ("TURBOQUANT", "ROCM_OCTAVE", "ULTRAQUANT")  # for caches of their own alone
KEPT = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla")


class Smi(types.ModuleType):
    """AMD's management library, of which only the exceptions are named."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


class RocmUpstream(Upstream):
    """The same selector on another platform."""

    def __init__(self, wheel: Path) -> None:
        sys.modules["amdsmi"] = Smi("amdsmi")
        import torch

        torch.cuda.get_device_properties = lambda *_, **__: types.SimpleNamespace(
            gcnArchName="gfx942", multi_processor_count=304, total_memory=1 << 36, name="none"
        )
        super().__init__(wheel)
        torch.cuda.get_device_properties = lambda *_, **__: types.SimpleNamespace(
            gcnArchName="gfx942", multi_processor_count=304, total_memory=1 << 36, name="none"
        )
        self.rocm = importlib.import_module("vllm.platforms.rocm")
        listed = self.rocm._get_backend_priorities
        self.rocm._get_backend_priorities = lambda *given: [
            each for each in listed(*given) if each.name not in PACKED
        ]
        asked = self

        class Platform(self.rocm.RocmPlatform):  # type: ignore[misc, name-defined]
            @classmethod
            def get_device_capability(cls, device_id: int = 0) -> Any:
                return asked.now

            @classmethod
            def get_device_name(cls, device_id: int = 0) -> str:
                return "none"

        platforms = importlib.import_module("vllm.platforms")
        platforms._current_platform = self.platform = Platform()
        self.aiter = importlib.import_module("vllm._aiter_ops")

    def on(self, arch: str, aiter: int) -> None:
        """Sets what the platform's module knows of the architecture, and what AITER answers."""
        rocm = self.rocm
        rocm._GCN_ARCH = arch
        for name in ("GFX90A", "GFX942", "GFX950"):
            setattr(rocm, f"_ON_{name}", name.lower() == arch)
        rocm._ON_MI3XX = arch in ("gfx942", "gfx950")
        rocm._ON_GFX9 = rocm._ON_CDNA = True
        for name in ("GFX1X", "GFX11", "GFX12X", "GFX1250", "RDNA", "RDNA4"):
            setattr(rocm, f"_ON_{name}", False)
        for name in ("get_cdna_version", "get_rdna_version"):
            if callable(clear := getattr(getattr(rocm, name, None), "cache_clear", None)):
                clear()
        found = rocm._ON_MI3XX  # AITER supports these alone
        self.aiter.is_aiter_found_and_supported = lambda: found
        ops = self.aiter.rocm_aiter_ops
        for name in ("is_mla_enabled", "is_mha_enabled", "is_enabled"):
            setattr(ops, name, lambda: bool(found and aiter))
        ops.is_rdna_aiter_enabled = lambda: False

    def answer_on(self, row: dict[str, Any]) -> dict[str, Any]:
        """The backend, and every reason of every other one."""
        self.configure({**row, "sm": ".".join(map(str, ARCHES[row["arch"]]))})
        self.on(row["arch"], row["aiter"])
        selector = self.selector
        given = {
            "head_size": row["head_dim"], "dtype": self.dtype(row["dtype"]),
            "kv_cache_dtype": row["kv_dtype"], "block_size": row["block_size"],
            "use_mla": bool(row["mla"]),
            "has_sink": bool(row["sinks"]), "use_sparse": bool(row["sparse"]),
            "use_mm_prefix": bool(row["mm_prefix"]),
            "use_per_head_quant_scales": bool(row["per_head_scales"]),
            "attn_type": row["attn_type"], "has_sliding_window": bool(row["window"]),
            "use_non_causal": bool(row["non_causal"]), "use_batch_invariant": bool(row["batch_invariant"]),
        }  # fmt: skip
        kept = selector.AttentionSelectorConfig._fields
        asked = selector.AttentionSelectorConfig(**{name: given[name] for name in given if name in kept})
        valid, invalid = self.platform.get_valid_backends(self.now, asked, num_heads=row["num_heads"])
        reasons = " | ".join(f"{backend.name}: {'; '.join(why)}" for backend, why in invalid.items())
        return {"backend": valid[0][0].name if valid else "", "reasons": reasons}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"
    upstream, found = RocmUpstream(options.wheel), []
    arches = list(ARCHES)
    for number, row in enumerate(rows(options.count, seed=1)):
        row |= {"arch": arches[number % 3], "aiter": number // 3 % 2}
        if row["kv_dtype"] not in KEPT:
            continue
        answer = upstream.answer_on(row)
        if "ImportError" not in answer["reasons"]:  # which only AITER itself could answer
            found.append(row | answer)
    columns = ("arch", "aiter", *(name for name in COLUMNS if name != "sm"))
    write(options.out, (*columns, "backend", "reasons"), found)
    print(f"{len(found)} rows")


if __name__ == "__main__":
    main()
