"""The tables every reader fills: kernels, API calls, ranges, and what is known of the machine.

Arrays of one table have one element per row. Times are int64 nanoseconds on the trace's own clock.
Texts are stored once in ``Trace.strings`` and referred to by index. Indices and ids, ``Narrow``, are of the
narrowest type that holds them, so that tens of millions of rows fit the memory: widen them before arithmetic.
A column that is one value throughout may be a broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from attnprof.arrays import Narrow, blocks, taken

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

TraceFormat = Literal["nsys-sqlite", "torch-json"]
WHOLE_GRAPH = "CUDA graph recorded whole"  # the name of a row among the kernels that is a whole graph


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as the trace names it; a field the trace does not state is None."""

    index: int
    name: str | None = None
    num_sms: int | None = None
    sm_major: int | None = None
    sm_minor: int | None = None
    smem_per_sm: int | None = None
    smem_per_block_optin: int | None = None


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """Where a trace came from and what it can and cannot answer.

    ``whole_graph_launches`` counts CUDA graph launches recorded without their kernels.
    ``notes`` are sentences for the reader of a report: rows skipped, ranges lost, a cut file.
    """

    path: str
    format: TraceFormat
    exporter: str | None = None
    schema: str | None = None
    devices: tuple[Device, ...] = ()
    whole_graph_launches: int = 0
    nvtx_domains: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def device(self, index: int) -> Device | None:
        """The GPU that kernels name by ``index``: the one so described, or any where all are alike.

        ROCm numbers a machine's CPUs among its devices, so a kernel's index may be none that is described.
        """
        exact = next((device for device in self.devices if device.index == index), None)
        if exact is None and len({replace(device, index=0) for device in self.devices}) == 1:
            return replace(self.devices[0], index=index)
        return exact


@dataclass(frozen=True, slots=True)
class Kernels:
    """GPU kernels, sorted by (start, -end).

    ``name`` indexes strings (the demangled name, in the recorder's spelling). ``shape`` indexes ``shapes``,
    the distinct grids and blocks in order, (m, 6), zeros where the trace does not say. ``correlation`` is -1
    and ``graph_node`` 0 where absent. ``pid`` is the launching process (0 where the trace does not say).
    """

    start: Int64
    end: Int64
    name: Narrow
    device: Narrow
    stream: Narrow
    pid: Narrow
    correlation: Narrow
    graph_node: Narrow
    shape: Narrow
    shapes: Int32

    def __len__(self) -> int:
        return len(self.start)

    @property
    def grid(self) -> Int32:
        """Thread blocks along x, y and z of each kernel, (n, 3)."""
        return self.shapes[self.shape, :3]

    @property
    def block(self) -> Int32:
        """Threads along x, y and z of each kernel's blocks, (n, 3)."""
        return self.shapes[self.shape, 3:]


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies and sets of GPU memory, sorted by (start, -end); columns as in ``Kernels``."""

    start: Int64
    end: Int64
    device: Narrow
    stream: Narrow
    pid: Narrow
    correlation: Narrow

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class ApiCalls:
    """Calls into the CUDA runtime and driver, sorted by (start, -end); ``thread`` is a globally unique id."""

    start: Int64
    end: Int64
    name: Narrow
    pid: Narrow
    thread: Int64
    correlation: Narrow

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Annotated CPU ranges (NVTX push/pop and start/end, record_function), sorted by (start, -end).

    ``payload`` is the integer payload, meaningful where ``has_payload``; ``domain`` indexes strings, the
    default domain being the empty string. ``nested`` is True for push/pop ranges, which close in order.
    """

    start: Int64
    end: Int64
    name: Narrow
    domain: Narrow
    thread: Int64
    pid: Narrow
    payload: Int64
    has_payload: Bool
    nested: Bool

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class AttentionOps:
    """Attention operators with the arguments a torch trace recorded, sorted by (start, -end).

    ``dims`` and ``dtypes`` have one entry per argument, ``()`` and ``""`` where it is no tensor;
    ``inputs`` is the argument's value as text, "" for tensors. ``correlations`` are the launches inside.
    """

    start: Int64
    end: Int64
    name: Int32
    pid: Int32
    thread: Int64
    dims: tuple[tuple[tuple[int, ...], ...], ...]
    dtypes: tuple[tuple[str, ...], ...]
    inputs: tuple[tuple[str, ...], ...]
    correlations: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class GraphNodes:
    """Nodes of CUDA graphs: ``node`` is what ``Kernels.graph_node`` names, within its process.

    ``start``, ``end`` and ``thread`` are those of the call that captured the node, in time on the CPU.
    """

    node: Narrow
    pid: Narrow
    start: Int64
    end: Int64
    thread: Int64

    def __len__(self) -> int:
        return len(self.node)


