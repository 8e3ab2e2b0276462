"""What is kept of a program that ended before it wrote its attention calls: its journal.

It is in memory that this process shares with the program, and copied to the run folder once a second for the
case that this process is killed too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from attnprof.capture.interrupt import InterruptError
from attnprof.instrument import flash_attn, journal, sdpa
from attnprof.instrument.engines import entry_point
from attnprof.instrument.slots import opened
from attnprof.instrument.undescribed import undescribed
from attnprof.workloads.child import Handed

_SAVED = (".journal-calls", ".journal-texts")
_SAVED_EVERY_S = 1.0
_DESCRIBE = {module.__name__: module.describe for module in (flash_attn, sdpa, entry_point)}
_DESCRIBE[undescribed.__module__] = undescribed


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


class Memory:
    """A journal that a program is handed, to be read when it has ended."""

    def __init__(self) -> None:
        self._files = journal.create()
        self._saved_at = 0.0
        self._saved = [0, 0]  # bytes of each file that are in the folder

    @property
    def handed(self) -> Handed:
        return {"journal": list(self._files)} if self._files else {}

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return self._files or ()

    def read(self) -> Kept:
        return read_journal(*self._files) if self._files else Kept([], [], [], {})

    def require_calls(self, number: Signals) -> None:
        """Raises InterruptError where no call has been made: nothing is worth waiting for."""
        if self._files and not journal.has_calls(self._files[0]):
            raise InterruptError(number, f"by {number.name} before anything was captured")

    def save(self, folder: Path) -> None:
        """To be called often; brings what is new into hidden files of ``folder`` once a second."""
        now = time.monotonic()
        if self._files is None or now - self._saved_at < _SAVED_EVERY_S:
            return
        self._saved_at = now
        with suppress(OSError):  # of no use to who sees this run end
            for index, (descriptor, name) in enumerate(zip(self._files, _SAVED, strict=True)):
                start = max(0, self._saved[index] - journal.SLOT.size)  # a slot may have ended in zeros
                new = _content(descriptor, start).rstrip(b"\0")
                if start + len(new) > self._saved[index]:
                    saved = os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o666)
                    try:
                        os.pwrite(saved, new, start)
                    finally:
                        os.close(saved)
                    self._saved[index] = start + len(new)

    def remove(self, folder: Path) -> None:
        """Removes what was saved, when all of it is in files of its own."""
        for name in _SAVED:
            (folder / name).unlink(missing_ok=True)

    def close(self) -> None:
        for descriptor in self._files or ():
            os.close(descriptor)


def saved_journal(folder: Path) -> Kept | None:
    """The journal as it was last saved to ``folder``; None where it was not, or is damaged."""
    try:
        with (folder / _SAVED[0]).open("rb") as calls, (folder / _SAVED[1]).open("rb") as texts:
            return read_journal(calls.fileno(), texts.fileno())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def read_journal(calls: int, texts: int) -> Kept:
    """The journal in these two files; what a kill cut off is left out."""
    described: list[dict[str, Any]] = []
    made: dict[int, dict[str, Any]] = {}
    notes: list[str] = []
    facts: dict[str, Any] = {}
    raised: dict[int, dict[str, str]] = {}
    for line in _lines(_content(texts)):
        if "step" in line:
            made[line["step"]["step"]] = line["step"]  # the last word on a step counts
        elif "fact" in line:
            name, facts[name] = line["fact"]
            notes += [facts.pop(name)] if name == "note" else []
            if name == "generation":
                facts.setdefault("generations", []).append(facts.pop(name))
        elif "raised" in line:
            seq, error = line["raised"]
            raised[seq] = {"raised": error}
        elif "alike" in line:
            described += described[-1:]
        else:
            described.append(_DESCRIBE[line["describe"]](line["arguments"]))
    steps = [made[number] for number in sorted(made)]
    phases = {step["step"]: step["phase"] for step in steps}
    content = _content(calls).ljust(journal.FORKED.size, b"\0")
    recorded = []
    for seq, (slot,) in enumerate(_slots(content)):
        number, step, layer = opened(slot)
        if 0 < number <= len(described):
            at = {"seq": seq, "step": step, "phase": phases.get(step, "other"), "layer": layer}
            recorded.append({**at, **described[number - 1], **raised.get(seq, {})})
    return Kept(recorded, steps, notes, facts, journal.FORKED.unpack_from(content)[0])


def _content(descriptor: int, start: int = 0) -> bytes:
    size, parts = os.fstat(descriptor).st_size, list[bytes]()
    while start < size:
        parts.append(os.pread(descriptor, size - start, start))
        start += len(parts[-1])
    return b"".join(parts)


def _slots(content: bytes) -> Iterator[tuple[int, ...]]:
    size, slots = journal.SLOT.size, content[journal.FORKED.size :].rstrip(b"\0")
    return journal.SLOT.iter_unpack(slots.ljust(-(-len(slots) // size) * size, b"\0"))


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.rstrip(b"\0").split(b"\n"):
        with suppress(ValueError):
            yield json.loads(line)
