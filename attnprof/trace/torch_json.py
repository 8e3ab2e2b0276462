"""Reader of torch.profiler (Kineto) traces, old and new, CUDA and ROCm."""

from __future__ import annotations

import io
import json
import re
import zlib
from array import array
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.arrays import coded_rows
from attnprof.errors import TraceError
from attnprof.files.compressed import readable, unpacking
from attnprof.safety.printable import printable
from attnprof.trace.graph_annotations import annotation, graph_node, node_names
from attnprof.trace.json_stream import JsonStream
from attnprof.trace.module_names import kind_of_class
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

_KERNEL, _COPY, _CALL, _RANGE, _OP, _MODULE = range(6)
_KINDS = {  # an event's category, in lower case
    "kernel": _KERNEL,
    "gpu_memcpy": _COPY,
    "gpu_memset": _COPY,
    "memcpy": _COPY,
    "memset": _COPY,
    "cuda_runtime": _CALL,
    "cuda_driver": _CALL,
    "hip_runtime": _CALL,
    "runtime": _CALL,
    "user_annotation": _RANGE,
    "cpu_op": _OP,
    "operator": _OP,
    "python_function": _MODULE,
}
_OWN_RANGE = re.compile(r"attnprof:(\w+):(\d{1,18})")
_ATTENTION_OP = re.compile(
    r"(?!.*(backward|bwd))(aten::\w*(scaled_dot_product|flash|efficient|cudnn)\w*attention\w*"
    r"|\w*(flash_attn|flash_attention|_fa[23])\w*::\w+|vllm::unified_attention\w*)"
)
_LONGEST_OP = 1024  # characters of an attention operator's name
_OF_MODULE = "nn.Module: "  # begins a Python function that is a module's call; a class and a number follow
_INT32 = 0x7FFFFFFF
_KERNEL_COLUMNS = 13


def read_torch_json(path: Path, *, gzipped: bool = False) -> Trace:
    """Read a torch profiler trace event by event. Raises TraceError."""
    builder = _Builder()
    try:
        with readable(path), unpacking(path) if gzipped else path.open("rb") as raw:
            stream = JsonStream(io.TextIOWrapper(raw, encoding="utf-8", errors="replace"))
            for event in stream.events():
                builder.add(event)
    except OverflowError as error:
        raise TraceError(f"{path} holds a number beyond 64 bits", hint=_EXPORT_HINT) from error
    except (json.JSONDecodeError, RecursionError) as error:
        where = f" at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
        raise TraceError(
            f"{path} is broken JSON{where}: {getattr(error, 'msg', error)}",
            hint="the profiler's export was cut short or the file was edited: export or copy it again",
        ) from error
    except _NotAnEventError as error:
        raise TraceError(f"{path} is no torch profiler trace: {error}", hint=_EXPORT_HINT) from error
    if not stream.has_events:
        raise TraceError(f"{path} is JSON, but no trace: it has no traceEvents", hint=_EXPORT_HINT)
    return builder.trace(printable(str(path)), stream.head)


_GRIDLESS = " kernels carry no grid: their splits cannot be read"


def gridless(number: int, kernels: int) -> list[str]:
    """The note of so many kernels without a grid, [] for none."""
    return [f"{number} of {kernels}{_GRIDLESS}"] if number else []


def is_gridless(note: str) -> bool:
    return note.endswith(_GRIDLESS)


_EXPORT_HINT = "give what torch.profiler's export_chrome_trace wrote"


class _NotAnEventError(Exception):
    """An element of the event list is not what the format says."""


