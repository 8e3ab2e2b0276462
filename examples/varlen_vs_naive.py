"""Two packed sequences through a variable-length attention kernel, against a naive implementation.

Sequences of 128 and 256 tokens, 16 heads of 32, causal. On a GPU flash_attn's flash_attn_varlen_func, else
torch's own varlen_attn; without a GPU scaled_dot_product_attention, one sequence at a time.
Exit code 1 if the largest difference is above 1e-2.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import torch

LENGTHS = (128, 256)
HEADS, HEAD_DIM = 16, 32
TOLERANCE = 1e-2

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of packed [tokens, heads, head_dim], sequence by sequence, in float32."""
    outputs = []
    for qs, ks, vs in zip(*(x.float().split(LENGTHS) for x in (q, k, v)), strict=True):
        scores = torch.einsum("qhd,khd->hqk", qs, ks) * HEAD_DIM**-0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, vs))
    return torch.cat(outputs)


def per_sequence(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """scaled_dot_product_attention on each sequence, as [1, heads, tokens, head_dim]."""
    outputs = []
    for sequence in zip(*(x.split(LENGTHS) for x in (q, k, v)), strict=True):
        qs, ks, vs = (x.transpose(0, 1).unsqueeze(0) for x in sequence)
        out = torch.nn.functional.scaled_dot_product_attention(qs, ks, vs, is_causal=True)
        outputs.append(out.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


def pick_attention(device: torch.device) -> tuple[str, Attention]:
    """The best varlen attention on this machine, by name."""
    if device.type == "cpu":
        return "scaled_dot_product_attention per sequence", per_sequence
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32, device=device)
    longest = max(LENGTHS)
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        pass
    else:
        return "flash_attn_varlen_func", lambda q, k, v: flash_attn_varlen_func(
            q, k, v, bounds, bounds, longest, longest, causal=True
        )
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return "scaled_dot_product_attention per sequence", per_sequence
    # torch 2.10 has is_causal, later releases say it with the window.
    has_flag = "is_causal" in inspect.signature(varlen_attn).parameters
    causal = {"is_causal": True} if has_flag else {"window_size": (-1, 0)}
    return "torch varlen_attn", lambda q, k, v: varlen_attn(
        q, k, v, bounds, bounds, longest, longest, **causal
    )


def main() -> int:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(sum(LENGTHS), HEADS, HEAD_DIM, device=device, dtype=dtype) for _ in range(3))
    name, attention = pick_attention(device)
    difference = (attention(q, k, v).float() - naive(q, k, v)).abs().max().item()
    verdict = "within" if difference <= TOLERANCE else "ABOVE"
    print(f"{name} on {device}, {dtype}: largest difference {difference:.1e}, {verdict} {TOLERANCE}")
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
