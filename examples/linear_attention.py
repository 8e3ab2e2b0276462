"""Causal linear attention: no softmax, so no attention library is called and no attention kernel runs.

The state of each head is the running sum of k v^T over the tokens so far, a head_dim x head_dim matrix: its
size does not grow with the sequence, and nothing is split over keys. The chunked form is compared with the
token-by-token recurrence.

Runs alone, or recorded:  attnprof run -- python examples/linear_attention.py
attnprof report then says that no attention call was made.

Exit code 1 if the largest difference is above 1e-3, relative to the largest output.
"""

from __future__ import annotations

import argparse
import sys

import torch

TOLERANCE = 1e-3


def features(x: torch.Tensor) -> torch.Tensor:
    """A positive feature map in place of the softmax: elu(x) + 1."""
    return torch.nn.functional.elu(x) + 1


def recurrent(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Token by token: [batch, heads, tokens, head_dim] in and out."""
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    total = q.new_zeros(*q.shape[:2], q.shape[-1])
    outputs = []
    for qt, kt, vt in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        state = state + kt.unsqueeze(-1) * vt.unsqueeze(-2)
        total = total + kt
        weight = (qt * total).sum(-1, keepdim=True)
        outputs.append((qt.unsqueeze(-2) @ state).squeeze(-2) / weight)
    return torch.stack(outputs, dim=2)


def chunked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk: int) -> torch.Tensor:
    """The same with matrix products: within a chunk of tokens directly, across chunks through the state."""
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    total = q.new_zeros(*q.shape[:2], q.shape[-1])
    outputs = []
    for qc, kc, vc in zip(*(x.split(chunk, dim=2) for x in (q, k, v)), strict=True):
        within = (qc @ kc.transpose(-1, -2)).tril()
        weight = within.sum(-1) + (qc @ total.unsqueeze(-1)).squeeze(-1)
        outputs.append((within @ vc + qc @ state) / weight.unsqueeze(-1))
        state = state + kc.transpose(-1, -2) @ vc
        total = total + kc.sum(2)
    return torch.cat(outputs, dim=2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512, metavar="N")
    parser.add_argument("--chunk", type=int, default=64, metavar="N", help="tokens per matrix product")
    parser.add_argument("--heads", type=int, default=8, metavar="N")
    parser.add_argument("--head-dim", type=int, default=64, metavar="N")
    options = parser.parse_args()
    if min(options.tokens, options.chunk, options.heads, options.head_dim) < 1:
        parser.error("every number must be at least 1")

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = (1, options.heads, options.tokens, options.head_dim)
    q, k, v = (torch.randn(shape, device=device) for _ in range(3))
    q, k = features(q), features(k)
    expected = recurrent(q, k, v)
    difference = (chunked(q, k, v, options.chunk) - expected).abs().max().item()
    difference /= expected.abs().max().item()
    verdict = "within" if difference <= TOLERANCE else "ABOVE"
    print(
        f"linear attention of {options.tokens} tokens in chunks of {options.chunk} on {device}:"
        f" largest relative difference {difference:.1e}, {verdict} {TOLERANCE}"
    )
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
