"""nsys's own reports from a timeline: rows and columns of ``nsys stats`` 2022.4, in time linear in the trace.

Each report is a list of columns under nsys's titles. What a trace does not state (a torch trace knows no
registers, say) is None. Where nsys leaves the order of equal rows open, they stand in order of time.

One difference is deliberate: nsys looks for a range's parent by coordinates in single precision and misses a
parent that begins or ends within microseconds of its child; ``Lvl``, ``NumChild``, ``ParentId`` and
``RangeStack`` are here those of the exact times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.analysis.nsys_columns import (
    Column,
    NsysReport,
    array_column,
    coded_column,
    empty_column,
    grouped_few,
    require,
    tenths,
)
from attnprof.analysis.nsys_nvtx import nvtx_kernel_summary, projection_trace
from attnprof.arrays import coded_rows
from attnprof.errors import UsageError
from attnprof.trace.tables import Int64, NsysDetails
from attnprof.trace.timeline import Timeline, build_timeline
from attnprof.trace.whole_graphs import without_whole_graphs

_MEMORY = ("Pageable", "Pinned", "Device", "Array", "Managed", "Device Static", "Managed Static", "Unknown")
_WAYS = ("Unknown", "HtoD", "DtoH", "HtoA", "AtoH", "AtoA", "AtoD", "DtoA", "DtoD", "HtoH", "PtoP")
_COPIES = (
    *(f"[CUDA memcpy {way}]" for way in _WAYS),
    *(f"[CUDA Unified Memory memcpy {way}]" for way in ("HtoD", "DtoH", "DtoD")),
)
_SET, _COPY_OR_SET = "[CUDA memset]", "[CUDA copy or set]"
_MB = 1_000_000
_SHAPE = ("GrdX", "GrdY", "GrdZ", "BlkX", "BlkY", "BlkZ")


def make_report(name: str, timeline: Timeline) -> NsysReport:
    """The report called ``name``, by nsys's new or old name.

    Raises UsageError for an unknown name, CannotTellError where the trace lacks what the report is about.
    """
    canonical = canonical_name(name)
    kernels_alone = without_whole_graphs(timeline.trace)
    if kernels_alone is not timeline.trace:
        timeline = build_timeline(kernels_alone)
    return _REPORTS[canonical](canonical, timeline)


def canonical_name(name: str) -> str:
    """nsys's present name of a report. Raises UsageError where there is no such report here."""
    found = ALIASES.get(name, name)
    if found not in _REPORTS:
        known = ", ".join(_REPORTS)
        raise UsageError(f"--report {name!r} is none of nsys's reports made here", hint=f"known: {known}")
    return found


def _kernel_summary(name: str, timeline: Timeline) -> NsysReport:
    """Kernels by name, grid and block."""
    trace = timeline.trace
    kernels = trace.kernels
    require(len(kernels) > 0, trace, "holds no CUDA kernel")
    (names, sizes), group = coded_rows([kernels.name, kernels.shape])
    made = grouped_few(
        len(names), len(kernels), lambda rows: (group[rows], kernels.end[rows] - kernels.start[rows])
    )
    order = np.argsort(-made.total, kind="stable")
    share = tenths(made.total * 100 / max(1, int(made.total.sum())))
    rows = made.code[order]

    def dims(first: int) -> list[str]:
        chosen = kernels.shapes[sizes[rows], first : first + 3]
        return [f"{x:4d} {y:4d} {z:4d}" for x, y, z in chosen.tolist()]

    total, *rest = made.columns(order)
    every = np.arange(len(rows))
    columns = (
        array_column("Time (%)", share[order]),
        total,
        array_column("Instances", made.count[order]),
        *rest,
        coded_column("GridXYZ", dims(0), every),
        coded_column("BlockXYZ", dims(3), every),
        coded_column("Name", trace.strings, names[rows]),
    )
    return NsysReport(name, columns, len(rows))


