"""A scene as a trace file: a torch.profiler JSON or an nsys export, with or without call records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from attnprof.model import AttentionCall, Gpu, KernelLaunch
from attnprof.runs import run_folders
from attnprof.runs.run import Run
from tests.spoil.records import record_of
from tests.spoil.scenes import Scene, SceneCall
from tests.support.build_trace import VM, TraceBuilder

_GEMM = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>(Params)"
_GEMM_LAUNCH = KernelLaunch(_GEMM, (32, 1, 1), (256, 1, 1))
_ROUTER = KernelLaunch("void topkGatingSoftmax<float, 4, 8, 4, 16>(float const*)", (4, 1, 1), (32, 4, 1))
_GRAPH_CALL = "cudaGraphLaunch_v10000"
_OPERATORS = {"flash_attn": "flash_attn::_flash_attn_forward", "torch": "aten::_flash_attention_forward"}
_TORCH_DTYPES = {"bf16": "c10::BFloat16", "fp16": "c10::Half"}


def run_of(scene: Scene, folder: Path) -> Run:
    """The scene's trace, written and opened as attnprof opens anybody's."""
    folder.mkdir(exist_ok=True)
    path = write(scene, folder)
    if scene.records != "file":
        return Run(path.name, folder=None, trace_path=path, config={"kind": "trace"})
    lines = [
        json.dumps(record_of(seq, one.call, step=one.step, phase=one.phase, layer=one.layer))
        for seq, one in enumerate(scene.calls)
    ]
    (folder / run_folders.CALLS_JSONL).write_text("\n".join(lines) + "\n")
    config = {"kind": "run", "predict": {"library": scene.library, "version": scene.version}}
    return Run("spoil", folder=folder, trace_path=path, config=config)


def write(scene: Scene, folder: Path) -> Path:
    """The file that a recorder of the scene's format leaves."""
    return (
        _write_torch(scene, folder / "trace.json") if scene.format == "torch" else _write_nsys(scene, folder)
    )


Event = tuple[Any, ...]


_CORRELATIONS = 1_000_000  # of each process


def _events(scene: Scene, calls: tuple[SceneCall, ...], first: int) -> Iterator[Event]:
    """What a process does, in ns: ("call", time, correlation, graph or not), ("kernel", time, correlation,
    launch, node of a graph, stream), ("range", kind, number, start, end), ("operator", call, start, end) and
    ("graph", time, end, correlation) of one recorded whole."""
    time, correlation = 100_000, first
    work = Random(0)
    opened: tuple[int, str, int, int] | None = None
    for seq, one in enumerate(calls):
        step = (one.step, one.phase, one.generation)
        if opened is None or opened[:3] != step:
            if opened is not None:
                yield ("range", opened[1], opened[0], opened[3], time - 500)
            opened = (*step, time)
            if scene.replays(one):
                correlation += 1
                yield ("call", time + 100, correlation, True)
                if scene.graphs == "whole":
                    yield ("graph", time + 2000, time + 90_000, correlation)
        if scene.replays(one):
            if scene.graphs == "nodes":
                launches = (*one.planning, *one.launches, _GEMM_LAUNCH)
                for number, launch in enumerate(launches):
                    node = 1 + 16 * one.layer + (number if number < len(launches) - 1 else 15)
                    time += 10_000
                    yield ("kernel", time, correlation, launch, node, one.stream)
            time += 10_000
            continue
        began = time + 1000
        time = began + 1000
        for launch in (*one.planning, *one.launches):
            correlation += 1
            yield ("call", time, correlation, False)
            yield ("kernel", time, correlation, launch, 0, one.stream)
            time += 10_000
        if scene.records == "file":
            yield ("range", "attn", seq, began + 500, time)
        yield ("operator", one, began + 500, time)
        for launch in _experts(work) if scene.work == "experts" else (_GEMM_LAUNCH,):
            correlation += 1
            yield ("call", time + 1000, correlation, False)
            yield ("kernel", time + 1000, correlation, launch, 0, one.stream)
            time += 12_000
        yield ("range", "layer", one.layer, began, time)
        time += 1000
    if opened is not None:
        yield ("range", opened[1], opened[0], opened[3], time)


def _experts(rng: Random) -> Iterator[KernelLaunch]:
    """A router, and the products of as many experts as it chose."""
    yield replace(_GEMM_LAUNCH, grid=(1, 1, 1))
    yield _ROUTER
    for _ in range(rng.randint(1, 4)):
        yield replace(_GEMM_LAUNCH, grid=(rng.randint(1, 64), 1, 1))


def _recorded(scene: Scene, events: list[Event]) -> list[Event]:
    """The events without the kernels, and graphs recorded whole, that were cut off."""
    kernels = [n for n, event in enumerate(events) if event[0] in ("kernel", "graph")]
    first, last = scene.cut
    lost = {*kernels[:first], *kernels[len(kernels) - last :]}
    return [event for n, event in enumerate(events) if n not in lost]


def _range_name(scene: Scene, kind: str, number: int) -> str | None:
    if scene.marks == "none" and kind != "attn":
        return None
    if scene.marks == "foreign":
        return f"layer={number}" if kind == "layer" else kind
    return f"attnprof:{kind}:{number}"


