"""The captures of CUDA graphs in a torch profiler trace: what each launched, in order, and inside of what.

SGLang and vLLM profile their captures on request, a file or a range per batch size. A launch that is captured
makes no kernel event. ROCm's profiler names the kernel at the launch, with grid and block; CUDA's does not.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from attnprof.files.compressed import readable, unpacking
from attnprof.safety.printable import printable
from attnprof.trace.json_stream import JsonStream
from attnprof.trace.range_names import said_by
from attnprof.trace.torch_rows import nanoseconds

_AROUND = ("cpu_op", "user_annotation")
_MODULE = "nn.Module: "  # with_stack: an instance is numbered in the order its class is first run
_LAYER = re.compile(r"nn\.Module: (\w{1,200})_(\d{1,9})")
_LAYER_CLASSES = ("DecoderLayer", "Block")
_ATTENTION = re.compile(r"(?i)attention|attn")
_LONGEST = 1024  # characters of a name
_Shape = tuple[int, int, int, int, int, int]
NO_SHAPE: _Shape = (0, 0, 0, 0, 0, 0)


@dataclass(slots=True)
class Capture:
    """A graph's capture. Per launch: its kernel ("" where the profiler does not say), grid and block, the
    operator or range that launched it, the layer (-1 where nothing says), and the number of the innermost
    attention operator or module around it (-1 for none). ``parents`` has the one around each of these,
    ``label`` is the innermost range around it all.
    """

    label: str = ""
    kernels: list[str] = field(default_factory=list)
    shapes: list[_Shape] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    attention: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Event:
    start: int
    end: int
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    annotated: bool = False


def read_captures(path: Path) -> list[Capture]:
    """The captures of a torch profiler's file, which is known to be one."""
    calls: dict[object, list[_Event]] = {}
    around: dict[object, list[_Event]] = {}
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    with readable(path), unpacking(path) if gzipped else path.open("rb") as raw:
        for event in JsonStream(io.TextIOWrapper(raw, encoding="utf-8", errors="replace")).events():
            kind, name = event.get("cat"), str(event.get("name", ""))[:_LONGEST]
            is_call = kind in ("cuda_runtime", "cuda_driver") and (_launches(name) or "Capture" in name)
            is_module = kind == "python_function" and name.startswith(_MODULE)
            if event.get("ph") != "X" or not (is_call or is_module or kind in _AROUND):
                continue
            thread, arguments = (str(event.get("pid")), str(event.get("tid"))), event.get("args")
            try:
                start = nanoseconds(event["ts"])
                end = start + nanoseconds(event.get("dur", 0))
            except (KeyError, ValueError, ArithmeticError, TypeError):
                continue  # of calls the trace's reader says so
            arguments = arguments if isinstance(arguments, dict) else {}
            one = _Event(start, end, name, arguments, kind == "user_annotation")
            (calls if is_call else around).setdefault(thread, []).append(one)
    found = []
    for of, made in calls.items():
        spans = sorted(around.get(of, ()), key=lambda one: (one.start, -one.end))
        starts = [one.start for one in spans]
        labels = [one for one in spans if one.annotated]
        for span, launches in _windows(made):
            inside = spans[bisect_left(starts, span.start) : bisect_right(starts, span.end)]
            outside = [one.name for one in labels if one.start <= span.start and span.end <= one.end]
            found.append(_capture(launches, inside, printable(outside[-1]) if outside else ""))
    return found


def _launches(name: str) -> bool:
    return "Launch" in name and "Graph" not in name and "HostFunc" not in name


def _windows(calls: list[_Event]) -> Iterator[tuple[_Event, list[_Event]]]:
    """From the beginning of each capture to its end, and what was launched between; a runtime's call may be
    there twice, as the driver's too."""
    begun: _Event | None = None
    inside: list[_Event] = []
    seen: set[object] = set()
    for call in sorted(calls, key=lambda one: (one.start, -one.end)):
        if "BeginCapture" in call.name:
            begun, inside, seen = call, [], set()
        elif "EndCapture" in call.name and begun is not None:
            yield _Event(begun.start, call.end, ""), inside
            begun = None
        elif _launches(call.name) and call.arguments.get("correlation") not in seen:
            inside.append(call)
            seen.add(call.arguments.get("correlation"))


def _capture(launches: list[_Event], inside: list[_Event], label: str) -> Capture:
    made = Capture(label)
    layer_of = _layers(inside)
    open_: list[tuple[_Event, int, int]] = []  # with the layer and the attention that hold inside of it
    at = 0
    for launch in launches:
        while at < len(inside) and inside[at].start <= launch.start:
            one = inside[at]
            at += 1
            while open_ and open_[-1][0].end < one.end:
                open_.pop()
            layer, attention = open_[-1][1:] if open_ else (-1, -1)
            layer = layer_of.get(one.name, said_by(one.name).get("layer", layer))
            if _ATTENTION.search(one.name):
                made.parents.append(attention)
                attention = len(made.parents) - 1
            open_.append((one, layer, attention))
        while open_ and open_[-1][0].end < launch.end:
            open_.pop()
        innermost = next((one for one, _, _ in reversed(open_) if not one.name.startswith(_MODULE)), None)
        layer, attention = open_[-1][1:] if open_ else (-1, -1)
        made.kernels.append(printable(str(launch.arguments.get("kernel", ""))))
        made.shapes.append(_shape(launch.arguments))
        made.names.append(printable(innermost.name) if innermost else "")
        made.layers.append(layer)
        made.attention.append(attention)
    return made


def _layers(inside: list[_Event]) -> dict[str, int]:
    """The layer of each decoder layer's module: where one class has them, which run in order from 0 on."""
    found = [(match[1], int(match[2]), one.name) for one in inside if (match := _LAYER.fullmatch(one.name))]
    found = [one for one in found if one[0].endswith(_LAYER_CLASSES)]
    in_order = [number for _, number, _ in found] == list(range(len(found)))
    alone = len({name for name, _, _ in found}) == 1
    return {name: number for _, number, name in found} if in_order and alone else {}


def _shape(arguments: dict[str, Any]) -> _Shape:
    given = [arguments.get(key) for key in ("grid", "block")]
    flat = [size for shape in given if isinstance(shape, list) for size in shape]
    sizes = [size for size in flat if type(size) is int and 0 < size < 1 << 31]
    return itemgetter(*range(6))(sizes) if len(sizes) == len(flat) == 6 else NO_SHAPE
