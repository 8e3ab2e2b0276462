"""Torch traces cut down to their attention: small enough to be committed, nothing of it changed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.check.observed_calls import ObservedCalls
from attnprof.dispatch.names.kernel_names import is_attention_kernel
from attnprof.trace.open_trace import open_trace

LIMIT_BYTES = 1_000_000
_KERNEL, _RANGE = "kernel", "user_annotation"
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_HEAD = ("schemaVersion", "deviceProperties", "cupti_version", "cuda_runtime_version", "cuda_driver_version")


def trim_trace(source: Path, target: Path) -> int:
    """Keeps attention kernels, their launches and attnprof's ranges; returns the size in bytes."""
    return trim_traces([source], target, [None])


def trim_traces(sources: Sequence[Path], target: Path, wanted: Sequence[set[int] | None]) -> int:
    """The same of several traces of one process; of each only the launches ``wanted``, where they are given.

    ``target`` ends in .json.gz. Times, names and ids stay as recorded. Ranges of attention calls and layers
    without a wanted launch go. Raises ValueError where two traces use one correlation id.
    """
    head: dict[str, Any] = {}
    events: list[dict[str, Any]] = []
    used: set[int] = set()
    for source, launches in zip(sources, wanted, strict=True):
        head, kept = _attention_of(source, launches)
        mine = {event["args"]["correlation"] for event in kept if event.get("cat") == _KERNEL}
        if used & mine:
            raise ValueError(f"{source.name} repeats correlation ids of the traces before it")
        used |= mine
        events += kept
    text = json.dumps({**head, "traceEvents": events}, separators=(",", ":"))
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.encode())
    return target.stat().st_size


def correlations_of(trace: Path, observed: ObservedCalls, calls: set[int]) -> set[int]:
    """Correlation ids of the kernels of these calls: the main one's and those after it on its stream."""
    opened = open_trace(trace)
    kernels = opened.kernels
    names = [number for number, text in enumerate(opened.strings) if is_attention_kernel(text)]
    attention = np.flatnonzero(np.isin(kernels.name, names))
    chosen = np.flatnonzero(np.isin(observed.seq, list(calls)))
    found: set[int] = set()
    for first, count in zip(
        observed.main[chosen].tolist(), observed.num_kernels[chosen].tolist(), strict=True
    ):
        same_stream = attention[kernels.stream[attention] == kernels.stream[first]]
        at = int(np.searchsorted(same_stream, first))
        found.update(kernels.correlation[same_stream[at : at + count]].tolist())
    return found


def _attention_of(source: Path, launches: set[int] | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what stands beside the events, the events to keep) of one trace."""
    opened = gzip.open(source, "rt") if source.suffix == ".gz" else source.open()
    with opened as file:
        trace = json.load(file)
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    kernels = [e for e in events if e.get("cat") == _KERNEL and is_attention_kernel(e["name"])]
    if launches is not None:
        kernels = [kernel for kernel in kernels if kernel["args"]["correlation"] in launches]
    wanted = {kernel["args"]["correlation"] for kernel in kernels}
    calls = [
        e for e in events if e.get("cat") in _LAUNCHES and e.get("args", {}).get("correlation") in wanted
    ]
    ranges = [e for e in events if e.get("cat") == _RANGE and str(e.get("name")).startswith("attnprof:")]
    if launches is not None:
        moments = np.sort(np.array([float(call["ts"]) for call in calls]))
        ranges = [one for one in ranges if _holds(one, moments) or not _per_call(one["name"])]
    small = {name: trace[name] for name in _HEAD if name in trace}
    small["deviceProperties"] = small.get("deviceProperties", [])[:1]
    return small, kernels + calls + ranges


def _per_call(name: str) -> bool:
    return name.startswith(("attnprof:attn:", "attnprof:layer:"))


def _holds(event: dict[str, Any], moments: Any) -> bool:
    """Whether one of the moments, in order, lies within the event."""
    at = int(np.searchsorted(moments, float(event["ts"])))
    return at < len(moments) and moments[at] <= float(event["ts"]) + float(event.get("dur", 0))
