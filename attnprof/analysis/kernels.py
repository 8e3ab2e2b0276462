"""GPU time per kernel name."""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.analysis.nsys_columns import grouped_few
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.trace.tables import Trace


@dataclass(frozen=True, slots=True)
class KernelTotal:
    """All executions of one kernel name; times in ns, ``share`` of the GPU time of all kernels (0 to 1).

    ``family`` is that of an attention library's kernel, planning ones too; "" for other kernels.
    ``std_ns`` is the sample standard deviation.
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
    by_name = grouped_few(
        len(trace.strings),
        len(kernels),
        lambda rows: (kernels.name[rows], kernels.end[rows] - kernels.start[rows]),
    )
    everything = max(1, int(by_name.total.sum()))
    columns = (
        by_name.code, by_name.count, by_name.total, by_name.mean,
        by_name.median, by_name.least, by_name.most, by_name.deviation,
    )  # fmt: skip
    rows = []
    for code, count, total, mean, median, least, most, deviation in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        name = trace.strings[code]
        signature = parse_kernel_name(name)
        rows.append(
            KernelTotal(
                name=name,
                short=signature.kernel,
                family=signature.family if signature.library else "",
                library=signature.library,
                instances=count,
                total_ns=total,
                mean_ns=mean,
                median_ns=median,
                min_ns=least,
                max_ns=most,
                std_ns=deviation,
                share=total / everything,
            )
        )
    return sorted(rows, key=lambda row: (-row.total_ns, row.name))
