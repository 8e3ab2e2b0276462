"""Records how SGLang attends a prompt of MLA, by its own handlers, without a GPU.

    python -m benchmarks.record_sglang_methods sglang-0.5.23 0.5.23 tests/data/golden

The first argument is a folder with the Python files of an sglang wheel. The handler of each backend
(models/deepseek_common/attention_backend_handler.py) is asked for batches drawn at random, and where it takes
chunks of cached keys, ForwardBatchDeepSeekMHAMixin for their lengths; what they import is stood in for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.record_triton import _Finder, _load, _StandIn, write_golden

ROWS = 1500
_CAPACITY, _THRESHOLD = 128 * 1024, 8192  # the defaults of sglang/srt/environ.py, which is not loaded
_BACKENDS = ("fa3", "fa4", "triton", "flashinfer", "flashmla", "trtllm_mla")
_WITH_CHUNKS = ("fa3", "fa4", "flashinfer", "flashmla", "trtllm_mla")  # of choices.py
_LENGTHS = (1, 64, 100, 512, 1000, 4096, 8191, 8192, 30_000, 70_000, 140_000)


def load(folder: Path) -> tuple[Any, Any]:
    """The handler's module, and the mixin."""
    source = folder / "sglang/srt"
    sys.meta_path.insert(0, _Finder("sglang"))
    for name, value in (
        ("sglang.srt.layers.cp.utils", {"is_cp_active": lambda _: False}),
        ("sglang.srt.models.deepseek_common.utils", {"_is_hip": False}),
        ("sglang.srt.utils", {"is_gfx95_supported": lambda: False, "use_intel_amx_backend": lambda _: False}),
    ):
        stood = _StandIn(name)
        vars(stood).update(value)
        sys.modules[name] = stood
    methods = "sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods"
    _load(methods, source / "models/deepseek_common/attention_forward_methods/forward_methods.py")
    handler = _load(
        "sglang.srt.models.deepseek_common.attention_backend_handler",
        source / "models/deepseek_common/attention_backend_handler.py",
    )
    mixin = _load(
        "sglang.srt.model_executor.forward_batch_deepseek_mha_mixin",
        source / "model_executor/forward_batch_deepseek_mha_mixin.py",
    )
    return handler, mixin


def record(folder: Path, version: str) -> list[dict[str, Any]]:
    handler, mixin = load(folder)
    rng, rows = Random(f"sglang methods {version}"), []
    while len(rows) < ROWS:
        batch = rng.choice((1, 1, 2, 3, 8))
        fresh = rng.random() < 0.3
        queries = [rng.choice(_LENGTHS) for _ in range(batch)]
        before = [0 if fresh or rng.random() < 0.2 else rng.choice(_LENGTHS) for _ in range(batch)]
        call = {
            "backend": rng.choice(_BACKENDS), "sm": rng.choice(("8.0", "9.0", "10.0", "12.0")),
            "deterministic": rng.random() < 0.2, "prefill_graph": rng.random() < 0.2,
            "seqlens_q": queries, "seqlens_k": [a + b for a, b in zip(queries, before, strict=True)],
        }  # fmt: skip
        rows.append({"call": call, "expect": _answer(call, before, handler, mixin)})
    return rows


def _answer(call: dict[str, Any], before: list[int], handler: Any, mixin: Any) -> dict[str, Any]:
    import torch

    handler.is_in_tc_piecewise_cuda_graph = lambda: False
    handler.is_in_breakable_cuda_graph = lambda: call["prefill_graph"]
    deterministic = SimpleNamespace(enable_deterministic_inference=call["deterministic"])
    handler.get_exec = lambda: SimpleNamespace(deterministic=deterministic)
    handler.get_platform = lambda: SimpleNamespace(is_sm100_or_sm110=call["sm"] == "10.0")
    extend = SimpleNamespace(is_extend_without_speculative=lambda: True, is_decode=lambda: False)
    attn = SimpleNamespace(
        flashinfer_mla_disable_ragged=False, qk_rope_head_dim=64, chunked_prefix_cache_threshold=_THRESHOLD,
        disable_chunked_prefix_cache=call["backend"] not in _WITH_CHUNKS,
    )  # fmt: skip
    lengths, prefixes = torch.tensor(call["seqlens_k"]), torch.tensor(before)
    forward = SimpleNamespace(
        forward_mode=extend, extend_prefix_lens_cpu=before, seq_lens_cpu=lengths, batch_size=len(before),
        get_max_chunk_capacity=lambda: _CAPACITY,
    )  # fmt: skip
    method = handler.AttentionBackendRegistry.get_handler(call["backend"])(attn, forward)
    chunks: list[list[int]] = []
    if method.name == "MHA_CHUNKED_KV" and any(before):
        width = _CAPACITY // len(before)  # as prepare_chunked_prefix_cache_info
        number = (max(before) + width - 1) // width
        split = mixin.ForwardBatchDeepSeekMHAMixin.get_prefix_chunk_seq_lens
        chunks = split(forward, prefixes, number, width)[1].tolist()
    return {"method": method.name, "chunks": chunks}


def main() -> int:
    folder, version, out = sys.argv[1:4]
    rows = record(Path(folder), version)
    write_golden(Path(out) / f"sglang_methods_{version}.jsonl.gz", rows)
    print(json.dumps(rows[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
