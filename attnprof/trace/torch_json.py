"""Reader of torch.profiler (Kineto) traces, old and new, CUDA and ROCm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.arrays import coded_rows
from attnprof.errors import TraceError
from attnprof.files.compressed import readable, unpacking
from attnprof.gpus import is_amd
from attnprof.safety.printable import printable
from attnprof.trace.graph_annotations import node_names
from attnprof.trace.json_stream import JsonStream, Utf8
from attnprof.trace.tables import (
    ApiCalls,
    AttentionOps,
    Copies,
    Device,
    Int32,
    Int64,
    Kernels,
    ModuleCalls,
    NodeNames,
    Ranges,
    Trace,
    TraceInfo,
    rows_in_order,
)
from attnprof.trace.torch_rows import INT32, WIDTHS, NotAnEventError, Rows


def read_torch_json(path: Path, *, gzipped: bool = False) -> Trace:
    """Read a torch profiler trace piece by piece. Raises TraceError."""
    rows = Rows()
    try:
        with readable(path), unpacking(path) if gzipped else path.open("rb") as raw:
            stream = JsonStream(Utf8(raw))
            for event in stream.events(_blocks(rows)):
                rows.add(event)
    except OverflowError as error:
        raise TraceError(f"{path} holds a number beyond 64 bits", hint=_EXPORT_HINT) from error
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
        raise TraceError(
            f"{path} is broken JSON{where}: {getattr(error, 'msg', error)}",
            hint="the profiler's export was cut short or the file was edited: export or copy it again",
        ) from error
    except NotAnEventError as error:
        raise TraceError(f"{path} is no torch profiler trace: {error}", hint=_EXPORT_HINT) from error
    if not stream.has_events:
        raise TraceError(f"{path} is JSON, but no trace: it has no traceEvents", hint=_EXPORT_HINT)
    return _trace(printable(str(path)), stream.head, rows)


def _blocks(rows: Rows) -> Callable[[str], bool] | None:
    """What takes events by the block; None where msgspec is not installed: all are then read one by one."""
    try:
        from attnprof.trace.torch_blocks import Blocks
    except ImportError:
        return None
    return Blocks(rows).take


_AMD_WAVE = 64
_GRIDLESS = " kernels carry no grid: their splits cannot be read"


def gridless(number: int, kernels: int) -> list[str]:
    """The note of so many kernels without a grid, [] for none."""
    return [f"{number} of {kernels}{_GRIDLESS}"] if number else []


def is_gridless(note: str) -> bool:
    return note.endswith(_GRIDLESS)


_EXPORT_HINT = "give what torch.profiler's export_chrome_trace wrote"


def _trace(path: str, head: dict[str, Any], rows: Rows) -> Trace:
    """The tables of all rows; ``head`` is what the file says outside its events."""
    k, copies, calls, ranges, ops, modules = (
        np.frombuffer(row, np.int64).reshape(-1, width) if row else np.empty((0, width), np.int64)
        for row, width in zip(rows.rows, WIDTHS, strict=True)
    )
    api_calls = rows_in_order(ApiCalls(*_columns(calls, "qqiiqq")))
    start, end, device, stream, correlation, name, node = _columns(k[:, :7], "qqiiqiq")
    shapes, shape = coded_rows(list(k[:, 7:].astype(np.int32).T))
    kernels = Kernels(
        start=start,
        end=end,
        name=name,
        device=device,
        stream=stream,
        pid=_launching_pid(api_calls, correlation),
        correlation=correlation,
        graph_node=node,
        shape=shape,
        shapes=np.stack(shapes, axis=1).astype(np.int32),
    )
    names = _node_names(rows, kernels)
    start, end, device, stream, correlation = _columns(copies, "qqiiq")
    copied = Copies(start, end, device, stream, _launching_pid(api_calls, correlation), correlation)
    start, end, name, domain, pid, thread, payload, own = _columns(ranges, "qqiiiqqq")
    annotated = Ranges(
        start=start,
        end=end,
        name=name,
        domain=domain,
        thread=thread,
        pid=pid,
        payload=payload,
        has_payload=own.astype(np.bool_),
        nested=np.ones(len(own), np.bool_),
    )
    notes = []
    if not len(k):
        notes.append("no CUDA kernel was recorded")
    notes += gridless(rows.shapeless, len(k))
    info = TraceInfo(
        path=path,
        format="torch-json",
        exporter="torch.profiler",
        schema=printable(str(head["schemaVersion"])) if "schemaVersion" in head else None,
        devices=_devices(head),
        nvtx_domains=("attnprof",) if own.any() else (),
        notes=tuple(notes),
    )
    return Trace(
        info=info,
        kernels=rows_in_order(kernels),
        api_calls=api_calls,
        ranges=rows_in_order(annotated),
        strings=list(map(printable, rows.texts)),
        copies=rows_in_order(copied),
        attention_ops=_attention_ops(ops, rows.arguments, api_calls, kernels),
        modules=rows_in_order(ModuleCalls(*_columns(modules, "qqiiq"))) if len(modules) else None,
        node_names=names,
    )


def _node_names(rows: Rows, kernels: Kernels) -> NodeNames | None:
    """What nodes are called; ``kernels`` are in the order of the file."""
    if not rows.nodes:
        return None
    kernel, name = np.array([*rows.nodes.values()], np.int64).T
    return node_names(kernels.graph_node[kernel], kernels.pid[kernel], name, [*rows.texts])


def _columns(table: Int64, types: str) -> list[Any]:
    """The columns of a table, contiguous; type "i" is int32, "q" int64."""
    return [
        np.ascontiguousarray(table[:, i], np.int32 if t == "i" else np.int64) for i, t in enumerate(types)
    ]


def _launching_pid(calls: ApiCalls, correlation: Int64) -> Int32:
    """The process whose call has the correlation; 0 where none has, or several processes have."""
    processes = np.unique(calls.pid)
    if len(processes) <= 1:
        return np.full(len(correlation), processes[0] if len(processes) else 0, np.int32)
    pid = np.zeros(len(correlation), np.int32)
    claims = np.zeros(len(correlation), np.int32)
    for process in processes:
        launched = np.isin(correlation, calls.correlation[calls.pid == process])
        pid[launched] = process
        claims += launched
    return np.where(claims == 1, pid, 0).astype(np.int32)


def _devices(head: dict[str, Any]) -> tuple[Device, ...]:
    """The GPUs the file names, which ROCm may leave blank; an AMD part's "compute capability" is none."""
    rocm = any(key in head for key in ("roctracer_version", "hip_runtime_version", "rocprofiler_version"))
    given = [p for p in _list(head.get("deviceProperties")) if isinstance(p, dict)]
    return tuple(
        Device(
            index=p["id"],
            name=_device_name(p, rocm=rocm),
            num_sms=_known(p.get("numSms")),
            sm_major=None if rocm or _has_waves(p) else _known(p.get("computeMajor")),
            sm_minor=None if rocm or _has_waves(p) else _known(p.get("computeMinor")),
            smem_per_sm=_known(p.get("sharedMemPerMultiprocessor")),
            smem_per_block_optin=_known(p.get("sharedMemPerBlockOptin")),
        )
        for p in given
        if _known(p.get("id")) is not None
    )


