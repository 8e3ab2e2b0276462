"""Records the tiles, warps and grids of vLLM's backend FLEX_ATTENTION, without a GPU.

    python -m benchmarks.record_vllm_flex vllm-0.33.0 0.33.0 tests/data/golden

In the running Python's torch, which is the one that the wheel requires. Block sizes and kernel options are
those of the wheel's own functions, the configuration and the grid those of Inductor; nothing is compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.record_triton import _Anything, _Finder, _load, _StandIn, write_golden

ROWS = 300
_GPUS = (  # name, compute capability, SMs, shared memory of a block
    ("T4", 7, 5, 40, 65536), ("A100", 8, 0, 108, 166912), ("L40S", 8, 9, 142, 101376),
    ("H100", 9, 0, 132, 232448), ("B200", 10, 0, 148, 232448), ("RTX 5090", 12, 0, 170, 101376),
)  # fmt: skip


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    import torch
    from torch._inductor.heuristics.template.triton import CUDAConfigHeuristic
    from torch._inductor.kernel.flex.flex_attention import flex_attention_grid

    sys.meta_path.insert(0, _Finder("vllm"))
    backend = _StandIn("vllm.v1.attention.backend")
    for name in ("AttentionImpl", "AttentionMetadataBuilder", "AttentionBackend", "AttentionMetadata"):
        setattr(backend, name, type(name, (_Anything,), {}))
    sys.modules["vllm.v1.attention.backend"] = backend
    platforms = _StandIn("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_rocm=bool)  # type: ignore[attr-defined]
    sys.modules["vllm.platforms"] = platforms
    module = _load("vllm_flex", folder / "vllm/v1/attention/backends/flex_attention.py")
    torch.cuda.is_available = lambda: True
    rng, rows = Random(f"flex {version}"), []
    asked = SimpleNamespace(
        flex_attn_q_block_size=None,
        flex_attn_kv_block_size=None,
        flex_attn_block_m=None,
        flex_attn_block_n=None,
    )
    for _ in range(ROWS):
        call = _call(rng, version)
        device = call["device"]
        capability = (device["sm_major"], device["sm_minor"])
        torch.cuda.get_device_capability = lambda *_, known=capability: known  # type: ignore[assignment]
        torch.cuda.get_device_properties = lambda *_, known=device: SimpleNamespace(  # type: ignore[assignment]
            shared_memory_per_block_optin=known["smem_per_block_optin"]
        )
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[call["dtype"]]
        query = torch.empty(1, dtype=dtype, device="meta")
        page = call["page_block_size"]
        builder = module.FlexAttentionMetadataBuilder
        sizes = builder._get_block_sizes(asked, True, page or 16, page is not None)
        options = module.get_kernel_options(query, *sizes, page is not None and sizes[1] == page)
        assert options.pop("FORCE_USE_FLEX_ATTENTION") is True
        (config,) = CUDAConfigHeuristic().get_flex_attn_fwd_configs(call["head_dim"], None, dtype)
        grid = flex_attention_grid(1, call["num_heads"], sum(call["seqlens_q"]), call["head_dim"], options)
        launch = {"grid": list(grid), "num_warps": config.num_warps, "constants": options}
        rows.append({"call": call, "expect": {"error": None, "launches": [launch]}})
    return rows


def _call(rng: Random, version: str) -> dict[str, Any]:
    name, major, minor, sms, smem = rng.choice(_GPUS)
    encodes = rng.random() < 0.3
    queries = [rng.choice((1, 1, 7, 100, 1000)) for _ in range(rng.choice((1, 2, 8, 33)))]
    heads_k = rng.choice((4, 8))
    return {
        "library": "flex_attention", "version": "2.14.0", "entry": "batch_paged", "batch": len(queries),
        "seqlens_q": queries, "seqlens_k": queries if encodes else [one + 500 for one in queries],
        "num_heads": heads_k * rng.choice((1, 4, 7)), "num_heads_k": heads_k,
        "head_dim": rng.choice((64, 80, 96, 128, 128, 192, 256, 320)),
        "dtype": rng.choice(("fp16", "fp32") if name == "T4" else ("bf16", "fp16", "fp32")),
        "causal": not encodes, "page_block_size": None if encodes else rng.choice((16, 32, 64)),
        "device": {
            "name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms, "smem_per_block_optin": smem
        },
    }  # fmt: skip


def main() -> int:
    folder, version, out = sys.argv[1:4]
    write_golden(Path(out) / f"vllm_flex_{version}.jsonl.gz", record(Path(folder), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
