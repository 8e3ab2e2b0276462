"""Named baselines: which run or trace a name stands for, in a file beside the runs."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attnprof.errors import RunError, UsageError
from attnprof.files.output import writing_file
from attnprof.files.untrusted import read_json
from attnprof.runs import folder_lock
from attnprof.runs.run import load
from attnprof.runs.run_folders import now, runs_root

BASELINES = "baselines.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A name, what a command takes for its run (a trace by its whole path), and when it was set."""

    name: str
    run: str
    since: str


def baselines() -> list[Baseline]:
    """Every baseline, by name. Raises RunError where their file cannot be read."""
    path = runs_root() / BASELINES
    try:
        found = read_json(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        hint = "remove it and set the baselines again"
        raise RunError(f"{path} cannot be read: {error}", hint=hint) from error
    known = found.get("baselines") if isinstance(found, dict) else None
    if not isinstance(known, dict):
        raise RunError(f"{path} holds no baselines", hint="remove it and set them again")
    return [
        Baseline(name, str(one["run"]), str(one.get("since", "")))
        for name, one in sorted(known.items())
        if isinstance(one, dict) and "run" in one
    ]


def baseline(name: str) -> Baseline:
    """The baseline called ``name``. Raises RunError naming those there are."""
    known = baselines()
    for one in known:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in known)
    raise RunError(
        f"no baseline called {name}" + (f"; known: {names}" if names else ""),
        hint=f"attnprof baseline set {name} RUN makes it",
    )


def set_baseline(name: str, target: str | None) -> Baseline:
    """Lets ``name`` stand for a run or trace, the newest run where None, in place of what it stood for.

    Raises UsageError for a name with other characters than letters, digits, dot, dash and underscore;
    RunError or TraceError where there is no such run.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is no name for a baseline", hint="letters, digits, '.', '-' and '_'")
    run = load(target)
    known = run.folder.absolute() if run.folder is not None else Path(str(target)).absolute()
    inside = run.folder is not None and known.parent == runs_root().absolute()
    made = Baseline(name, known.name if inside else str(known), now())
    _write(lambda others: [one for one in others if one.name != name] + [made])
    return made


def remove_baseline(name: str) -> None:
    """Removes the name, not the run. Raises RunError where there is no such baseline."""
    baseline(name)
    _write(lambda others: [one for one in others if one.name != name])


def _write(change: Callable[[list[Baseline]], list[Baseline]]) -> None:
    root = runs_root()
    root.mkdir(parents=True, exist_ok=True)
    with folder_lock.held(root, fcntl.LOCK_EX):
        kept = sorted(change(baselines()), key=lambda one: one.name)
        content = {one.name: {"run": one.run, "since": one.since} for one in kept}
        text = json.dumps({"schema": 1, "baselines": content}, indent=1, ensure_ascii=False)
        with writing_file(root / BASELINES, force=True) as out:
            out.write(f"{text}\n".encode())
