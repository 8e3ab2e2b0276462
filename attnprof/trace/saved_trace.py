"""A trace as attnprof keeps it in a run folder: its columns, nothing of the recorder's environment.

The file is an uncompressed .npz whose arrays begin at multiples of 64 bytes, so that they are mapped into
memory instead of read: a question about the attention kernels leaves the columns of all others on the disk.
"""

from __future__ import annotations

import io
import json
import mmap
import struct
import tokenize
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnprof.arrays import coded_rows
from attnprof.errors import TraceError
from attnprof.files.untrusted import open_regular, parse_json, require_shape
from attnprof.trace.tables import (
    ApiCalls,
    AttentionOps,
    Copies,
    Device,
    GraphNodes,
    Int32,
    Kernels,
    ModuleCalls,
    NodeNames,
    NsysDetails,
    Ranges,
    Trace,
    TraceInfo,
)
from attnprof.trace.validity import require_sound
from attnprof.version import __version__

_FORMAT = 3  # 2 had a grid and a block per kernel instead of shapes
_TABLES = {"kernels": Kernels, "api_calls": ApiCalls, "ranges": Ranges, "copies": Copies}
_OPTIONAL = {"details": NsysDetails, "graph_nodes": GraphNodes, "modules": ModuleCalls,
             "node_names": NodeNames}  # fmt: skip
