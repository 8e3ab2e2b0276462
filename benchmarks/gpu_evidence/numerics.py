"""Step f: how the output changes with the split count, bitwise and in units of the last place."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu_evidence.decode import decode_inputs, find_forcer
from benchmarks.gpu_evidence.evidence import Evidence

_SHAPES = ((1, 512), (1, 4096), (8, 4096), (1, 32768))
_SPLITS = (1, 2, 3, 4, 8, 16, 32)


def run(evidence: Evidence) -> None:
    """Outputs for each split count against one split, on the same inputs; and each twice."""
    gpu, version = evidence.environment()
    forcer = find_forcer(gpu, version)
    if forcer is None:
        evidence.skip("numerics", "this torch takes no num_splits and its SM count was not found")
        return
    import torch

    rows: list[dict[str, Any]] = []
    for batch, seqlen_k in _SHAPES:
        torch.manual_seed(0)
        inputs = decode_inputs(batch, seqlen_k)
        one: Any = None
        for splits in _SPLITS:
            with forcer.forcing(batch, seqlen_k, splits) as call:
                if call is None or splits > -(-seqlen_k // 128):
                    continue
                first, again = call(inputs), call(inputs)
            one = first if splits == 1 else one
            if one is None:
                continue
            rows.append({
                "batch": batch, "seqlen_k": seqlen_k, "num_splits": splits,
                "repeats_bitwise": bool(torch.equal(first, again)),
                "equals_one_split_bitwise": bool(torch.equal(first, one)),
                "elements_that_differ": float((first != one).float().mean()),
                "max_ulp": max_ulp(first, one),
            })  # fmt: skip
            evidence.add("numerics", forced_by=forcer.how, rows=rows)


def max_ulp(left: Any, right: Any) -> int:
    """Largest distance between two 16-bit tensors, counted in representable numbers."""
    import torch

    def ordered(tensor: Any) -> Any:
        bits = tensor.contiguous().view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return int((ordered(left) - ordered(right)).abs().max())
