"""A trace as attnprof keeps it in a run folder: its columns, nothing of the recorder's environment."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.errors import TraceError
from attnprof.trace.model import ApiCalls, AttentionOps, Copies, Device, Kernels, Ranges, Trace, TraceInfo

_FORMAT = 1
_TABLES = {"kernels": Kernels, "api_calls": ApiCalls, "ranges": Ranges, "copies": Copies}


def save_trace(trace: Trace, path: Path) -> None:
    """Writes the trace as an uncompressed .npz, which numpy reads back at the speed of the disk."""
    columns = {
        f"{table}.{field.name}": getattr(getattr(trace, table), field.name)
        for table, kind in _TABLES.items()
        for field in fields(kind)
    }
    ops = trace.attention_ops
    head = {
        "format": _FORMAT,
        "info": asdict(trace.info),
        "strings": trace.strings,
        "attention_ops": None if ops is None else {f.name: _plain(getattr(ops, f.name)) for f in fields(ops)},
    }
    text = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    np.savez(path, head=text, **columns)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def load_trace(path: Path) -> Trace:
    """The trace written by :func:`save_trace`. Raises TraceError where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            head = json.loads(archive["head"].tobytes())
            tables = {
                table: kind(**{field.name: archive[f"{table}.{field.name}"] for field in fields(kind)})
                for table, kind in _TABLES.items()
            }
    except FileNotFoundError as error:
        raise TraceError(
            f"{path} is missing", hint="the run is damaged: record or import it again"
        ) from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TraceError(f"{path} is damaged: {error}", hint="record or import the run again") from error
    info = {name: _tuples(value) for name, value in head["info"].items()}
    info["devices"] = tuple(Device(**device) for device in head["info"]["devices"])
    ops = head["attention_ops"]
    return Trace(
        info=TraceInfo(**info),
        strings=head["strings"],
        attention_ops=None if ops is None else _attention_ops(ops),
        **tables,
    )


def _attention_ops(columns: dict[str, Any]) -> AttentionOps:
    arrays = {"start": np.int64, "end": np.int64, "name": np.int32, "pid": np.int32, "thread": np.int64}
    values: dict[str, Any] = {
        name: np.array(value, dtype=arrays[name]) if name in arrays else _tuples(value)
        for name, value in columns.items()
    }
    return AttentionOps(**values)
