"""Records decode of SGLang's Triton backend in layers with a sliding window, without a GPU.

    python -m benchmarks.record_sglang_window sglang-0.5.23 0.5.23 tests/data/golden

As record_triton.py, from the backend's ``forward_decode`` on. Its metadata has the split counts of the whole
lengths and, marked, those of the window's: which of them a layer hands on is what is recorded.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.record_triton import Launches, _sglang_call, load_sglang, write_golden

ROWS = 120
_WINDOWS = (127, 1023, 4095)


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    launches = Launches()
    decode, _, backend = load_sglang(folder, launches)
    rng, rows = Random(f"sglang window {version}"), []
    while len(rows) < ROWS:
        call = _sglang_call(rng, version)
        if call["entry"] == "fwd_kvcache" and not call["head_dim_v"]:
            call |= {"window_left": rng.choice(_WINDOWS), "window_right": 0}
            rows.append({"call": call, "expect": _decode(call, decode, backend, launches)})
    return rows


def _decode(call: dict[str, Any], decode: Any, backend: Any, launches: Launches) -> dict[str, Any]:
    import torch

    batch, heads, heads_k, dim = (call[name] for name in ("batch", "num_heads", "num_heads_k", "head_dim"))
    tile, sms = call["fixed_split_size"], call["device"]["num_sms"]
    most = -(-call["seqlen_k"] // tile) if tile is not None else call["num_splits_arg"] or 8
    empty = lambda *size, kind=torch.bfloat16: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
    cache, lengths = empty(64, heads_k, dim), torch.tensor(call["seqlens_k"])
    handed: list[Any] = []

    def attend(*given: Any, **more: Any) -> None:
        handed.append(given[8])
        del more["enable_lean"]
        kept = {name: more[name] for name in ("logit_cap", "sinks", "page_size")}
        decode.decode_attention_fwd(*given, **kept)

    state = SimpleNamespace(
        static_kv_splits=False, device_core_count=sms, enable_deterministic=tile is not None, dcp_size=1,
        split_tile_size=tile, max_kv_splits=most, num_head=heads, num_kv_head=heads_k, use_mla=False,
        use_pdl=False, page_size=1, enable_lean_attention=False, decode_attention_fwd=attend,
        token_to_kv_pool=SimpleNamespace(get_key_buffer=lambda _: cache, get_value_buffer=lambda _: cache),
    )  # fmt: skip
    whole, cut = (torch.zeros(batch, dtype=torch.int32) for _ in range(2))
    counted = backend.TritonAttnBackend.get_num_kv_splits
    counted(state, whole, lengths)
    counted(state, cut, torch.minimum(lengths, torch.tensor(call["window_left"])))
    state.forward_metadata = SimpleNamespace(
        kv_indptr=empty(batch + 1), kv_indices=empty(64), window_kv_indptr=empty(batch + 1),
        window_kv_indices=empty(64), num_kv_splits=whole, window_num_kv_splits=cut, swa_attn_logits=None,
        attn_logits=empty(batch, heads, most, dim), attn_lse=empty(batch, heads, most), uneven_batch=None,
        lean_Mp=None, lean_Lp=None, lean_Op=None, lean_locks=None,
    )  # fmt: skip
    layer = SimpleNamespace(
        tp_q_head_num=heads, tp_k_head_num=heads_k, qk_head_dim=dim, v_head_dim=dim, scaling=1.0, layer_id=0,
        sliding_window_size=call["window_left"], k_scale=None, v_scale=None, xai_temperature_len=-1,
        logit_capping_method="tanh", logit_cap=0.0,
    )  # fmt: skip
    backend.logit_capping_mod = lambda *_: 0.0
    launches.clear()
    query = empty(batch, heads, dim)
    backend.TritonAttnBackend.forward_decode(state, query, None, None, layer, None, save_kv_cache=False)
    (splits,) = handed
    return {"error": None, "num_kv_splits": splits.tolist(), "launches": [dict(one) for one in launches]}


def main() -> int:
    folder, version, out = sys.argv[1:4]
    write_golden(Path(out) / f"sglang_triton_window_{version}.jsonl.gz", record(Path(folder), version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
