"""The varlen workload: sequences of unequal lengths in one packed call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnprof.instrument.recorder import Recorder
from attnprof.workloads.generate import pick_device
from attnprof.workloads.kvcache import facts, heads_of, warm_up
from attnprof.workloads.spec import AttentionOptions, spread_lengths
from attnprof.workloads.varlen import Packed, cu_seqlens

if TYPE_CHECKING:
    from torch import Tensor

Attention = Callable[[Packed, Packed, Packed], "Tensor"]


def prepare(options: AttentionOptions, recorder: Recorder) -> Callable[[], dict[str, Any]]:
    """Packs random sequences; returns what attends and describes the workload.

    On a GPU flash_attn_varlen_func, else torch's varlen_attn; on a CPU one scaled_dot_product_attention per
    sequence.
    """
    import torch

    device = pick_device(options.device, recorder)
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(options.seed)
    lengths = spread_lengths(options.prompt_tokens, options.batch)
    bounds = cu_seqlens(torch.tensor(lengths)).to(device)
    heads, heads_k, dim = heads_of(options.model)
    q, k, v = (
        Packed(torch.randn(sum(lengths), n, dim, device=device, dtype=dtype), bounds, max(lengths))
        for n in (heads, heads_k, heads_k)
    )
    name, attention, note = pick_attention(device)
    if note:
        recorder.note(note)

    def layers() -> None:
        for layer in range(options.layers):
            outer = recorder.begin_layer(layer)
            attention(q, k, v)
            recorder.end_layer(outer)

    warm_up(recorder, layers)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            recorder.begin_step("prefill", max(lengths), max(lengths), options.batch)
            layers()
            recorder.end_step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        shown = "fp32" if device.type == "cpu" else "bf16"
        return facts(options, name, shown) | {"prompt_lengths": lengths}

    return run


def pick_attention(device: Any) -> tuple[str, Attention, str]:
    """(name, causal attention of packed q, k, v, what a reader must know of it) for this machine."""
    if device.type == "cpu":
        return "scaled_dot_product_attention", per_sequence, (
            "no GPU: each packed sequence goes through scaled_dot_product_attention on its own,"
            " not through a varlen kernel"
        )  # fmt: skip
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        pass
    else:
        return "flash_attn_varlen_func", _packed(flash_attn_varlen_func, {"causal": True}), ""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return "scaled_dot_product_attention", per_sequence, (
            "neither flash_attn nor torch's varlen_attn (2.10) is here: each packed sequence goes through"
            " scaled_dot_product_attention on its own"
        )  # fmt: skip
    # torch 2.10 has is_causal, later releases say it with the window; they spell GQA out.
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    note = "torch's varlen_attn takes no call records: its kernels are read back from the trace alone"
    return "varlen_attn", _packed(varlen_attn, options), note


def _packed(function: Callable[..., Any], options: dict[str, Any]) -> Attention:
    def attention(q: Packed, k: Packed, v: Packed) -> Tensor:
        bounds = (q.cu_seqlens, k.cu_seqlens, q.max_seqlen, k.max_seqlen)
        found: Tensor = function(q.values, k.values, v.values, *bounds, **options)
        return found

    return attention


def per_sequence(q: Packed, k: Packed, v: Packed) -> Tensor:
    """Causal attention of packed [total, heads, head_dim], a call per sequence."""
    import torch

    outputs = []
    for parts in zip(*(torch.split(x.values, x.lengths) for x in (q, k, v)), strict=True):
        qs, ks, vs = (x.transpose(0, 1).unsqueeze(0) for x in parts)
        groups = qs.shape[1] // ks.shape[1]
        # enable_gqa is newer than the oldest torch there is to run on.
        ks, vs = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (ks, vs))
        out = torch.nn.functional.scaled_dot_product_attention(qs, ks, vs, is_causal=True)
        outputs.append(out.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)
