"""A torch trace cut down to its attention: small enough to be committed, nothing of it changed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from attnprof.dispatch.names import is_attention_kernel

_KERNEL, _RANGE = "kernel", "user_annotation"
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_HEAD = ("schemaVersion", "deviceProperties", "cupti_version", "cuda_runtime_version", "cuda_driver_version")


def trim_trace(source: Path, target: Path) -> int:
    """Keeps attention kernels, their launches and attnprof's ranges; returns the size in bytes.

    ``target`` ends in .json.gz. Times, names and ids stay as recorded.
    """
    opened = gzip.open(source, "rt") if source.suffix == ".gz" else source.open()
    with opened as file:
        trace = json.load(file)
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    kernels = [e for e in events if e.get("cat") == _KERNEL and is_attention_kernel(e["name"])]
    wanted = {kernel["args"]["correlation"] for kernel in kernels}
    kept = [event for event in events if _is_kept(event, wanted)]
    small = {name: trace[name] for name in _HEAD if name in trace}
    small["deviceProperties"] = small.get("deviceProperties", [])[:1]
    text = json.dumps({**small, "traceEvents": kernels + kept}, separators=(",", ":"))
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.encode())
    return target.stat().st_size


def _is_kept(event: dict[str, Any], correlations: set[int]) -> bool:
    category = event.get("cat")
    if category in _LAUNCHES:
        return event.get("args", {}).get("correlation") in correlations
    return category == _RANGE and str(event.get("name")).startswith("attnprof:")