class _Builder:
    """Collects the rows of each table as flat integer arrays."""

    def __init__(self) -> None:
        self.texts: defaultdict[str, int] = defaultdict(lambda: len(self.texts))
        self.texts[""]
        self.rows = [array("q") for _ in range(6)]
        self.arguments: list[dict[str, Any]] = []
        self.shapeless = 0
        self.nodes: dict[tuple[int, int], tuple[int, int]] = {}  # (device, node) -> (kernel, its name)

    def add(self, event: object) -> None:
        """Take one event; those of no interest pass."""
        if not isinstance(event, dict):
            raise _NotAnEventError(f"an event is {json.dumps(event)[:40]}, not an object")
        kind = _KINDS.get(str(event.get("cat")).lower())
        if kind is None or event.get("ph") != "X":
            return
        name = str(event.get("name", ""))
        if kind == _OP and (len(name) > _LONGEST_OP or not _ATTENTION_OP.fullmatch(name)):
            return
        module = 0
        if kind == _MODULE and not (name.startswith(_OF_MODULE) and (module := kind_of_class(name))):
            return
        try:
            start = nanoseconds(event["ts"])
            end = start + nanoseconds(event.get("dur", 0))
        except (KeyError, ValueError, ArithmeticError, TypeError) as error:
            raise _NotAnEventError(f"event {name[:60]!r} has no usable time ({error})") from error
        arguments = event.get("args") or {}
        if not isinstance(arguments, dict):
            raise _NotAnEventError(f"the args of event {name[:60]!r} are no object")
        pid, tid = _number(event.get("pid")), _number(event.get("tid"))
        thread = (pid & _INT32) << 32 | tid & 0xFFFFFFFF
        row = self.rows[kind]
        if kind in (_KERNEL, _COPY):
            row.extend(
                (start, end, _number(arguments.get("device", pid)), _number(arguments.get("stream", tid)))
            )
            row.append(_correlation(arguments))
            if kind == _KERNEL:
                shape = [*_three(arguments.get("grid")), *_three(arguments.get("block"))]
                self.shapeless += shape[0] == 0
                if (node := graph_node(arguments)) and (called := annotation(arguments)):
                    kernel = len(row) // _KERNEL_COLUMNS
                    self.nodes.setdefault((row[-3], node), (kernel, self.texts[called]))
                row.extend((self.texts[name], node, *shape))
        elif kind == _CALL:
            row.extend((start, end, self.texts[name], pid, thread, _correlation(arguments)))
        elif kind == _RANGE:
            own = _OWN_RANGE.fullmatch(name)
            label, domain, payload = (own[1], "attnprof", int(own[2])) if own else (name, "", 0)
            row.extend(
                (start, end, self.texts[label], self.texts[domain], pid, thread, payload, own is not None)
            )
        elif kind == _MODULE:
            row.extend((start, end, module, pid, thread))
        else:
            row.extend((start, end, self.texts[name], pid, thread))
            self.arguments.append(arguments)

    def trace(self, path: str, head: dict[str, Any]) -> Trace:
        """The tables of all that was added; ``head`` is what the file says outside its events."""
        k, copies, calls, ranges, ops, modules = (
            np.frombuffer(row, np.int64).reshape(-1, width) if row else np.empty((0, width), np.int64)
            for row, width in zip(self.rows, (_KERNEL_COLUMNS, 5, 6, 8, 5, 5), strict=True)
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
        names = self._node_names(kernels)
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
        notes += gridless(self.shapeless, len(k))
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
            strings=list(map(printable, self.texts)),
            copies=rows_in_order(copied),
            attention_ops=_attention_ops(ops, self.arguments, api_calls, kernels),
            modules=rows_in_order(ModuleCalls(*_columns(modules, "qqiiq"))) if len(modules) else None,
            node_names=names,
        )

    def _node_names(self, kernels: Kernels) -> NodeNames | None:
        """What nodes are called; ``kernels`` are in the order of the file."""
        if not self.nodes:
            return None
        kernel, name = np.array([*self.nodes.values()], np.int64).T
        return node_names(kernels.graph_node[kernel], kernels.pid[kernel], name, [*self.texts])


def nanoseconds(microseconds: object) -> int:
    """Microseconds, an int or the file's decimal text, to the nearest nanosecond; never through a float."""
    if isinstance(microseconds, int):
        return microseconds * 1000
    if not isinstance(microseconds, str):
        raise ValueError(f"{microseconds!r} is no time")
    whole, _, part = microseconds.partition(".")
    if whole.isdecimal() and (not part or part.isdecimal()) and len(part) <= 3:
        return int(whole) * 1000 + int(part.ljust(3, "0"))
    return int((Decimal(microseconds) * 1000).to_integral_value())


def _number(value: object) -> int:
    """An id, which some exporters write as text."""
    if isinstance(value, int):
        return value
    text = str(value)
    return (
        int(text)
        if text.isdecimal() and len(text) < 19
        else zlib.crc32(text.encode("utf-8", "replace")) & _INT32
    )


def _correlation(arguments: dict[str, Any]) -> int:
    found = arguments.get("correlation", -1)
    return found if isinstance(found, int) else -1


def _three(shape: object) -> tuple[int, int, int]:
    """A grid or block; zeros where the event has none, as under ROCm graph replay."""
    if isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) for n in shape):
        return (shape[0], shape[1], shape[2])
    return (0, 0, 0)


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
    amd = any(key in head for key in ("roctracer_version", "hip_runtime_version", "rocprofiler_version"))
    given = [p for p in _list(head.get("deviceProperties")) if isinstance(p, dict)]
    return tuple(
        Device(
            index=p["id"],
            name=printable(p["name"])
            if isinstance(p.get("name"), str) and p["name"]
            else "AMD"
            if amd
            else None,
            num_sms=_known(p.get("numSms")),
            sm_major=None if amd else _known(p.get("computeMajor")),
            sm_minor=None if amd else _known(p.get("computeMinor")),
            smem_per_sm=_known(p.get("sharedMemPerMultiprocessor")),
            smem_per_block_optin=_known(p.get("sharedMemPerBlockOptin")),
        )
        for p in given
        if _known(p.get("id")) is not None
    )


def _known(number: object) -> int | None:
    """A count as the profiler writes it; None for anything else that a file may hold."""
    return number if type(number) is int and 0 <= number <= _INT32 else None


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
