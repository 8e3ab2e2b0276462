"""Cross-shaped window attention of an image, against a naive implementation.

Half of the heads attend within horizontal stripes of the image, half within vertical ones, as in CSWin: each
stripe is one sequence of a batch for scaled_dot_product_attention. Vision models of this kind call attention
with many short sequences and no causal mask, where a language model has one long sequence.

Runs alone, or recorded:  attnprof run -- python examples/cswin_stripes.py

Exit code 1 if the largest difference is above 1e-2.
"""

from __future__ import annotations

import argparse
import sys

import torch

TOLERANCE = 1e-2


def to_stripes(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[batch, heads, H, W, head_dim] as [batch x stripes, heads, height x width, head_dim]."""
    batch, heads, rows, columns, dim = x.shape
    x = x.view(batch, heads, rows // height, height, columns // width, width, dim)
    return x.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, heads, height * width, dim)


def from_stripes(x: torch.Tensor, height: int, width: int, rows: int, columns: int) -> torch.Tensor:
    """The image again: what ``to_stripes`` took apart."""
    heads, dim = x.shape[1], x.shape[3]
    x = x.view(-1, rows // height, columns // width, heads, height, width, dim)
    return x.permute(0, 3, 1, 4, 2, 5, 6).reshape(-1, heads, rows, columns, dim)


def stripes(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, stripe: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both halves of the heads: [batch, heads / 2, H, W, head_dim] each, horizontal and vertical."""
    rows, columns = q.shape[2:4]
    outputs = []
    for half, (height, width) in enumerate(((stripe, columns), (rows, stripe))):
        parts = (to_stripes(x.chunk(2, dim=1)[half], height, width) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(*parts)
        outputs.append(from_stripes(out, height, width, rows, columns))
    return outputs[0], outputs[1]


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, stripe: int) -> torch.Tensor:
    """The same over the whole image at once: pixels of other stripes are masked. Float32."""
    rows, columns = q.shape[2:4]
    row, column = (axis.flatten() for axis in torch.meshgrid(
        torch.arange(rows, device=q.device), torch.arange(columns, device=q.device), indexing="ij"
    ))  # fmt: skip
    outputs = []
    for half, position in enumerate((row // stripe, column // stripe)):
        qs, ks, vs = (x.chunk(2, dim=1)[half].float().flatten(2, 3) for x in (q, k, v))
        scores = qs @ ks.transpose(-1, -2) * qs.shape[-1] ** -0.5
        scores = scores.masked_fill(position[:, None] != position[None, :], float("-inf"))
        outputs.append((scores.softmax(-1) @ vs).unflatten(2, (rows, columns)))
    return torch.cat(outputs, dim=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=28, metavar="N", help="image of N x N patches")
    parser.add_argument("--stripe", type=int, default=7, metavar="N", help="patches across a stripe")
    parser.add_argument("--heads", type=int, default=8, metavar="N")
    parser.add_argument("--head-dim", type=int, default=32, metavar="N")
    parser.add_argument("--batch", type=int, default=2, metavar="N")
    options = parser.parse_args()
    if min(options.size, options.stripe, options.heads, options.head_dim, options.batch) < 1:
        parser.error("every number must be at least 1")
    if options.size % options.stripe or options.heads % 2:
        parser.error("--size must be a multiple of --stripe, and --heads even")

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    shape = (options.batch, options.heads, options.size, options.size, options.head_dim)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    output = torch.cat(stripes(q, k, v, options.stripe), dim=1)
    difference = (output.float() - naive(q, k, v, options.stripe)).abs().max().item()
    count, length = options.batch * options.size // options.stripe, options.stripe * options.size
    verdict = "within" if difference <= TOLERANCE else "ABOVE"
    print(
        f"{count} stripes of {length} patches each way on {device}, {dtype}:"
        f" largest difference {difference:.1e}, {verdict} {TOLERANCE}"
    )
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
