"""The GPUs of an nsys export and what identifies processes: serialized ids, physical device numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnprof.arrays import Narrow, distinct_rows, mapped
from attnprof.safety.printable import printable
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.tables import Device, Int32

_GPUS = "TARGET_INFO_GPU"
_MOST_GPUS = 4096  # of one machine; more rows than that are damage
_FEW = 256


def assign(column: Int32, pid: Int32, number: Narrow, known: Mapping[tuple[int, int], int]) -> None:
    """Sets the rows of each (process, number) that is known."""
    if len(known) <= _FEW:
        for (process, one), value in known.items():
            column[(number == one) & (pid == process)] = value
        return
    (processes, numbers), group = distinct_rows([pid, number])
    pairs = list(zip(processes.tolist(), numbers.tolist(), strict=True))
    values = np.array([known.get(pair, -1) for pair in pairs], np.int32)[group]
    column[values >= 0] = values[values >= 0]


def physical_devices(db: Database, global_pid: Narrow, device: Narrow) -> Narrow:
    """Each kernel's GPU as TARGET_INFO_GPU numbers it: a process may see the GPUs under other numbers."""
    physical = to_int32(device)
    table = "TARGET_INFO_CUDA_DEVICE"
    if not {"gpuId", "cudaId", "pid"} <= db.columns(table).keys():
        return physical
    select = (
        f"SELECT pid, cudaId, gpuId FROM {table} WHERE gpuId <> cudaId AND gpuId BETWEEN 0 AND {_MOST_GPUS}"
    )
    moved = {
        (process, seen): real
        for process, seen, real in db.rows(table, select)
        if all(isinstance(one, int) for one in (process, seen, real))
    }
    if moved:
        physical = physical.astype(np.int32)
        assign(physical, pid_of(global_pid), device, moved)
    return physical


def read_devices(db: Database) -> tuple[Device, ...]:
    """The machine's NVIDIA GPUs; smMajor is the chip's own numbering, so the compute capability is read."""
    present = db.columns(_GPUS)
    if "id" not in present:
        return ()
    fields = ("name", "smCount", "computeMajor", "computeMinor", "maxShmemPerSm", "maxShmemPerBlockOptin")
    select = ", ".join(f if f in present else "NULL" for f in fields)
    rows = db.rows(_GPUS, f"SELECT id, {select} FROM {_GPUS} ORDER BY id LIMIT {_MOST_GPUS}")
    devices = []
    for index, name, sms, major, minor, per_sm, optin in rows:
        if isinstance(index, int) and sms != 0:  # what is listed with no SM is no CUDA device
            label = printable(name) if isinstance(name, str) else None
            smem = (_known(per_sm) or None, _known(optin) or None)
            devices.append(Device(index, label, _known(sms), _known(major), _known(minor), *smem))
    return tuple(devices)


def _known(number: object) -> int | None:
    """A count as nsys writes it; None for anything else that a file may hold."""
    return number if isinstance(number, int) and 0 <= number < 1 << 31 else None


def pid_of(global_id: Narrow) -> Int32:
    """The process of a serialized id: the 24 bits above the thread's 24."""
    return mapped(global_id, lambda g: g >> 24 & 0xFFFFFF, np.int32)


def to_int32(values: Narrow) -> Narrow:
    """The low 32 bits."""
    return values if values.dtype != np.int64 else mapped(values, lambda v: v.astype(np.int32), np.int32)
