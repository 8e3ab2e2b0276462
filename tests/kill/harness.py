"""Starts commands, stops them at random moments, and looks at what they leave."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from attnprof import load
from attnprof.errors import AttnprofError
from attnprof.machine.find_nsys import find_nsys
from attnprof.runs import run_folders, unfinished_folders, unfinished_runs
from tests.conftest import TESTS
from tests.kill.ways import FULL, HALTED, REMOVED, SIGNALS, WAYS, Ground, Scene, ground
from tests.support.first_moments import before_signals_are_heard

TRACE = TESTS / "data" / "traces" / "nsys2026.2_h100x2_flash_fwd_nccl_slice.sqlite.gz"
_GENERATE = ("--max-new-tokens", "8", "--layers", "1")  # 8 attention calls
_SLEEP = "import time; time.sleep(2.5)"  # longer than a process may outlive its command


@dataclass(frozen=True)
class Command:
    """What is stopped, and what a whole run of it holds."""

    arguments: tuple[str, ...]
    calls: int = 0

    def start(self, name: str, *, limit: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
        command, *arguments = self.arguments
        return subprocess.Popen(
            [sys.executable, "-m", "attnprof", command, "-o", name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=limit,
        )


COMMANDS = {
    "import": Command(("import", str(TRACE))),
    "run": Command(("run", "--capture", "none", *_GENERATE), calls=8),
    "run under nsys": Command(("run", "--capture", "nsys", *_GENERATE), calls=8),
    "run program": Command(("run", "--capture", "none", "--", "python", "-c", _SLEEP)),
}
_COMMAND_TURNS = ("import", "run", "import", "run program", "run under nsys")
_WAY_TURNS = (*SIGNALS, FULL, "SIGKILL", HALTED, REMOVED, "SIGKILL", "SIGTERM", FULL)
_ENDS_WITHIN_S = 120
_GONE_WITHIN_S = 2
_MADE = re.compile("^next: attnprof report", re.MULTILINE)
_OURS = re.compile(r"/attnprof/\w+")
_SAID = ("interrupted", "terminated", "hung up", "--resume", "error: ")


@dataclass
class Outcome:
    """How the stopped commands ended: what stood there afterwards, counted per way and in words; ``broken``
    is what may not be. ``full_by``: what made the disk full."""

    left: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    full_by: str = ""

    def line(self) -> str:
        """One line: each way with its count, and what was left."""
        ways = []
        for way in WAYS:
            of_way = Counter({left: count for (one, left), count in self.left.items() if one == way})
            shown = f"{way} ({self.full_by})" if way == FULL else way
            parts = ", ".join(f"{count} {left}" for left, count in of_way.most_common())
            ways += [f"{of_way.total()} {shown}: {parts}"] if of_way else []
        return f"{self.left.total()} kills; {'; '.join(ways)}; {len(self.broken)} broken"


@dataclass(frozen=True)
class Killed:
    """A command that was stopped: its run's name, what it had said, and how it was stopped, for a message."""

    name: str
    command: str
    way: str
    after_s: float
    code: int
    said: str

    def __str__(self) -> str:
        return f"{self.name} ({self.way} after {self.after_s:.2f} s, exit code {self.code})"


