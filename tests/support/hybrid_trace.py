"""torch.profiler traces of models whose layers differ, with the kernels that are predicted for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attnprof.dispatch import predict
from attnprof.model import AttentionCall
from tests.support.generated_run import H100
from tests.support.torch_trace import DEVICE

Layer = Callable[[int], Sequence[AttentionCall]]  # from the cached keys to the calls of one decode step
_GEMM = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_cublas"
_EXPERTS = "void vllm::moe::moe_align_block_size_kernel<int>(int const*)"
_NORM = "void rms_norm_kernel<c10::BFloat16, 8>(c10::BFloat16*, c10::BFloat16 const*, float, int)"


def full(keys: int) -> list[AttentionCall]:
    """Attention to every key, 28/4 heads x 128."""
    return [AttentionCall("flash_attn", "fwd", 1, 1, keys, 28, 4, 128, causal=True)]


def sliding(keys: int) -> list[AttentionCall]:
    """Attention to the last 1,024 keys, of which the cache holds no more."""
    window = (1023, 0)
    return [AttentionCall("flash_attn", "fwd", 1, 1, min(keys, 1024), 28, 4, 128, causal=True, window=window)]


def with_encoder(keys: int) -> list[AttentionCall]:
    """Attention to every key, then to 1,500 of an encoder."""
    return [*full(keys), AttentionCall("flash_attn", "fwd", 1, 1, 1500, 28, 4, 128)]


def hybrid_trace(
    path: Path,
    layers: Sequence[Layer],
    *,
    steps: int = 6,
    keys: int = 2000,
    experts: Sequence[int] = (),
    named: bool = True,
    changes: dict[tuple[int, int], Layer] | None = None,
) -> Path:
    """Decode steps over a cache of ``keys`` and more, each layer with its calls, a GEMM and a norm.

    ``experts`` are layers with a mixture of them; ``named``: ranges name the layers. ``changes`` are layers
    that run as another from a step on.
    """
    events = [*_events(layers, steps, keys, set(experts), named, changes or {})]
    path.write_text(json.dumps({"schemaVersion": 1, "deviceProperties": [DEVICE], "traceEvents": events}))
    return path


def _events(
    layers: Sequence[Layer],
    steps: int,
    keys: int,
    experts: set[int],
    named: bool,
    changes: dict[tuple[int, int], Layer],
) -> Iterator[dict[str, Any]]:
    now, correlation = 1000.0, 1
    for step in range(1, steps + 1):
        began = now
        for layer, made in enumerate(layers):
            entered = now
            since = [begin for begin, which in changes if which == layer and begin <= step]
            calls = (changes[max(since), layer] if since else made)(keys + step)
            launches = [launch for call in calls for launch in predict(call, H100).launches]
            sizes = [(one.kernel, one.grid, one.block, 2.0 + one.grid[1]) for one in launches]
            sizes += [(_GEMM, (32, 1, 1), (384, 1, 1), 6.0), (_NORM, (1, 1, 1), (256, 1, 1), 1.5)]
            sizes += [(_EXPERTS, (4, 1, 1), (256, 1, 1), 3.0)] if layer in experts else []
            for name, grid, block, took in sizes:
                ids = {"correlation": correlation}
                yield _span("cuda_runtime", "cudaLaunchKernel", 1, 1, now, 2.0, ids)
                placed = {"device": 0, "stream": 7, "grid": list(grid), "block": list(block)}
                yield _span("kernel", name, 0, 7, now + 4, took, ids | placed)
                now, correlation = now + took + 5, correlation + 1
            if named:
                yield _span("user_annotation", f"layer={layer}", 1, 1, entered - 0.5, now - entered)
        yield _span("user_annotation", "decode", 1, 1, began - 1, now - began + 1)
        now += 20


def _span(
    category: str,
    name: str,
    pid: int,
    tid: int,
    start: float,
    took: float,
    args: dict[str, Any] | None = None,
) -> dict[str, Any]:
    where = {"pid": pid, "tid": tid, "ts": start, "dur": took}
    return {"ph": "X", "cat": category, "name": name, **where, "args": args or {}}