def _device_name(properties: dict[str, Any], *, rocm: bool) -> str | None:
    """As the file has it; an AMD GPU is one in any case, though it may be blank or an architecture's."""
    given = properties.get("name")
    name = printable(given) if isinstance(given, str) and given else ""
    if (rocm or _has_waves(properties)) and not is_amd(name):
        return f"AMD {name}".strip()
    return name or None


def _has_waves(properties: dict[str, Any]) -> bool:
    """Whether its warps have 64 threads, which AMD's alone have."""
    return _known(properties.get("warpSize")) == _AMD_WAVE


def _known(number: object) -> int | None:
    """A count as the profiler writes it; None for anything else that a file may hold."""
    return number if type(number) is int and 0 <= number <= INT32 else None


def _attention_ops(
    ops: Int64, arguments: list[dict[str, Any]], calls: ApiCalls, kernels: Kernels
) -> AttentionOps:
    """The operators with their arguments and the launches inside each."""
    order = np.lexsort((-ops[:, 1], ops[:, 0]))
    start, end, name, pid, thread = _columns(ops[order], "qqiiq")
    launching = np.isin(calls.correlation, kernels.correlation)
    inside: list[tuple[int, ...]] = [()] * len(start)
    for one in np.unique(thread):
        mine = launching & (calls.thread == one)
        at, last, correlation = calls.start[mine], calls.end[mine], calls.correlation[mine]
        for i in np.flatnonzero(thread == one).tolist():
            low, high = np.searchsorted(at, (start[i], end[i] + 1))
            fits = last[low:high] <= end[i]
            inside[i] = tuple(correlation[low:high][fits].tolist())
    given = [arguments[i] for i in order.tolist()]
    return AttentionOps(
        start=start,
        end=end,
        name=name,
        pid=pid,
        thread=thread,
        dims=tuple(tuple(_dims(d) for d in _list(a.get("Input Dims"))) for a in given),
        dtypes=tuple(_texts(a.get("Input type")) for a in given),
        inputs=tuple(_texts(a.get("Concrete Inputs")) for a in given),
        correlations=tuple(inside),
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: object) -> tuple[str, ...]:
    return tuple(printable(str(item)) for item in _list(value))


def _dims(shape: object) -> tuple[int, ...]:
    """A tensor's shape; () for anything else, lists of tensors included."""
    return tuple(shape) if isinstance(shape, list) and all(isinstance(n, int) for n in shape) else ()
