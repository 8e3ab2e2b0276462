"""Writes the nsys export, and the torch profiler trace, of a generation that never ran.

One ``generate`` call: a prefill and decode steps of 28 layers on one stream of an A100, twelve or thirteen
kernels per layer, under ranges ``generate > prefill | decode > layer=K > attention``. The attention kernels
and their grids are those attnprof predicts for 28/4 heads x 128 and the KV length of the step. One launch
call per kernel, one copy per step. The tables have the columns and types of ``nsys export`` 2022.4.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.build_trace import SCHEMA as TABLES

LAYERS, PROMPT, PID = 28, 1024, 4242
THREAD = 1 << 48 | PID << 24 | PID
GPU = gpu_by_name("a100")
SCHEMA = TABLES | {
    "CUPTI_ACTIVITY_KIND_MEMCPY": (
        "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,"
        " streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, bytes INTEGER NOT NULL,"
        " copyKind INTEGER NOT NULL, deprecatedSrcId INTEGER, srcKind INTEGER, dstKind INTEGER,"
        " srcDeviceId INTEGER, srcContextId INTEGER, dstDeviceId INTEGER, dstContextId INTEGER,"
        " migrationCause INTEGER, graphNodeId INTEGER, virtualAddress INTEGER"
    )
}
_BEFORE = (  # name and ns in decode; in prefill eight times that
    ("void at::native::vectorized_elementwise_kernel<(int)4, at::native::pow_tensor_scalar>(int)", 1_900),
    ("void at::native::reduce_kernel<(int)512, (int)1, at::native::MeanOps<float>>(T3)", 2_600),
    ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_tn", 9_500),
    ("void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, float>(T1)", 5_200),
    ("void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, float>(T1)", 5_100),
    ("void at::native::elementwise_kernel<(int)128, (int)4, at::native::MulFunctor<float>>(int)", 2_100),
    ("void at::native::CatArrayBatchedCopy<at::native::OpaqueType<(unsigned int)2>>(T1 *)", 4_800),
)
_AFTER = (
    ("ampere_bf16_s16816gemm_bf16_64x64_sliced1x2_ldg8_f2f_tn", 8_900),
    ("ampere_bf16_s16816gemm_bf16_256x128_ldg8_f2f_stages_64x3_tn", 21_000),
    ("void at::native::vectorized_elementwise_kernel<(int)4, at::native::silu_kernel>(int)", 2_000),
    ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", 20_000),
)
_CALLS = ("cudaLaunchKernel_v7000", "cudaMemcpyAsync_v3020")
_ATTENTION_NS = 5_000


@dataclass(frozen=True)
class Kernel:
    """A kernel, its launch call, and the attention flag; times in ns."""

    name: str
    start: int
    end: int
    called: int
    returned: int
    correlation: int
    grid: tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """One forward: its kernels, ranges as (name, start, end), and the copy that ends it."""

    kernels: list[Kernel]
    ranges: list[tuple[str, int, int]]
    copy: Kernel


def steps() -> Iterator[Step]:
    """Prefill, then decode steps for ever."""
    cpu, gpu, correlation, number = 2_000_050_000, 2_000_000_000, 1000, 0
    while True:
        step = _step(number, cpu, gpu, correlation)
        yield step
        cpu, gpu = step.copy.returned + 30_000, step.copy.end
        correlation, number = step.copy.correlation + 1, number + 1


def _attention(number: int) -> list[tuple[str, int, tuple[int, int, int]]]:
    keys = PROMPT + number
    call = AttentionCall("flash_attn", "fwd", 1, keys if number == 0 else 1, keys, 28, 4, 128, causal=True)
    return [(one.kernel, _ATTENTION_NS, one.grid) for one in predict(call, GPU).launches]


def _step(number: int, cpu: int, gpu: int, correlation: int) -> Step:
    slower = 8 if number == 0 else 1
    wide = (32, 16, 1) if number == 0 else (32, 1, 1)
    before = [(name, took * slower, wide) for name, took in _BEFORE]
    after = [(name, took * slower, wide) for name, took in _AFTER]
    attention = _attention(number)
    kernels: list[Kernel] = []
    ranges: list[tuple[str, int, int]] = []
    opened = cpu - 2_000
    for layer in range(LAYERS):
        begins = cpu - 500
        for part in (before, attention, after):
            entered = cpu - 200
            for name, took, grid in part:
                jitter = correlation * 7919 % 401
                start = max(gpu + 600, cpu + 4_500)
                gpu = start + took + jitter
                kernels.append(Kernel(name, start, gpu, cpu, cpu + 3_000 + jitter, correlation, grid))
                cpu += 5_200 + jitter
                correlation += 1
            if part is attention:
                ranges.append(("attention", entered, cpu - 1_500))
        ranges.append((f"layer={layer}", begins, cpu - 1_000))
    copied = max(gpu, cpu) + 2_500
    copy = Kernel("", copied, copied + 1_300, cpu, copied + 3_000, correlation, (0, 0, 0))
    ranges.append(("prefill" if number == 0 else "decode", opened, copied + 3_500))
    return Step(kernels, ranges, copy)


def take(kernels: int) -> Iterator[Step]:
    """The steps up to and with the one that reaches so many kernels."""
    total = 0
    for step in steps():
        yield step
        total += len(step.kernels)
        if total >= kernels:
            return


def write_sqlite(path: Path, kernels: int) -> None:
    """The export, at ``path``, of a generation of at least ``kernels`` kernels."""
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path)
    db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
    tables = ("StringIds", "META_DATA_EXPORT", "TARGET_INFO_GPU", "NVTX_EVENTS")
    events = [f"CUPTI_ACTIVITY_KIND_{kind}" for kind in ("KERNEL", "MEMCPY", "RUNTIME")]
    for table in (*tables, *events):
        db.execute(f"CREATE TABLE {table} ({SCHEMA[table]})")
    strings: dict[str, int] = {}

    def text(value: str) -> int:
        return strings.setdefault(value, len(strings) + 1)

    def insert(table: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        named, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        return f"INSERT INTO {table} ({named}) VALUES ({marks})", values

    first = last = 0
    for step in take(kernels):
        rows = [_kernel_row(kernel, text(kernel.name)) for kernel in step.kernels]
        db.executemany(insert(events[0], rows[0])[0], rows)
        calls = [_call_row(kernel, text(_CALLS[0])) for kernel in step.kernels]
        calls.append(_call_row(step.copy, text(_CALLS[1])))
        db.executemany(insert(events[2], calls[0])[0], calls)
        db.execute(*insert(events[1], _copy_row(step.copy)))
        ranges = [_range_row(text(name), start, end) for name, start, end in reversed(step.ranges)]
        db.executemany(insert("NVTX_EVENTS", ranges[0])[0], ranges)
        first, last = first or step.ranges[-1][1], step.ranges[-1][2]
    db.execute(*insert("NVTX_EVENTS", _range_row(text("generate"), first - 1_000, last + 1_000)))
    db.executemany(
        "INSERT INTO StringIds VALUES (?, ?)", ((number, value) for value, number in strings.items())
    )
    versions = {"EXPORT_PRODUCT_VERSION": "2022.4.2.1", "EXPORT_SCHEMA_VERSION": "3.0.0"}
    db.executemany("INSERT INTO META_DATA_EXPORT VALUES (?, ?)", versions.items())
    capability = {"computeMajor": GPU.sm_major, "computeMinor": GPU.sm_minor}
    gpu = {"vmId": 0, "id": 0, "name": "NVIDIA A100-SXM4-80GB", "smCount": GPU.num_sms, "cuDevice": 0}
    db.execute(*insert("TARGET_INFO_GPU", gpu | capability))
    db.commit()
    db.close()


def _kernel_row(kernel: Kernel, name: int) -> dict[str, int]:
    x, y, z = kernel.grid
    where = {"deviceId": 0, "contextId": 1, "streamId": 7, "globalPid": THREAD >> 24 << 24}
    shape = {"gridX": x, "gridY": y, "gridZ": z, "blockX": 128, "blockY": 1, "blockZ": 1}
    memory = {"staticSharedMemory": 0, "dynamicSharedMemory": 49152, "localMemoryPerThread": 0}
    other = {"localMemoryTotal": 0, "gridId": 1, "registersPerThread": 40, "shortName": name}
    moment = {"start": kernel.start, "end": kernel.end, "correlationId": kernel.correlation}
    return moment | where | shape | memory | other | {"demangledName": name}


def _call_row(kernel: Kernel, name: int) -> dict[str, int]:
    moment = {"start": kernel.called, "end": kernel.returned, "correlationId": kernel.correlation}
    return moment | {"eventClass": 0, "globalTid": THREAD, "nameId": name, "returnValue": 0}


def _copy_row(copy: Kernel) -> dict[str, int]:
    where = {"deviceId": 0, "contextId": 1, "streamId": 7, "globalPid": THREAD >> 24 << 24}
    moment = {"start": copy.start, "end": copy.end, "correlationId": copy.correlation}
    return moment | where | {"bytes": 8, "copyKind": 2, "srcKind": 2, "dstKind": 1}


def _range_row(name: int, start: int, end: int) -> dict[str, int]:
    return {"start": start, "end": end, "eventType": 59, "textId": name, "globalTid": THREAD, "domainId": 0}


def write_chrome(path: Path, kernels: int) -> None:
    """The same run as torch.profiler would have exported it."""
    head = {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-80GB", "numSms": GPU.num_sms}],
        "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 1},
    }
    with path.open("w") as out:
        out.write(json.dumps(head)[:-1] + ', "traceEvents": [\n')
        for number, event in enumerate(_events(kernels)):
            out.write((",\n" if number else "") + json.dumps(event))
        out.write("\n]}\n")


def _events(kernels: int) -> Iterator[dict[str, Any]]:
    def span(kind: str, name: str, pid: int, tid: int, start: int, end: int, **args: Any) -> dict[str, Any]:
        took = {"ts": start / 1e3, "dur": (end - start) / 1e3}
        return {"ph": "X", "cat": kind, "name": name, "pid": pid, "tid": tid, **took, "args": args}

    for number, step in enumerate(take(kernels)):
        *inner, outer = step.ranges
        yield span("user_annotation", f"ProfilerStep#{number}", PID, PID, outer[1], outer[2])
        for name, start, end in inner:
            yield span("user_annotation", name, PID, PID, start, end)
        for kernel in step.kernels:
            ids = {"correlation": kernel.correlation, "External id": kernel.correlation}
            op = {"External id": kernel.correlation, "Record function id": 0}
            yield span("cpu_op", "aten::op", PID, PID, kernel.called - 300, kernel.returned + 100, **op)
            yield span("cuda_runtime", "cudaLaunchKernel", PID, PID, kernel.called, kernel.returned, **ids)
            shape = {"device": 0, "stream": 7, "grid": list(kernel.grid), "block": [128, 1, 1]}
            yield span("kernel", kernel.name, 0, 7, kernel.start, kernel.end, **ids, **shape)
            for flow, moment, pid, tid in (("s", kernel.called, PID, PID), ("f", kernel.start, 0, 7)):
                where = {"pid": pid, "tid": tid, "ts": moment / 1e3}
                yield {
                    "ph": flow,
                    "id": kernel.correlation,
                    "cat": "ac2g",
                    "name": "ac2g",
                    "bp": "e",
                    **where,
                }
