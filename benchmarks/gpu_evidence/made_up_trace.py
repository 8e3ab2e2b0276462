"""A torch trace with the kernels that the stand-in's calls would have launched, made up from predictions."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

LAUNCH, GRAPH = "stand-in call ", "stand-in graph "
_KERNEL_US = 5


class MadeUpProfile:
    """torch.profiler's CPU side, and in its trace a kernel for each predicted launch."""

    def __init__(self, device: Any, real: Any, activities: Any = None, **options: Any) -> None:
        from torch.profiler import ProfilerActivity

        self._device = device
        self._with_cpu = activities is None or ProfilerActivity.CPU in activities
        self._real = real(activities=[ProfilerActivity.CPU])

    def __enter__(self) -> MadeUpProfile:
        self._real.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._real.__exit__(*raised)

    def export_chrome_trace(self, path: str) -> None:
        """Writes the trace with the launches where the calls were made, on the profiler's own clock."""
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "trace.json"
            self._real.export_chrome_trace(str(plain))
            trace = json.loads(plain.read_text(encoding="utf-8"))
        trace["deviceProperties"] = [self._properties()]
        events = trace["traceEvents"]
        trace["traceEvents"] = (events if self._with_cpu else []) + self._gpu_side(events)
        opened = gzip.open(path, "wt") if path.endswith(".gz") else Path(path).open("w")
        with opened as file:
            json.dump(trace, file)

    def _properties(self) -> dict[str, Any]:
        gpu = self._device.gpu()
        return {
            "id": 0, "name": gpu.name, "computeMajor": gpu.sm_major, "computeMinor": gpu.sm_minor,
            "numSms": gpu.num_sms,
        }  # fmt: skip

    def _gpu_side(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Launches and kernels of every marked moment, the kernels one after another on one stream."""
        made: list[dict[str, Any]] = []
        free_at = 0.0
        marks = [e for e in events if e.get("ph") == "X" and str(e.get("name")).startswith((LAUNCH, GRAPH))]
        for mark in sorted(marks, key=lambda event: float(event["ts"])):
            name, number = str(mark["name"]), int(str(mark["name"]).rpartition(" ")[2])
            graph = name.startswith(GRAPH)
            calls = self._device.graphs[number] if graph else [number]
            launches = [launch for call in calls for launch in self._device.launched[call]]
            where = {"ph": "X", "pid": mark["pid"], "tid": mark["tid"], "ts": mark["ts"]}
            for at, launch in enumerate(launches):
                if at == 0 or not graph:
                    correlation = self._device.next_correlation()
                    call_name = "cudaGraphLaunch" if graph else "cudaLaunchKernel"
                    said = {"cat": "cuda_runtime", "name": call_name, "args": {"correlation": correlation}}
                    made.append({**where, **said, "dur": 0.001})
                free_at = max(free_at, float(mark["ts"]) + 1)
                args = {
                    "device": 0, "stream": 7, "correlation": correlation, "grid": list(launch.grid),
                    "block": list(launch.block), "shared memory": launch.dynamic_smem,
                    "registers per thread": self._device.registers(launch),
                    **({"graph node id": at} if graph else {}),
                }  # fmt: skip
                made.append({
                    "ph": "X", "cat": "kernel", "name": launch.kernel, "pid": 0, "tid": 7, "ts": free_at,
                    "dur": _KERNEL_US, "args": args,
                })  # fmt: skip
                free_at += _KERNEL_US
        return made