def kill_many(
    count: int,
    seed: int,
    folder: Path,
    commands: Sequence[str] = _COMMAND_TURNS,
    ways: Sequence[str] = _WAY_TURNS,
) -> Outcome:
    """``count`` stopped commands, taking turns with the ways; afterwards the next command works.

    ``run under nsys`` is left out where nsys is not installed.
    """
    if find_nsys() is None:
        commands = [name for name in commands if name != "run under nsys"]
    rng = random.Random(seed)
    with ground(folder) as place:
        outcome = Outcome(full_by=place.full_by)
        whole = {name: _alone(name, folder / "alone") for name in dict.fromkeys(commands)}
        for turn in range(count):
            command = commands[turn % len(commands)]
            way = ways[turn // len(commands) % len(ways)]
            longest, needed = whole[command]
            with place.scene(way, rng, needed) as scene, _runs_in(scene.runs):
                killed = _kill(f"{command.replace(' ', '-')}-{turn}", command, way, rng, longest, scene)
                wrong = [*_answer(killed), *_processes(killed, scene.runs)]
                if way != FULL:
                    left, more = _left(killed, scene.runs)
            if way == FULL:  # there is room again
                with _runs_in(scene.runs):
                    left, more = _left(killed, scene.runs)
            outcome.left[way, left] += 1
            outcome.broken += [f"{killed}: {what}" for what in (*wrong, *more)]
        outcome.broken += _afterwards(place, commands)
    return outcome


def _kill(name: str, command: str, way: str, rng: random.Random, longest_s: float, scene: Scene) -> Killed:
    moment = 0.0 if way == FULL else rng.uniform(0.0, longest_s)
    process = COMMANDS[command].start(name, limit=scene.limit)
    time.sleep(moment)
    scene.strike(process)
    try:
        said = process.communicate(timeout=_ENDS_WITHIN_S)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        said = f"still there after {_ENDS_WITHIN_S} s\n" + process.communicate()[0].decode(errors="replace")
    return Killed(name, command, way, moment, process.returncode, said)


def _answer(killed: Killed) -> list[str]:
    """What is wrong with what the command said."""
    if killed.said.startswith("still there"):
        return [killed.said]
    if killed.way == HALTED and killed.code:
        return [f"it was only halted, and ended with {killed.code}:\n{killed.said[-500:]}"]
    if before_signals_are_heard(killed.said):
        return []
    # After its end nothing of ours can answer either.
    if "Traceback" in killed.said and _OURS.search(killed.said):
        return [f"a traceback:\n{killed.said[-1500:]}"]
    if killed.code <= 0 or "Traceback" in killed.said:
        return []
    if killed.way == FULL and _MADE.search(killed.said) and "make room" in killed.said:
        return []  # what was recorded is a run, and what is missing in it is said
    if not any(word in killed.said for word in _SAID):
        return [f"it did not say why it ended:\n{killed.said[-500:]}"]
    if killed.way in (FULL, REMOVED) and len(re.findall("^error: ", killed.said, re.MULTILINE)) != 1:
        return [f"not one error:\n{killed.said[-500:]}"]
    return []


def _left(killed: Killed, runs: Path) -> tuple[str, list[str]]:
    """(what the command left, in words; what is wrong with it); what can be resumed is, the rest removed."""
    unfinished = [
        one
        for one in unfinished_folders.folders(runs)
        if unfinished_folders.intended_name(one) == killed.name
    ]
    final, calls = runs / killed.name, COMMANDS[killed.command].calls
    if final.exists():
        wrong = [f"{final.name} stands beside {one.name}" for one in unfinished]
        return run_folders.read_run(final).status, [*wrong, *_not_whole(final, calls), *_removed(final)]
    if not unfinished:
        return "nothing", []
    wrong = []
    if killed.way != "SIGKILL" and killed.way != REMOVED and "--resume" not in killed.said:
        wrong.append(f"it left {unfinished[0].name} without a word:\n{killed.said[-500:]}")
    entry = next(entry for entry in run_folders.list_runs() if entry.folder.name == unfinished[0].name)
    if entry.status != "incomplete":
        wrong.append(f"{entry.name} is called {entry.status}")
    try:
        if not unfinished_runs.leftover(entry.folder).resumable:
            unfinished_runs.remove(entry.name)
            return "incomplete, removed", wrong
        ((final, status),) = unfinished_runs.resume(entry.name)
    except AttnprofError as error:
        return "incomplete, stuck", [*wrong, f"{entry.name}: {error.message}"]
    return f"incomplete, resumed as {status}", [*wrong, *_not_whole(final, calls), *_removed(final)]


def _not_whole(folder: Path, expected: int) -> list[str]:
    """What is wrong with a run that stands under its final name."""
    try:
        run = load(folder)
        run.check()
        calls = len(run.records)
    except (AttnprofError, OSError) as error:
        return [f"{folder.name} stands under its final name but cannot be read: {error}"]
    wrong = [] if (folder / run_folders.TRACE_NPZ).exists() else [f"{folder.name} has no trace"]
    wrong += [f"{folder.name} holds {path.name}" for path in folder.glob(".*")]
    if run.config["kind"] == "run" and run.status == "complete" and calls != expected:
        wrong.append(f"{folder.name} claims to be complete with {calls} of {expected} calls")
    return wrong


def _removed(final: Path) -> list[str]:
    """Removes a run; what is wrong with that."""
    unfinished_runs.remove(final.name)
    return [f"{one.name} is left of a removed run" for one in final.parent.glob(f"*{final.name}*")]


def _processes(killed: Killed, runs: Path) -> list[str]:
    """Processes that the command left behind."""
    deadline = time.monotonic() + _GONE_WITHIN_S
    while alive := left_processes(runs):
        if time.monotonic() > deadline:
            return [f"still running {_GONE_WITHIN_S} s later: {command}" for command in alive]
        time.sleep(0.1)
    return []


def left_processes(runs: Path) -> list[str]:
    """Living processes of commands that were given this folder: found by their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environ.read_bytes().split(b"\0")
            command = (environ.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"ATTNPROF_RUNS={runs}".encode() in variables and environ.parent.name != str(os.getpid()):
            found.append(command)
    return found


def _afterwards(place: Ground, commands: Sequence[str]) -> list[str]:
    """What is wrong after all kills: the next command does not work, or something is left."""
    wrong = []
    for runs in {place.folder / "attnprof-runs", (place.disk or place.folder) / "attnprof-runs"}:
        with _runs_in(runs):
            for command in dict.fromkeys(commands):
                try:
                    _alone(command, runs)
                except AssertionError as error:
                    wrong.append(f"after all kills {error}")
            left = [entry.name for entry in run_folders.list_runs() if not entry.readable]
        if left:
            wrong.append(f"{runs.name} still has {left}")
    return wrong


def _alone(command: str, runs: Path) -> tuple[float, int]:
    """(seconds, bytes) that a command takes when it is left alone, which also proves that it works."""
    began, name = time.monotonic(), command.replace(" ", "-")
    with _runs_in(runs):
        process = COMMANDS[command].start(name)
        said = process.communicate(timeout=_ENDS_WITHIN_S)[0].decode(errors="replace")
    assert process.returncode == 0, f"{command} fails when it is left alone:\n{said}"
    return time.monotonic() - began, sum(path.stat().st_size for path in (runs / name).iterdir())


@contextmanager
def _runs_in(runs: Path) -> Iterator[None]:
    """This process and those it starts keep their runs there."""
    before = os.environ.get("ATTNPROF_RUNS")
    os.environ["ATTNPROF_RUNS"] = str(runs)
    try:
        yield
    finally:
        if before is None:
            del os.environ["ATTNPROF_RUNS"]
        else:
            os.environ["ATTNPROF_RUNS"] = before
