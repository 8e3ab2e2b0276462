"""Starts a command, kills it, and looks at what is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnprof import load, store
from attnprof.errors import AttnprofError
from tests.conftest import TESTS

TRACE = TESTS / "data" / "traces" / "nsys2026.2_h100x2_flash_fwd_nccl_slice.sqlite.gz"
COMMANDS: dict[str, tuple[str, ...]] = {
    "import": ("import", str(TRACE)),
    "run": ("run", "--capture", "none", "--max-new-tokens", "4", "--layers", "1"),
}
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
_ENDS_WITHIN_S = 30


@dataclass
class Outcome:
    """How the killed commands ended: what stood there afterwards, counted; ``broken`` is what may not be."""

    left: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def kill_once(
    name: str, number: int, rng: random.Random, runs: Path, longest_s: float
) -> tuple[str, list[str]]:
    """(what is left, what is wrong with it) of one command killed at a random moment."""
    run_name, moment, how = f"{name}-{number}", rng.uniform(0.0, longest_s), rng.choice(SIGNALS)
    environment = {**os.environ, "ATTNPROF_RUNS": str(runs), "ATTNPROF_KILL_TEST": run_name}
    command = [sys.executable, "-m", "attnprof", *COMMANDS[name], "-o", run_name]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    time.sleep(moment)
    process.send_signal(how)
    try:
        said = process.communicate(timeout=_ENDS_WITHIN_S)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "hung", [f"{run_name}: still there {_ENDS_WITHIN_S} s after {how.name} at {moment:.2f} s"]
    wrong = []
    # Before the command line is imported nothing of ours can answer.
    if how is not signal.SIGKILL and "Traceback" in said and "attnprof/cli.py" in said:
        wrong.append(f"{run_name}: a traceback after {how.name} at {moment:.2f} s:\n{said[-600:]}")
    final = runs / run_name
    partial = sorted(runs.glob(f".{run_name}.*"))
    if how is not signal.SIGKILL and partial:
        wrong.append(f"{run_name}: {how.name} left {[path.name for path in partial]}")
    if not final.exists():
        return "incomplete" if partial else "nothing", wrong
    return "whole", [*wrong, *whole(final)]


def whole(folder: Path) -> list[str]:
    """What is wrong with a run that stands under its final name."""
    try:
        run = load(folder)
        run.check()
    except (AttnprofError, OSError) as error:
        return [f"{folder.name} stands under its final name but cannot be read: {error}"]
    missing = [name for name in (store.TRACE_NPZ, store.DATABASE) if not (folder / name).exists()]
    return [f"{folder.name} lacks {', '.join(missing)}"] if missing else []


def left_processes(runs: Path) -> list[str]:
    """Processes of ours that are still alive: found by the environment they were started with."""
    found = []
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = status.read_bytes()
            command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"ATTNPROF_RUNS={runs}".encode() in environment and status.parent.name != str(os.getpid()):
            found.append(command)
    return found


def kill_many(count: int, seed: int, runs: Path, commands: Sequence[str] = tuple(COMMANDS)) -> Outcome:
    """``count`` killed commands; afterwards nothing of theirs runs, and the next command works."""
    outcome = Outcome()
    rng = random.Random(seed)
    longest = {name: _duration(name, runs) for name in commands}
    for number in range(count):
        name = commands[number % len(commands)]
        left, wrong = kill_once(name, number, rng, runs, longest[name])
        outcome.left[left] += 1
        outcome.broken += wrong
    deadline = time.monotonic() + 10  # a child notices that its parent is gone
    while left_processes(runs) and time.monotonic() < deadline:
        time.sleep(0.2)
    outcome.broken += [f"still running: {command}" for command in left_processes(runs)]
    listed = {entry.status for entry in _entries(runs)}
    if not listed <= {"complete", "failed", "incomplete"}:
        outcome.broken.append(f"attnprof runs lists {sorted(listed)}")
    return outcome


def _duration(name: str, runs: Path) -> float:
    """Seconds that the command takes when it is left alone, which also proves that it works."""
    began = time.monotonic()
    environment = {**os.environ, "ATTNPROF_RUNS": str(runs)}
    command = [sys.executable, "-m", "attnprof", *COMMANDS[name], "-o", f"{name}-alone"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return time.monotonic() - began


def _entries(runs: Path) -> list[store.RunEntry]:
    before = os.environ.get("ATTNPROF_RUNS")
    os.environ["ATTNPROF_RUNS"] = str(runs)
    try:
        return store.list_runs()
    finally:
        if before is None:
            del os.environ["ATTNPROF_RUNS"]
        else:
            os.environ["ATTNPROF_RUNS"] = before
