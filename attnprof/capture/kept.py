"""What is kept of a program that ended before it wrote its attention calls: its journal, read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprof.instrument import flash_attn, journal, sdpa

_DESCRIBE = {module.__name__: module.describe for module in (flash_attn, sdpa)}


@dataclass(frozen=True)
class Kept:
    """``calls``, ``steps`` and ``notes`` as calls.jsonl and workload.json have them; ``facts`` by name.

    ``forked`` is the number of forked processes whose attention calls were not recorded.
    """

    calls: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    notes: list[str]
    facts: dict[str, Any]
    forked: int = 0

    def write(self, path: Path) -> None:
        """Writes calls.jsonl."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(call) + "\n" for call in self.calls)


def read_journal(calls: int, texts: int) -> Kept:
    """The journal in these two files; what a kill cut off is left out."""
    described: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    notes: list[str] = []
    facts: dict[str, Any] = {}
    for line in _lines(_content(texts)):
        if "step" in line:
            steps.append(line["step"])
        elif "fact" in line:
            name, facts[name] = line["fact"]
            notes += [facts.pop(name)] if name == "note" else []
        else:
            described.append(_DESCRIBE[line["describe"]](line["arguments"]))
    phases = {step["step"]: step["phase"] for step in steps}
    content = _content(calls)
    recorded = []
    for seq, (number, step, layer) in enumerate(_slots(content)):
        if 0 < number <= len(described):
            at = {"seq": seq, "step": None if step < 0 else step, "phase": phases.get(step, "other")}
            recorded.append({**at, "layer": None if layer < 0 else layer, **described[number - 1]})
    return Kept(recorded, steps, notes, facts, journal.FORKED.unpack_from(content)[0])


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts, start = [], 0
    while start < size:
        parts.append(os.pread(descriptor, size - start, start))
        start += len(parts[-1])
    return b"".join(parts)


def _slots(content: bytes) -> Iterator[tuple[int, ...]]:
    size, head = journal.SLOT.size, journal.FORKED.size
    count = -(-(len(content.rstrip(b"\0")) - head) // size)
    return journal.SLOT.iter_unpack(content[head : head + max(count, 0) * size])


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.rstrip(b"\0").split(b"\n"):
        with suppress(ValueError):
            yield json.loads(line)
