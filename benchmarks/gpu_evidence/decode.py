"""One decode call of torch's flash kernel with a forced split count, where this torch can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.gpu_evidence.calls import cumulative


def can_force_splits() -> bool:
    """Whether torch's flash operator takes num_splits."""
    import torch

    schema = torch.ops.aten._flash_attention_forward.default._schema
    return any(argument.name == "num_splits" for argument in schema.arguments)


def decode_inputs(
    batch: int, seqlen_k: int, num_heads: int, num_heads_k: int, head_dim: int
) -> tuple[Any, ...]:
    """q, k, v packed for varlen, one query per sequence, bf16."""
    import torch

    def tensor(*shape: int) -> Any:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    keys = (batch * seqlen_k, num_heads_k, head_dim)
    return tensor(batch, num_heads, head_dim), tensor(*keys), tensor(*keys)


def decode_call(
    inputs: tuple[Any, ...], batch: int, seqlen_k: int, num_splits: int | None
) -> Callable[[], Any]:
    """The varlen call; ``num_splits`` None lets torch choose."""
    import torch

    cu_q, cu_k = cumulative(batch, 1), cumulative(batch, seqlen_k)
    options = {} if num_splits is None else {"num_splits": num_splits}
    operator = torch.ops.aten._flash_attention_forward

    def call() -> Any:
        return operator(*inputs, cu_q, cu_k, 1, seqlen_k, 0.0, False, False, **options)

    return call
