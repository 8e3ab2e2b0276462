"""How a recorded program ended, and what is known of one that ended before it could say so itself."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from attnprof.capture import own_recordings
from attnprof.capture.saved_calls import Kept, Memory
from attnprof.instrument.prompts import first_prompt
from attnprof.machine.library_versions import versions
from attnprof.workloads.child import PID_FILE
from attnprof.workloads.written import CALLS_FILE, WORKLOAD_FILE


@dataclass(frozen=True)
class End:
    """``workload`` is workload.json, the program's own or one made of its journal; ``exit_code`` its own.

    ``failed_to_start``: it failed before its first attention call.
    """

    workload: dict[str, Any]
    exit_code: int
    notes: list[str]

    @property
    def failed_to_start(self) -> bool:
        return self.workload["status"] == "failed" and not self.workload["num_calls"]


def how_it_ended(folder: Path, exit_code: int | None, memory: Memory) -> End:
    """Reads workload.json, or writes it and calls.jsonl from the journal.

    ``exit_code`` is None where the recorder did not pass it on.
    """
    path, kept = folder / WORKLOAD_FILE, memory.read()
    notes = [_FORKED.format(kept.forked)] if kept.forked else []
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        code = found["exit_code"] if exit_code is None else exit_code
        if code != found["exit_code"] and code > 128:
            notes.append(
                f"the program ended by {_signal_name(code)} after its last statement, in its tidying up"
            )
        return End(found, code, notes)
    kept.write(folder / CALLS_FILE)
    code = 1 if exit_code is None else exit_code
    how, replaced = _ended(exit_code), kept.facts.get("exec")
    if replaced:
        notes.append(f"the program replaced itself by {replaced} (exec)")
        if not _recorded_itself(folder):
            notes[-1] += ", which recorded no attention call"
    elif code:
        notes.append(f"its {len(kept.calls)} attention calls up to there are kept" if kept.calls else _NONE)
    else:
        notes.append("the program left by os._exit; its attention calls up to there are kept")
    error = f"the program {how}{_last_call(kept)}" if code else None
    workload = unwritten(kept, "failed" if code else "complete", code, error)
    path.write_text(json.dumps(workload))
    return End({**workload, "notes": kept.notes}, code, notes)


def with_own_recordings(folder: Path, end: End) -> End:
    """The same with what the program's other processes recorded of themselves, written to ``folder`` too."""
    workload, notes = own_recordings.join(folder, end.workload)
    if workload is not end.workload:
        (folder / WORKLOAD_FILE).write_text(json.dumps(workload))
    return End(workload, end.exit_code, [*end.notes, *notes])


def _recorded_itself(folder: Path) -> bool:
    """Whether the process of the program left recordings like one that attnprof did not start."""
    with suppress(OSError, ValueError):
        return int((folder / PID_FILE).read_text()) in own_recordings.pids(folder)
    return False


def unwritten(kept: Kept, status: str, code: int | None, error: str | None) -> dict[str, Any]:
    """The workload.json of a program that did not come to write it."""
    on_gpu = any(call.get("device", "").startswith("cuda") for call in kept.calls)
    return {
        "workload": "program",
        "status": status,
        "exit_code": code,
        "error": error,
        "hint": None,
        "model": None,
        "attn_implementation": None,
        **first_prompt(kept.steps, kept.facts.get("models", ())),
        "max_new_tokens": None,
        **{name: value for name, value in kept.facts.items() if name != "exec"},
        "steps": kept.steps,
        "num_calls": len(kept.calls),
        "versions": versions(),
        "device": "cuda" if on_gpu else "cpu" if kept.calls else None,
        "gpu": None,
    }


_NONE = "it had made no attention call yet"
_FORKED = "attention calls of processes that the program forked are not recorded (processes: {})"


def _ended(code: int | None) -> str:
    if code is None:
        return "ended, with an exit code that is not known"
    name = _signal_name(code)
    return f"was ended by {name}" if name else f"ended with exit code {code}"


def _signal_name(code: int) -> str:
    return Signals(code - 128).name if code > 128 and code - 128 in set(Signals) else ""


def _last_call(kept: Kept) -> str:
    """Where the program was: the last call it began."""
    if not kept.calls:
        return " before its first attention call"
    last = kept.calls[-1]
    at = [f"{name} {last[name]}" for name in ("step", "layer") if last[name] is not None]
    return f" in or after attention call {last['seq']}" + (f" ({', '.join(at)})" if at else "")
