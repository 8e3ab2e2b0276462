"""Padded batches and packed ones: [batch, tokens, …] against [sum of lengths, …] with cu_seqlens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences one behind the other, without padding.

    ``values`` is [total, …]; sequence i is ``values[cu_seqlens[i]:cu_seqlens[i + 1]]``. ``cu_seqlens`` is
    int32 [batch + 1] on the device of the values, as flash_attn_varlen_func takes it; ``max_seqlen`` is the
    longest sequence in tokens.
    """

    values: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        found: list[int] = self.cu_seqlens.diff().tolist()
        return found


def cu_seqlens(lengths: Tensor) -> Tensor:
    """Where each sequence begins, and the total: int32 [batch + 1] from lengths [batch]."""
    import torch

    sums = lengths.cumsum(0, dtype=torch.int32)
    return torch.nn.functional.pad(sums, (1, 0))


def pack(padded: Tensor, lengths: Tensor) -> Packed:
    """The sequences of ``padded`` [batch, tokens, …] without their padding, which stands on the right.

    lengths: tokens of each sequence, integers [batch].  Raises ValueError where they do not fit ``padded``.
    """
    import torch

    lengths = lengths.to(padded.device)
    if padded.dim() < 2 or lengths.shape != padded.shape[:1]:
        raise ValueError(f"{tuple(lengths.shape)} lengths do not fit a batch of shape {tuple(padded.shape)}")
    tokens = padded.shape[1]
    if bool((lengths < 0).any()) or bool((lengths > tokens).any()):
        raise ValueError(f"lengths must be 0 to {tokens}, the padded length: {lengths.tolist()}")
    kept = torch.arange(tokens, device=padded.device) < lengths[:, None]
    longest = int(lengths.max()) if lengths.numel() else 0
    return Packed(padded[kept], cu_seqlens(lengths), longest)


def unpack(packed: Packed, tokens: int | None = None, fill: float = 0.0) -> Tensor:
    """The padded form [batch, tokens, …] again; ``tokens`` defaults to the longest sequence.

    Raises ValueError where a sequence is longer than ``tokens``.
    """
    import torch

    tokens = packed.max_seqlen if tokens is None else tokens
    if tokens < packed.max_seqlen:
        raise ValueError(f"a sequence of {packed.max_seqlen} tokens does not fit into {tokens}")
    lengths = packed.cu_seqlens.diff()
    kept = torch.arange(tokens, device=packed.values.device) < lengths[:, None]
    padded = packed.values.new_full((len(lengths), tokens, *packed.values.shape[1:]), fill)
    padded[kept] = packed.values
    return padded
