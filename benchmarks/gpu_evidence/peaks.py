"""Step: what the card reaches at its best, for the share of it that an attention call reaches."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.splitting import copy_bandwidth, time_us

_DTYPES = ("bf16", "fp16")


def run(evidence: Evidence) -> None:
    """Bytes per second of a large copy, operations per second of large products of square matrices."""
    evidence.environment()
    evidence.add("peaks", copy_bytes_per_s=copy_bandwidth())
    side = evidence.scale.matrix_side
    flops = {dtype: matmul_flops(dtype, side, evidence.scale.repeats) for dtype in _DTYPES}
    evidence.add("peaks", matmul_flops_per_s=flops, matrix_side=side)


def matmul_flops(dtype: str, side: int, repeats: int) -> float:
    """Operations per second of the product of two random matrices [side, side], the median of ``repeats``.

    A multiplication and an addition are two.  The values matter: a card that draws less power for zeros would
    clock higher.
    """
    import torch

    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    a, b = (torch.randn((side, side), device="cuda", dtype=kind) for _ in "ab")
    return 2 * side**3 / (time_us(partial(torch.mm, a, b), repeats) * 1e-6)