def _write_torch(scene: Scene, path: Path) -> Path:
    events: list[dict[str, Any]] = []

    def add(category: str, name: str, start: int, length: int, **args: Any) -> None:
        where = {"pid": 0 if category == "kernel" else 1, "tid": 7 if category == "kernel" else 1}
        event = {"ph": "X", "cat": category, "name": name, "ts": start / 1000, "dur": length / 1000}
        events.append({**event, **where, "args": args})

    last = 0
    for event in _recorded(scene, list(_events(scene, scene.calls, 1))):
        if event[0] == "call":
            _, time, correlation, graph = event
            add(
                "cuda_runtime",
                "cudaGraphLaunch" if graph else "cudaLaunchKernel",
                time,
                500,
                correlation=correlation,
            )
        elif event[0] == "kernel":
            _, time, correlation, launch, _, stream = event
            last = time
            placed = {"device": 0, "stream": stream, "grid": list(launch.grid), "block": list(launch.block)}
            add("kernel", launch.kernel, time + 2000, 5000, correlation=correlation, **placed)
        elif event[0] == "range":
            _, kind, number, start, end = event
            if name := _range_name(scene, kind, number):
                add("user_annotation", name, start, end - start)
        elif scene.records == "operators":
            _, one, start, end = event
            add("cpu_op", _OPERATORS[scene.library], start, end - start, **_operator(one.call))
    add("cuda_runtime", "cudaDeviceSynchronize", last + 50_000, 500, correlation=999_999)
    head = {"schemaVersion": 1, "deviceProperties": [_device(scene.gpu)], "traceEvents": events}
    path.write_text(json.dumps(head))
    return path


def _device(gpu: Gpu) -> dict[str, Any]:
    major = {"computeMajor": gpu.sm_major, "computeMinor": gpu.sm_minor}
    return {"id": 0, "name": gpu.name, **major, "numSms": gpu.num_sms}


def _operator(call: AttentionCall) -> dict[str, Any]:
    """The arguments of the operator as torch records them."""
    q, k = [call.batch, call.seqlen_q, call.num_heads, call.head_dim], [call.batch, call.seqlen_k]
    k = [*k, call.num_heads_k, call.head_dim]
    dtype = _TORCH_DTYPES[call.dtype]
    if call.library == "torch":
        inputs = ["", "", "", "", "", str(call.seqlen_q), str(call.seqlen_k), "0.", str(call.causal), "False"]
        inputs += ["0.125", "", "", "", ""]
    else:
        left, right = call.window
        inputs = ["", "", "", "0.", "0.125", str(call.causal), str(left), str(right), "0.", "", "False"]
    rest = len(inputs) - 3
    return {
        "Input Dims": [q, k, k, *[[]] * rest],
        "Input type": [dtype] * 3 + ["Scalar"] * rest,
        "Concrete Inputs": inputs,
    }


def _write_nsys(scene: Scene, folder: Path) -> Path:
    builder = TraceBuilder()
    gpu = scene.gpu
    for rank, calls in enumerate((scene.calls, *scene.others)):
        builder.add(
            "TARGET_INFO_GPU", vmId=1, id=rank, name=gpu.name, smCount=gpu.num_sms, cuDevice=rank,
            computeMajor=gpu.sm_major, computeMinor=gpu.sm_minor,
        )  # fmt: skip
        _add_process(builder, scene, calls, rank)
    path = folder / "trace.sqlite"
    path.unlink(missing_ok=True)
    return builder.write(path)


def _add_process(builder: TraceBuilder, scene: Scene, calls: tuple[SceneCall, ...], rank: int) -> None:
    own, pid = scene.marks == "own", 7 + rank
    builder.domain("attnprof", 1, pid)
    for event in _recorded(scene, list(_events(scene, calls, 1 + rank * _CORRELATIONS))):
        if event[0] == "call":
            _, time, correlation, graph = event
            builder.call(time, time + 500, correlation, pid, name=_GRAPH_CALL if graph else "")
        elif event[0] == "graph":
            _, time, end, correlation = event
            builder.add(
                "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=time, end=end, deviceId=rank, contextId=1,
                streamId=7, correlationId=correlation, graphId=1, graphExecId=1, globalPid=VM | pid << 24,
            )  # fmt: skip
        elif event[0] == "kernel":
            _, time, correlation, launch, node, stream = event
            more = {"graphNodeId": node} if node else {}
            builder.kernel(
                as_nsys(launch.kernel), time + 2000, time + 7000, correlation, grid=launch.grid,
                block=launch.block, pid=pid, deviceId=rank, streamId=stream, **more,
            )  # fmt: skip
        elif event[0] == "range":
            _, kind, number, start, end = event
            if name := _range_name(scene, kind, number):
                values = {"domainId": 1, "int64Value": number} if own or kind == "attn" else {}
                builder.range(kind if values else name, start, end, pid=pid, **values)


_LITERAL = re.compile(r"(?<=[<, ])(?:(\d+)|(\d+)ul|(true|false))(?=[,> }])")


def as_nsys(name: str) -> str:
    """A demangled name in nsys's spelling: literals with their types, ``>>``."""

    def typed(found: re.Match[str]) -> str:
        if found[2]:
            return f"(unsigned long){found[2]}"
        return f"(int){found[1]}" if found[1] else f"(bool){int(found[3] == 'true')}"

    return re.sub(r"(?<=>) (?=>)", "", _LITERAL.sub(typed, name))
