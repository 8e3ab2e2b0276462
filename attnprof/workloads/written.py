"""workload.json: what a recorded process says of itself when it has ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnprof.errors import AttnprofError

if TYPE_CHECKING:
    from attnprof.instrument import Recorder

WORKLOAD_FILE = "workload.json"
CALLS_FILE = "calls.jsonl"
INTERRUPTED = "interrupted"


def write_recorded(
    folder: Path,
    recorder: Recorder | None,
    *,
    asked: dict[str, Any],
    facts: dict[str, Any],
    code: int,
    error: AttnprofError | str | None,
    duration_s: float,
    notes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Writes calls.jsonl, then workload.json, returned: the latter says that the former is whole.

    ``asked`` and ``facts`` are fields of it; ``notes`` those of a process without a recorder. Raises OSError.
    """
    from attnprof.instrument.prompts import first_prompt
    from attnprof.machine.library_versions import versions
    from attnprof.workloads.environment import compiled_note, gpu

    calls = recorder.write(folder / CALLS_FILE) if recorder else 0
    steps = recorder.steps if recorder else []
    device = gpu()
    if recorder and (note := compiled_note()):
        recorder.note(note)
    if code and error is None:
        error = f"the program ended with exit code {code}"
    workload = {
        **asked,
        "status": INTERRUPTED if error == INTERRUPTED else "failed" if code else "complete",
        "exit_code": code,
        "error": None if error is None else str(error),
        "hint": error.hint if isinstance(error, AttnprofError) else None,
        "model": recorder.model if recorder else None,
        "attn_implementation": recorder.attn_implementation if recorder else None,
        **first_prompt(steps, recorder.models if recorder else ()),
        **facts,
        "steps": steps,
        "models": recorder.models if recorder else [],
        "generations": recorder.generations if recorder else [],
        "num_calls": calls,
        "versions": versions(),
        "device": "cuda" if device else "cpu",
        "gpu": device,
        "pid": os.getpid(),
        "duration_s": round(duration_s, 6),
        "notes": list(recorder.notes) if recorder else list(notes),
    }
    unnamed = folder / f".{WORKLOAD_FILE}"
    unnamed.write_text(json.dumps(workload))
    unnamed.rename(folder / WORKLOAD_FILE)
    return workload
