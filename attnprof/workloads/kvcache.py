"""The kvcache workload: decode steps that append to a cache, as an inference server calls flash_attn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnprof.errors import UsageError
from attnprof.instrument.recorder import Recorder
from attnprof.workloads.generate import pick_device
from attnprof.workloads.presets import find_preset, preset_name
from attnprof.workloads.spec import AttentionOptions, spread_lengths

if TYPE_CHECKING:
    from torch import Tensor


def prepare(options: AttentionOptions, recorder: Recorder) -> Callable[[], dict[str, Any]]:
    """Fills the caches; returns what decodes and describes the workload.

    Raises UsageError without a GPU or flash_attn: no other library takes these calls, and none stands in.
    """
    import torch

    absent = [] if torch.cuda.is_available() and options.device != "cpu" else ["an NVIDIA GPU"]
    try:
        from flash_attn import flash_attn_with_kvcache
    except ImportError:
        absent.append("flash_attn")
    if absent:
        raise UsageError(
            f"--workload kvcache runs flash_attn_with_kvcache, which needs {' and '.join(absent)}",
            hint="attnprof predict --entry fwd_kvcache --seqlen-k N tells its dispatch without either",
        )
    device = pick_device(options.device, recorder)
    torch.manual_seed(options.seed)
    heads, heads_k, dim = heads_of(options.model)
    lengths = spread_lengths(options.prompt_tokens, options.batch)
    capacity = options.prompt_tokens + options.max_new_tokens
    caches = [_cache(options, capacity, heads_k, dim, device) for _ in range(options.layers)]
    table = _block_table(options, capacity, device)
    held = torch.tensor(lengths, dtype=torch.int32, device=device)

    def step(keys: Tensor) -> None:
        for layer, (k_cache, v_cache) in enumerate(caches):
            q = torch.randn(options.batch, 1, heads, dim, device=device, dtype=torch.bfloat16)
            k, v = (
                torch.randn(options.batch, 1, heads_k, dim, device=device, dtype=torch.bfloat16)
                for _ in range(2)
            )
            outer = recorder.begin_layer(layer)
            paged = {} if table is None else {"block_table": table}
            flash_attn_with_kvcache(
                q, k_cache, v_cache, k=k, v=v, cache_seqlens=keys, causal=True,
                num_splits=options.num_splits, **paged,
            )  # fmt: skip
            recorder.end_layer(outer)

    warm_up(recorder, lambda: step(held))

    def run() -> dict[str, Any]:
        for token in range(options.max_new_tokens):
            recorder.begin_step("decode", 1, options.prompt_tokens + token + 1, options.batch)
            step(held + token)
            recorder.end_step()
        torch.cuda.synchronize()
        return facts(options, "flash_attn_with_kvcache", "bf16") | {
            "prompt_lengths": lengths,
            "max_new_tokens": options.max_new_tokens,
            "page_size": options.page_size,
            "num_splits": options.num_splits,
        }

    return run


def _cache(options: AttentionOptions, capacity: int, heads_k: int, dim: int, device: Any) -> tuple[Any, Any]:
    """K and V: [batch, capacity, heads_k, dim], or [pages, page_size, heads_k, dim]."""
    import torch

    blocks, size = options.batch, capacity
    if options.page_size is not None:
        size = options.page_size
        blocks = options.batch * -(-capacity // size)
    shape = (blocks, size, heads_k, dim)
    k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(2))
    return k, v


def _block_table(options: AttentionOptions, capacity: int, device: Any) -> Any:
    """Which pages each sequence holds, int32 [batch, pages per sequence], in no order; None if not paged."""
    import torch

    if options.page_size is None:
        return None
    pages = -(-capacity // options.page_size)
    order = torch.randperm(options.batch * pages, device=device)
    return order.to(torch.int32).view(options.batch, pages)


def heads_of(model: str) -> tuple[int, int, int]:
    """(query heads, key heads, head_dim) of a preset."""
    preset = find_preset(model)
    assert preset is not None  # AttentionOptions let nothing else through
    return preset.num_heads, preset.num_heads_k, preset.head_dim


def facts(options: AttentionOptions, function: str, dtype: str) -> dict[str, Any]:
    """What workload.json says of attention calls without a model around them."""
    heads, heads_k, dim = heads_of(options.model)
    return {
        "model": {
            "name": f"{options.kind} with the heads of {preset_name(options.model)}",
            "num_layers": options.layers, "num_heads": heads, "num_heads_k": heads_k, "head_dim": dim,
            "dtype": dtype,
        },
        "attn_implementation": function,
        "batch": options.batch,
        "prompt_tokens": options.prompt_tokens,
        "seed": options.seed,
    }  # fmt: skip


def warm_up(recorder: Recorder, call: Callable[[], None]) -> None:
    """Calls once, unrecorded, inside the range "warmup": the first call loads kernels."""
    warmup = recorder.ranges.channel("warmup")
    recorder.paused = True
    warmup.push(0)
    try:
        call()
    finally:
        warmup.pop()
        recorder.paused = False
