"""Events of torch.profiler as rows of integers: which are read, and what is taken of each."""

from __future__ import annotations

import json
import re
import zlib
from array import array
from collections import defaultdict
from decimal import Decimal
from typing import Any

from attnprof.trace.graph_annotations import annotation, graph_node
from attnprof.trace.module_names import kind_of_class

KERNEL, COPY, CALL, RANGE, OP, MODULE = range(6)
WIDTHS = (13, 5, 6, 8, 5, 5)  # numbers in a row of each
KINDS = {  # an event's category, in lower case
    "kernel": KERNEL,
    "gpu_memcpy": COPY,
    "gpu_memset": COPY,
    "memcpy": COPY,
    "memset": COPY,
    "cuda_runtime": CALL,
    "cuda_driver": CALL,
    "hip_runtime": CALL,
    "runtime": CALL,
    "user_annotation": RANGE,
    "cpu_op": OP,
    "operator": OP,
    "python_function": MODULE,
}
INT32 = 0x7FFFFFFF
_OWN_RANGE = re.compile(r"attnprof:(\w+):(\d{1,18})")
_ATTENTION_OP = re.compile(
    r"(?!.*(backward|bwd))(aten::\w*(scaled_dot_product|flash|efficient|cudnn)\w*attention\w*"
    r"|\w*(flash_attn|flash_attention|_fa[23])\w*::\w+|vllm::unified_attention\w*)"
)
COMPILED = ("## Call CompiledFxGraph", "Torch-Compiled Region")  # begin what runs of torch.compile's graphs
_LONGEST_OP = 1024  # characters of an attention operator's name
_OF_MODULE = "nn.Module: "  # begins a Python function that is a module's call; a class and a number follow


class NotAnEventError(Exception):
    """An element of the event list is not what the format says."""


class Rows:
    """The rows of each table as flat integer arrays, and the arguments of attention operators."""

    def __init__(self) -> None:
        self.texts: defaultdict[str, int] = defaultdict(lambda: len(self.texts))
        self.texts[""]
        self.rows = [array("q") for _ in WIDTHS]
        self.arguments: list[dict[str, Any]] = []
        self.shapeless = 0
        self.nodes: dict[tuple[int, int], tuple[int, int]] = {}  # (device, node) -> (kernel, its name)

    def add(self, event: object) -> None:
        """Take one event; those of no interest pass."""
        if not isinstance(event, dict):
            raise NotAnEventError(f"an event is {json.dumps(event)[:40]}, not an object")
        kind = KINDS.get(str(event.get("cat")).lower())
        if kind is None or event.get("ph") != "X":
            return
        name = str(event.get("name", ""))
        named = self.named(kind, name)
        if named is None:
            return
        if kind == OP and is_region(named):
            kind = RANGE
        try:
            start = nanoseconds(event["ts"])
            end = start + nanoseconds(event.get("dur", 0))
        except (KeyError, ValueError, ArithmeticError, TypeError) as error:
            raise NotAnEventError(f"event {name[:60]!r} has no usable time ({error})") from error
        arguments = event.get("args") or {}
        if not isinstance(arguments, dict):
            raise NotAnEventError(f"the args of event {name[:60]!r} are no object")
        pid, tid = number(event.get("pid")), number(event.get("tid"))
        thread = (pid & INT32) << 32 | tid & 0xFFFFFFFF
        row = self.rows[kind]
        if kind in (KERNEL, COPY):
            row.extend(
                (start, end, number(arguments.get("device", pid)), number(arguments.get("stream", tid)))
            )
            row.append(correlation(arguments.get("correlation")))
            if kind == KERNEL:
                shape = [*three(arguments.get("grid")), *three(arguments.get("block"))]
                self.shapeless += shape[0] == 0
                if (node := graph_node(arguments)) and (called := annotation(arguments)):
                    kernel = len(row) // WIDTHS[KERNEL]
                    self.nodes.setdefault((row[-3], node), (kernel, self.texts[called]))
                row.extend((*named, node, *shape))
        elif kind == CALL:
            row.extend((start, end, *named, pid, thread, correlation(arguments.get("correlation"))))
        elif kind == RANGE:
            label, domain, payload, own = named
            row.extend((start, end, label, domain, pid, thread, payload, own))
        else:
            row.extend((start, end, *named, pid, thread))
            if kind == OP:
                self.arguments.append(arguments)

    def named(self, kind: int, name: str) -> tuple[int, ...] | None:
        """What a row holds of an event's name; None where events of that name are of no interest.

        Of a range its label, its domain, its payload and whether it is attnprof's own; of a module's call the
        module's kind; of others, copies excepted, the name. Texts are places in ``texts``. A run of a
        compiled graph, by name an operator, is a range.
        """
        if kind == COPY:
            return ()
        if kind == RANGE:
            own = _OWN_RANGE.fullmatch(name)
            label, domain, payload = (own[1], "attnprof", int(own[2])) if own else (name, "", 0)
            return self.texts[label], self.texts[domain], payload, own is not None
        if kind == MODULE:
            module = kind_of_class(name) if name.startswith(_OF_MODULE) else 0
            return (module,) if module else None
        if kind == OP and name.startswith(COMPILED):
            return self.named(RANGE, name)
        if kind == OP and (len(name) > _LONGEST_OP or not _ATTENTION_OP.fullmatch(name)):
            return None
        return (self.texts[name],)


def is_region(named: tuple[int, ...]) -> bool:
    """Whether ``named`` is what a row of ranges holds, of an operator."""
    return len(named) > 1


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


def number(value: object) -> int:
    """An id, which some exporters write as text."""
    if isinstance(value, int):
        return value
    text = str(value)
    return (
        int(text)
        if text.isdecimal() and len(text) < 19
        else zlib.crc32(text.encode("utf-8", "replace")) & INT32
    )


def correlation(found: object) -> int:
    """What joins a kernel and its launch; -1 where the event has none."""
    return found if isinstance(found, int) else -1


def three(shape: object) -> tuple[int, int, int]:
    """A grid or block; zeros where the event has none, as under ROCm graph replay."""
    if isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) for n in shape):
        return (shape[0], shape[1], shape[2])
    return (0, 0, 0)