@dataclass(frozen=True, slots=True)
class NodeNames:
    """What nodes of CUDA graphs were called where they were captured, a row per ``node`` and process.

    ``name`` indexes strings: an annotation of the program's, or the operator that launched the node.
    ``layer`` is -1 and ``phase`` 0 where neither tells it.
    """

    node: Narrow
    pid: Narrow
    name: Narrow
    layer: Narrow
    phase: Narrow

    def __len__(self) -> int:
        return len(self.node)


@dataclass(frozen=True, slots=True)
class NsysDetails:
    """What an nsys export states beyond the tables; nsys's own reports show it. Sizes are in bytes.

    Of ranges: ``range_id``, their row in NVTX_EVENTS, and ``crosses``, that they ended on another thread than
    they began on. Of kernels: ``context``, ``registers`` per thread, ``static_smem`` and ``dynamic_smem``.
    Of copies: ``copy_context``, ``copy_bytes``, ``copy_operation`` (CUPTI's copy kind, -1 for a set) and
    the kinds of memory ``copy_source`` and ``copy_destination``, -1 where none is stated.
    """

    range_id: Int64
    crosses: Bool
    context: Narrow
    registers: Narrow
    static_smem: Narrow
    dynamic_smem: Narrow
    copy_context: Narrow
    copy_bytes: Int64
    copy_operation: Narrow
    copy_source: Narrow
    copy_destination: Narrow


@dataclass(frozen=True, slots=True)
class ModuleCalls:
    """Calls of a model's modules of a known kind, on the CPU, sorted by (start, -end).

    ``kind`` is a place in model.MODULE_KINDS, as the profiler's name of the module's class tells it.
    """

    start: Int64
    end: Int64
    kind: Narrow
    pid: Narrow
    thread: Int64

    def __len__(self) -> int:
        return len(self.start)


Rows = TypeVar("Rows", Kernels, Copies, ApiCalls, Ranges, ModuleCalls)


def rows_in_order(table: Rows) -> Rows:
    """The table with its rows sorted by (start, -end); itself where they are."""
    order = time_order(table.start, table.end)
    if order is None:
        return table
    columns = {f.name: getattr(table, f.name) for f in fields(table) if f.name != "shapes"}
    return replace(table, **{name: taken(values, order) for name, values in columns.items()})


def in_time_order(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns, ``start`` and ``end`` among them, as :func:`rows_in_order`; each replaces the unsorted one."""
    order = time_order(columns["start"], columns["end"])
    if order is not None:
        for name in columns:
            columns[name] = taken(columns[name], order)
    return columns


def time_order(start: Int64, end: Int64) -> Int64 | None:
    """The order by (start, -end), equal rows as they stand; None where the rows have it already."""
    if all(
        _sorted(start[rows.start : rows.stop + 1], end[rows.start : rows.stop + 1])
        for rows in blocks(len(start))
    ):
        return None
    return np.lexsort((-end, start))


def _sorted(start: Int64, end: Int64) -> bool:
    later, together = start[1:] > start[:-1], start[1:] == start[:-1]
    return bool(np.all(later | (together & (end[1:] <= end[:-1]))))


def no_copies() -> Copies:
    """The table without rows."""
    times, ids = np.empty(0, np.int64), np.empty(0, np.int32)
    return Copies(times, times, ids, ids, ids, times)


@dataclass(frozen=True, slots=True)
class Trace:
    """One recorded trace.

    ``attention_ops`` is None where the recorder keeps no arguments, ``details`` where they were not read,
    ``graph_nodes`` where no capture of a CUDA graph was recorded, ``modules`` where the recorder names none,
    ``node_names`` where nobody named any node.
    """

    info: TraceInfo
    kernels: Kernels
    api_calls: ApiCalls
    ranges: Ranges
    strings: list[str] = field(default_factory=list)
    copies: Copies = field(default_factory=no_copies)
    attention_ops: AttentionOps | None = None
    details: NsysDetails | None = None
    graph_nodes: GraphNodes | None = None
    modules: ModuleCalls | None = None
    node_names: NodeNames | None = None

    @property
    def num_kernels(self) -> int:
        """How many kernels it holds: CUDA graphs recorded whole have rows among them, but are none."""
        if not self.info.whole_graph_launches:
            return len(self.kernels)
        graphs = [index for index, text in enumerate(self.strings) if text == WHOLE_GRAPH]
        return int(np.count_nonzero(~np.isin(self.kernels.name, graphs)))