_ALIGNMENT = 64
_PADDING = 0xD935  # the id that Android's zipalign uses for an extra field that only pads
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name
_MANY_ROWS = 1 << 16  # of equal values, which take no room in the file
_INFO = {
    "path": str, "format": str, "exporter": str, "schema": str, "whole_graph_launches": int,
    "nvtx_domains": [str], "notes": [str],
    "devices": [{"index": (int, float), "name": str, **dict.fromkeys(
        ("num_sms", "sm_major", "sm_minor", "smem_per_sm", "smem_per_block_optin"), int
    )}],
}  # fmt: skip
_STATED = ("path", "format", "devices", "whole_graph_launches", "nvtx_domains", "notes")
_HEAD = {"info": _INFO, "repeated": {"*": [(int, float)]}, "attention_ops": {"*": list}}
_DAMAGE = (  # what the libraries between the file and the columns raise
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, EOFError,
    SyntaxError, NotImplementedError, MemoryError, struct.error, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip

Columns = dict[str, npt.NDArray[Any]]


def save_trace(trace: Trace, path: Path, derived: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
    """Writes the trace and columns ``derived`` from it by this version of attnprof."""
    columns = {
        f"{table}.{field.name}": getattr(getattr(trace, table), field.name)
        for table, kind in _TABLES.items()
        for field in fields(kind)
    }
    for table, kind in _OPTIONAL.items():
        rows = getattr(trace, table)
        if rows is not None:
            columns |= {f"{table}.{field.name}": getattr(rows, field.name) for field in fields(kind)}
    columns |= {f"derived.{name}": values for name, values in (derived or {}).items()}
    ops = trace.attention_ops
    repeated = {name: values.shape for name, values in columns.items() if _is_constant(values)}
    head = {
        "format": _FORMAT,
        "attnprof": __version__,
        "info": asdict(trace.info),
        "strings": trace.strings,
        "repeated": repeated,
        "attention_ops": None if ops is None else {f.name: _plain(getattr(ops, f.name)) for f in fields(ops)},
    }
    columns = {name: values[:1] if name in repeated else values for name, values in columns.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, values in {"head": np.frombuffer(json.dumps(head).encode(), np.uint8), **columns}.items():
            _write(archive, name, np.ascontiguousarray(values))


def _is_constant(values: npt.NDArray[Any]) -> bool:
    return len(values) > 1 and bool(np.all(values[-1] == values[0])) and bool(np.all(values == values[0]))


def _write(archive: zipfile.ZipFile, name: str, values: npt.NDArray[Any]) -> None:
    """Adds one array, padded so that its numbers are aligned (those beyond 2 GiB need not be)."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    member = zipfile.ZipInfo(f"{name}.npy")
    member.file_size = len(header.getvalue()) + values.nbytes
    assert archive.fp is not None
    begins = archive.fp.tell() + _LOCAL_HEADER + len(member.filename) + 4 + len(header.getvalue())
    padding = -begins % _ALIGNMENT
    member.extra = _PADDING.to_bytes(2, "little") + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(member, "w", force_zip64=member.file_size >= 1 << 31) as out:
        out.write(header.getvalue())
        out.write(values.reshape(-1).view(np.uint8).data)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def load_trace(path: Path) -> tuple[Trace, Columns]:
    """The trace written by :func:`save_trace`, its columns mapped from the file, and the derived columns.

    These are empty where another version of attnprof derived them. Raises TraceError for a damaged file.
    """
    try:
        columns, size = _map(path)
        head = parse_json(columns.pop("head").tobytes())
        require_shape(head, _HEAD, "its head")
        unset = [name for name in _STATED if head["info"][name] is None]
        if unset:
            raise ValueError(f"it states no {unset[0]}")
        for name, shape in head.get("repeated", {}).items():
            columns[name] = np.broadcast_to(columns[name][0], shape)
        if head["format"] > _FORMAT:
            raise ValueError("it was written by a newer attnprof")
        if head["format"] == 2:
            columns |= _shapes(columns.pop("kernels.grid"), columns.pop("kernels.block"))
        tables = {table: kind(**_of(columns, table)) for table, kind in _TABLES.items()}
        optional = {
            table: kind(**_of(columns, table)) for table, kind in _OPTIONAL.items() if _of(columns, table)
        }
        info = {name: _tuples(value) for name, value in head["info"].items()}
        info["devices"] = tuple(Device(**device) for device in head["info"]["devices"])
        ops = head["attention_ops"]
        trace = Trace(
            info=TraceInfo(**info),
            strings=head["strings"],
            attention_ops=None if ops is None else _attention_ops(ops),
            **tables,
            **optional,
        )
        derived = _of(columns, "derived") if head.get("attnprof") == __version__ else {}
        require_sound(trace, derived, max(size, _MANY_ROWS))
    except FileNotFoundError as error:
        raise TraceError(
            f"{path} is missing", hint="the run is damaged: record or import it again"
        ) from error
    except _DAMAGE as error:
        raise TraceError(f"{path} is damaged: {error}", hint="record or import the run again") from error
    return trace, derived


def _of(columns: Columns, table: str) -> dict[str, Any]:
    """The columns of one table by their own names."""
    prefix = f"{table}."
    return {name.removeprefix(prefix): values for name, values in columns.items() if name.startswith(prefix)}


def _shapes(grid: Int32, block: Int32) -> Columns:
    shapes, shape = coded_rows([*grid.T, *block.T])
    return {"kernels.shape": shape, "kernels.shapes": np.stack(shapes, axis=1).astype(np.int32)}


def _map(path: Path) -> tuple[Columns, int]:
    """Every array of the archive, without reading its numbers, and the archive's size in bytes."""
    columns: Columns = {}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for member in archive.infolist():
            local = content[member.header_offset : member.header_offset + _LOCAL_HEADER]
            skip = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            begins = member.header_offset + _LOCAL_HEADER + skip
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename} is compressed")
            opened = io.BytesIO(content[begins : begins + 256])
            np.lib.format.read_magic(opened)
            shape, fortran, kind = np.lib.format.read_array_header_1_0(opened)
            numbers = np.frombuffer(
                content, kind, int(np.prod(shape, dtype=np.int64)), begins + opened.tell()
            )
            columns[member.filename.removesuffix(".npy")] = numbers.reshape(
                shape, order="F" if fortran else "C"
            )
    return columns, len(content)


def _attention_ops(columns: dict[str, Any]) -> AttentionOps:
    arrays = {"start": np.int64, "end": np.int64, "name": np.int32, "pid": np.int32, "thread": np.int64}
    values: dict[str, Any] = {
        name: np.array(value, dtype=arrays[name]) if name in arrays else _tuples(value)
        for name, value in columns.items()
    }
    return AttentionOps(**values)