def _gpu_trace(name: str, timeline: Timeline) -> NsysReport:
    """Kernels, copies and sets in order of start."""
    trace = timeline.trace
    kernels, copies, details = trace.kernels, trace.copies, trace.details
    n, total = len(kernels), len(kernels) + len(copies)
    require(total > 0, trace, "holds no GPU work")
    start = np.concatenate([kernels.start, copies.start])
    order = np.argsort(start, kind="stable")
    is_kernel = (np.arange(total) < n)[order]

    def both(of_kernel: npt.NDArray[Any], of_copy: npt.NDArray[Any]) -> npt.NDArray[Any]:
        joined: npt.NDArray[Any] = np.concatenate([of_kernel, of_copy])[order]
        return joined

    def of_kernels(title: str, values: npt.NDArray[Any]) -> Column:
        return array_column(title, both(values, np.zeros(len(copies), values.dtype)), is_kernel)

    shape = zip(_SHAPE, kernels.shapes[kernels.shape].T, strict=True)
    columns = [
        array_column("Start (ns)", start[order]),
        array_column("Duration (ns)", both(kernels.end - kernels.start, copies.end - copies.start)),
        array_column("CorrId", both(kernels.correlation, copies.correlation)),
        *(of_kernels(title, dimension) for title, dimension in shape),
    ]
    if details is None:
        unknown = ("Reg/Trd", "StcSMem (MB)", "DymSMem (MB)", "Bytes (MB)", "Throughput (MBps)")
        columns += [empty_column(title, total) for title in (*unknown, "SrcMemKd", "DstMemKd")]
        context = empty_column("Ctx", total)
        operation = np.full(len(copies), len(_COPIES) + 1)
    else:
        columns += [
            of_kernels("Reg/Trd", details.registers),
            of_kernels("StcSMem (MB)", np.round(details.static_smem.astype(np.float64) / _MB, 3)),
            of_kernels("DymSMem (MB)", np.round(details.dynamic_smem.astype(np.float64) / _MB, 3)),
            *_copied(details, copies.end - copies.start, both, n),
        ]
        context = array_column("Ctx", both(details.context, details.copy_context))
        operation = np.where(details.copy_operation < 0, len(_COPIES), details.copy_operation)
    known = {device.index: device.name for device in trace.info.devices}
    used, device = np.unique(both(kernels.device, copies.device), return_inverse=True)
    labels = [f"{known.get(i) or ''} ({i})" for i in used.tolist()]
    names = [*trace.strings, *_COPIES, _SET, _COPY_OR_SET]
    columns += [
        coded_column("Device", labels, device.astype(np.int32)),
        context,
        array_column("Strm", both(kernels.stream, copies.stream)),
        coded_column("Name", names, both(kernels.name, (operation + len(trace.strings)).astype(np.int32))),
    ]
    return NsysReport(name, tuple(columns), total)


def _copied(
    details: NsysDetails, duration: Int64, both: Callable[..., npt.NDArray[Any]], kernels: int
) -> list[Column]:
    """Bytes, throughput (of whole bytes per second) and memory kinds; None for kernels."""
    none = np.full(kernels, -1)
    size = both(none, details.copy_bytes)
    per_second = details.copy_bytes * (1_000_000_000 // np.maximum(duration, 1))
    kinds = [*_MEMORY, None]
    return [
        array_column("Bytes (MB)", np.round(size / _MB, 3), size >= 0),
        array_column("Throughput (MBps)", both(none, np.round(per_second / _MB, 3)), size >= 0),
        coded_column("SrcMemKd", kinds, both(none, details.copy_source)),
        coded_column("DstMemKd", kinds, both(none, details.copy_destination)),
    ]


_REPORTS: dict[str, Callable[[str, Timeline], NsysReport]] = {
    "nvtx_gpu_proj_trace": projection_trace,
    "nvtx_kern_sum": nvtx_kernel_summary,
    "cuda_gpu_kern_sum": _kernel_summary,
    "cuda_gpu_trace": _gpu_trace,
}
ALIASES = {
    "nvtxgpuproj": "nvtx_gpu_proj_trace",
    "nvtxkernsum": "nvtx_kern_sum",
    "gpukernsum": "cuda_gpu_kern_sum",
    "cuda_gpu_kern_gb_sum": "cuda_gpu_kern_sum",
    "gputrace": "cuda_gpu_trace",
}
