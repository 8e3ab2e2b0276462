"""GPU time per kernel name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnprof.dispatch.names import parse_kernel_name
from attnprof.trace.model import Trace


@dataclass(frozen=True, slots=True)
class KernelTotal:
    """All executions of one kernel name; times in ns, ``share`` of the GPU time of all kernels (0 to 1).

    ``family`` is the attention family, "" for other kernels. ``std_ns`` is the sample standard deviation.
    """

    name: str
    short: str
    family: str
    library: str
    instances: int
    total_ns: int
    mean_ns: float
    median_ns: float
    min_ns: int
    max_ns: int
    std_ns: float
    share: float


def kernel_totals(trace: Trace) -> list[KernelTotal]:
    """One row per kernel name, longest total first."""
    kernels = trace.kernels
    duration = kernels.end - kernels.start
    order = np.lexsort((duration, kernels.name))
    duration, names = duration[order], kernels.name[order]
    first = np.flatnonzero(np.diff(names, prepend=-1))
    counts = np.diff(np.append(first, len(names)))
    if not len(first):
        return []
    totals = np.add.reduceat(duration, first)
    squares = np.add.reduceat(duration.astype(np.float64) ** 2, first)
    everything = max(1, int(totals.sum()))
    rows = []
    for start, count, total, square in zip(
        first.tolist(), counts.tolist(), totals.tolist(), squares.tolist(), strict=True
    ):
        name = trace.strings[names[start]]
        signature = parse_kernel_name(name)
        mean = total / count
        low, high = duration[start + (count - 1) // 2], duration[start + count // 2]
        variance = max(0.0, (square - count * mean * mean) / (count - 1)) if count > 1 else 0.0
        rows.append(
            KernelTotal(
                name=name,
                short=signature.kernel,
                family=signature.family if signature.is_attention else "",
                library=signature.library,
                instances=count,
                total_ns=total,
                mean_ns=mean,
                median_ns=(int(low) + int(high)) / 2,
                min_ns=int(duration[start]),
                max_ns=int(duration[start + count - 1]),
                std_ns=variance**0.5,
                share=total / everything,
            )
        )
    return sorted(rows, key=lambda row: (-row.total_ns, row.name))
