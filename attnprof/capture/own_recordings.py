"""What the processes of a program recorded of themselves, joined into the run of the program."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from attnprof.capture.saved_calls import Kept, read_journal
from attnprof.instrument.prompts import first_prompt
from attnprof.safety.next_command import next_command
from attnprof.safety.redact import redact_command
from attnprof.workloads.child import TORCH_TRACE
from attnprof.workloads.injected import TRACE, UNRECORDED, WRITTEN, folder_of
from attnprof.workloads.written import CALLS_FILE

TRACES = "traces"  # in the run folder: torch.profiler's of all processes but one
_JOURNAL = (".calls", ".texts")
_STEM = re.compile(r"(\d+)-(\d+)")
_SHOWN = 100  # characters of a command line
_OF_FIRST = ("model", "attn_implementation", "versions", "gpu", "models", "generations")


@dataclass(frozen=True)
class OwnRecording:
    """One process's: ``stem`` is the name of its files without their endings."""

    pid: int
    started_ns: int
    stem: Path
    kept: Kept

    @property
    def rank(self) -> int | None:
        rank = self.kept.facts.get("rank")
        return rank if isinstance(rank, int) else None

    @property
    def label(self) -> str:
        """ "rank 1", "SpawnProcess-2", "process 4711"."""
        if self.rank is not None:
            return f"rank {self.rank}"
        return str(self.kept.facts.get("process_name") or f"process {self.pid}")

    @property
    def trace(self) -> Path:
        return self._file(TRACE)

    def calls(self) -> Iterator[dict[str, Any]]:
        """As it wrote them at its end; of one that did not come to that, its journal's."""
        try:
            with self._file(WRITTEN).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)
        except FileNotFoundError:
            yield from self.kept.calls

    def _file(self, ending: str) -> Path:
        return self.stem.with_name(self.stem.name + ending)


def pids(folder: Path) -> set[int]:
    """The processes that left, or leave, anything in the run ``folder``: not all made calls."""
    found = (re.match(r"\d+", path.name) for path in _files(folder))
    return {int(number.group()) for number in found if number}


def own_recordings(folder: Path) -> list[OwnRecording]:
    """Those of processes that made attention calls, by rank where they have one, then by their start."""
    found = []
    for path in _files(folder):
        named = _STEM.fullmatch(path.stem)
        if path.suffix != ".calls" or named is None:
            continue
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # a kill may damage one
            with ExitStack() as opened:
                ends = [
                    opened.enter_context(path.with_suffix(end).open("rb")) for end in (".calls", ".texts")
                ]
                kept = read_journal(*(end.fileno() for end in ends))
            if kept.calls:
                stem = path.with_suffix("")
                found.append(OwnRecording(int(named[1]), int(named[2]), stem, kept))
    return sorted(found, key=lambda one: (one.rank is None, one.rank, one.started_ns))


def _files(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder_of(folder).iterdir())
    return []


def join(folder: Path, workload: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The workload.json of all processes, whose calls are then in calls.jsonl; and notes on them.

    The program's own process comes first where it made calls. Calls are numbered through; steps are counted
    by each process.
    """
    others, notes = own_recordings(folder), _unrecorded(folder)
    if not others or workload.get("processes"):
        return workload, notes
    mine = int(workload["num_calls"] or 0)
    processes = [_of_main(workload)] if mine else []
    total, calls = mine, folder / CALLS_FILE
    calls.touch()
    unnamed = folder / f".{CALLS_FILE}"
    with unnamed.open("w", encoding="utf-8") as file, calls.open(encoding="utf-8") as own:
        file.writelines(islice(own, mine))
        for one in others:
            number, first = len(processes), total
            for call in one.calls():
                call["seq"] += first
                total = max(total, call["seq"] + 1)
                file.write(json.dumps(call | ({"process": number} if number else {})) + "\n")
            processes.append(_entry(number, one, first, total - first))
            notes += one.kept.notes
    unnamed.rename(calls)
    notes += _traces(folder, others, has_own=bool(mine))
    made = [
        {"process": number, "steps": one.kept.steps, **_models_of(one.kept)}
        for number, one in enumerate(others, start=int(bool(mine)))
        if number
    ]
    joined = {**workload, "num_calls": total, "processes": processes, "steps_of_others": made}
    if not mine:
        joined |= _of_first(others[0].kept)
    return joined, list(dict.fromkeys(notes))


def _of_main(workload: dict[str, Any]) -> dict[str, Any]:
    phases = [step["phase"] for step in workload["steps"]]
    return {
        "process": 0,
        "label": "main",
        "pid": workload.get("pid"),
        "rank": None,
        "command": None,
        "python": (workload.get("versions") or {}).get("python"),
        "first_seq": 0,
        "calls": workload["num_calls"],
        "prefill": phases.count("prefill"),
        "decode": phases.count("decode"),
    }


def _entry(number: int, one: OwnRecording, first: int, calls: int) -> dict[str, Any]:
    phases = [step["phase"] for step in one.kept.steps]
    command = redact_command([str(part) for part in one.kept.facts.get("command") or []])
    return {
        "process": number,
        "label": one.label,
        "pid": one.pid,
        "rank": one.rank,
        "command": command if len(command) <= _SHOWN else command[: _SHOWN - 1] + "…",
        "python": one.kept.facts.get("python"),
        "first_seq": first,
        "calls": calls,
        "prefill": phases.count("prefill"),
        "decode": phases.count("decode"),
    }


def _models_of(kept: Kept) -> dict[str, Any]:
    return {name: kept.facts.get(name, []) for name in ("models", "generations")}


def _of_first(kept: Kept) -> dict[str, Any]:
    """What a run says of its workload where the program's own process is not the one that computes."""
    on_gpu = any(str(call.get("device", "")).startswith("cuda") for call in kept.calls)
    known = {name: kept.facts[name] for name in _OF_FIRST if kept.facts.get(name) is not None}
    return {
        **known,
        "steps": kept.steps,
        **first_prompt(kept.steps, kept.facts.get("models", ())),
        "device": "cuda" if on_gpu else "cpu",
    }


def _traces(folder: Path, others: list[OwnRecording], *, has_own: bool) -> list[str]:
    """Puts torch.profiler's traces where a run has them: one as its own, the others in a folder."""
    traced = [one for one in others if one.trace.exists()]
    if traced and not (has_own or (folder / TORCH_TRACE).exists()):
        traced.pop(0).trace.rename(folder / TORCH_TRACE)
    if not traced:
        return []
    place = folder / TRACES
    place.mkdir(exist_ok=True)
    for one in traced:
        one.trace.rename(place / f"{one.label.replace(' ', '-').replace(os.sep, '-')}-{one.pid}{TRACE}")
    return [f"the kernels of {len(traced)} more processes: {next_command('report', place)}"]


def _unrecorded(folder: Path) -> list[str]:
    """Why processes that looked for torch could not be recorded, in a sentence each."""
    reasons: dict[str, int] = {}
    for path in _files(folder):
        if path.suffix == UNRECORDED:
            with suppress(OSError):
                why = path.read_text(encoding="utf-8", errors="replace")[:300]
                reasons[why] = reasons.get(why, 0) + 1
    return [
        f"attention calls of {_processes(times)} could not be recorded: {why}"
        for why, times in reasons.items()
    ]


def _processes(times: int) -> str:
    return "a process" if times == 1 else f"{times} processes"
