"""Records what SGLang's Triton backend launches on AMD's Instinct GPUs, without one.

    python -m benchmarks.record_sglang_amd sglang-0.5.23 0.5.23 tests/data/golden

As record_triton.py, with the wheel's own switches for HIP thrown: whether decode is work-centric ("lean"), by
the functions that the backend asks, and whether extend's grid holds just the blocks that there are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.record_triton import (
    Launches,
    load_sglang,
    sglang_call,
    sglang_extend,
    sglang_splits,
    write_golden,
)

ROWS = 600
_GPUS = (("MI300X", 9, 4, 304), ("MI355X", 9, 5, 256))


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    import torch

    launches = Launches()
    decode, extend, backend = load_sglang(folder, launches)
    off = SimpleNamespace(get=lambda: False)
    decode.envs = SimpleNamespace(
        SGLANG_MLA_DECODE_TUNE=off, SGLANG_FORCE_LEAN_GRID_CU_MULT=SimpleNamespace(get=lambda: 1.0)
    )
    extend.envs = SimpleNamespace(
        SGLANG_TRITON_COMPACT_EXTEND_ATTENTION=SimpleNamespace(get=lambda: True),
        SGLANG_TRITON_FP8_PREFILL_ATTN=off,
    )
    decode._is_hip = extend._is_hip = True
    rng, rows = Random(f"sglang amd {version}"), []
    for _ in range(ROWS):
        call = sglang_call(rng, version)
        name, major, minor, sms = rng.choice(_GPUS)
        call["device"] = {"name": name, "sm_major": major, "sm_minor": minor, "num_sms": sms, "vendor": "amd"}
        call["cuda_graph"] = rng.random() < 0.3
        extend._is_gfx95 = minor == 5
        decode._NUM_CU = sms
        torch.cuda.get_device_properties = lambda *_: SimpleNamespace(  # type: ignore[assignment]
            multi_processor_count=sms  # noqa: B023
        )
        if call["entry"] == "fwd_kvcache":
            told = _decode(call, decode, backend, launches)
        else:
            told = sglang_extend(call, extend, launches, extend_seq_lens_cpu=call["seqlens_q"])
        rows.append({"call": call, "expect": told})
    return rows


def _empty(*size: int) -> Any:
    import torch

    return torch.empty(size, dtype=torch.bfloat16, device="meta")


def _decode(call: dict[str, Any], decode: Any, backend: Any, launches: Launches) -> dict[str, Any]:
    batch, heads, heads_k, dim = (call[name] for name in ("batch", "num_heads", "num_heads_k", "head_dim"))
    dim_v = call["head_dim_v"] or dim
    splits, most = sglang_splits(call, backend)
    mla, groups = dim != dim_v, heads // heads_k
    if call["fixed_split_size"] is not None:  # as forward_decode, for the automatic choice
        lean = False
    elif call["cuda_graph"]:
        lean = decode.lean_capture_policy(heads, groups, batch, mla)
    else:
        lean = decode.lean_decode_seqlen_gate(heads, groups, batch, sum(call["seqlens_k"]), mla)
    launches.clear()
    decode.decode_attention_fwd(
        _empty(batch, heads, dim), _empty(64, heads_k, dim), _empty(64, heads_k, dim_v),
        _empty(batch, heads, dim_v), _empty(batch + 1), _empty(64), _empty(batch, heads, most, dim_v),
        _empty(batch, heads, most), splits, most, 1.0, 1.0, 1.0, has_mla=mla, enable_lean=lean,
        lean_Mp=_empty(9), lean_Lp=_empty(9), lean_Op=_empty(9), lean_locks=_empty(9),
    )  # fmt: skip
    counts = None if len(launches) == 1 else splits.tolist()
    return {"error": None, "num_kv_splits": counts, "launches": [dict(one) for one in launches]}


def main() -> int:
    folder, version, out = sys.argv[1:4]
    write_golden(Path(out) / f"sglang_triton_amd_{version}.jsonl.gz", record(Path(folder), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
