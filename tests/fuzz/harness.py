"""Runs attnprof on damaged inputs, each in a process of its own, and says how each ended."""

from __future__ import annotations

import faulthandler
import functools
import gc
import json
import os
import resource
import select
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import typer.main

from tests.fuzz.damage_folders import damaged_subject, lay_out
from tests.fuzz.dice import Dice
from tests.fuzz.folder_state import state
from tests.fuzz.subjects import RUNS, Subject, built_trace, subjects
from tests.fuzz.uses import LONGEST, Place, command, examine

_HUNG_S = 45  # when a process is given up: it does a few things, each of which has LIMIT_S
# What a process may grow by: libraries' own pages, and so much per byte of input.
_BASE_BYTES = 96 << 20
_BYTES_PER_BYTE = 8
_ADDRESS_SPACE = 4 << 30


@dataclass(frozen=True)
class Ending:
    """How one input ended.

    ``end``: "result" or the kind of error; ``used``: how a use of it ended; ``why``: what is wrong, "" for
    nothing. ``grown`` is what the process grew by at its largest and ``size`` the input's size, in bytes.
    """

    number: int
    subject: str
    recipe: tuple[str, ...]
    end: str
    used: str | None
    why: str
    seconds: float
    grown: int
    size: int


@dataclass
class Outcome:
    """How all inputs ended, counted, and the extremes among them."""

    ends: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    broken: list[Ending] = field(default_factory=list)
    slowest: Ending | None = None
    largest: Ending | None = None

    def add(self, ending: Ending) -> None:
        if ending.why:
            self.broken.append(ending)
        else:
            self.ends[ending.end] += 1
        if ending.used:
            self.used[ending.used.split()[0]] += 1
        if self.slowest is None or ending.seconds > self.slowest.seconds:
            self.slowest = ending
        if self.largest is None or ending.grown > self.largest.grown:
            self.largest = ending

    def line(self) -> str:
        """All of it in one line."""
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        count = sum(self.ends.values()) + len(self.broken)
        slowest, largest = self.slowest, self.largest
        extremes = ""
        if slowest and largest:
            extremes = (
                f"; slowest {slowest.seconds:.1f} s (input {slowest.number}); peak memory"
                f" {largest.grown / 1e6:.0f} MB for {largest.size / 1e6:.1f} MB (input {largest.number})"
            )
        used, broken = sum(self.used.values()), len(self.broken)
        return f"{count} inputs: {ends}; {used} used further; {broken} broken{extremes}"


def make_input(number: int, seed: int, everything: Sequence[Subject]) -> tuple[Dice, Subject]:
    """Input ``number`` of a seed, and the dice that made it."""
    dice = Dice(f"{seed}:{number}")
    return dice, damaged_subject(dice, dice.pick(everything))


def fuzz(count: int, seed: int, folder: Path, *, first: int = 0, jobs: int = 1) -> Outcome:
    """``count`` damaged inputs, numbered from ``first``, ``jobs`` at once; what broke stays in ``folder``."""
    outcome = Outcome()
    for ending in endings(range(first, first + count), seed, folder, jobs):
        outcome.add(ending)
    return outcome


def endings(numbers: Sequence[int], seed: int, folder: Path, jobs: int) -> Iterator[Ending]:
    """How each input ends, in order."""
    _warm_up(folder)
    everything = subjects()
    gc.freeze()
    tasks = ((number, seed, folder, everything) for number in numbers)
    if jobs == 1:
        yield from map(_one, tasks)
        return
    global _EVERYTHING
    _EVERYTHING = everything
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_one_of, ((number, seed, folder) for number in numbers), chunksize=4)


_EVERYTHING: list[Subject] = []


def _one_of(task: tuple[int, int, Path]) -> Ending:
    return _one((*task, _EVERYTHING))


def _warm_up(folder: Path) -> None:
    """Writes a trace to compare with and uses it, so that no child has to import what the commands need."""
    whole, page, kept = folder / "whole.sqlite", folder / "page.html", os.environ.get("ATTNPROF_RUNS")
    typer.main.get_command = functools.cache(typer.main.get_command)  # building it takes as long as a command
    whole.unlink(missing_ok=True)
    built_trace(whole)
    os.environ["ATTNPROF_RUNS"] = str(folder / RUNS)
    for arguments in (
        ("report", whole, "--html", page), ("check", whole), ("doctor", whole), ("runs",), ("import", whole),
        ("predict", "--seqlen-k", "128"), ("export", whole, "-o", folder / "exported"),
        ("diff", whole, whole), ("report", whole, "--report", "nvtx_gpu_proj_trace"),
    ):  # fmt: skip
        command(*arguments)
    for made in (page, folder / "exported"):
        made.unlink()
    shutil.rmtree(folder / RUNS)
    del os.environ["ATTNPROF_RUNS"]
    if kept is not None:
        os.environ["ATTNPROF_RUNS"] = kept


def _one(task: tuple[int, int, Path, Sequence[Subject]]) -> Ending:
    """Makes the input, and examines it in a process of its own."""
    number, seed, folder, everything = task
    place = folder / f"input-{number}"
    shutil.rmtree(place, ignore_errors=True)
    (place / "out").mkdir(parents=True)
    dice, subject = make_input(number, seed, everything)
    size = lay_out(subject.files, place / "in")
    before = state(place / "in")
    where = Place(place / "in", place / "in" / subject.target, place / "out", folder / "whole.sqlite")
    name, kind, using = subject.name, subject.kind, Dice(f"{seed}:{number}:use")
    del subject  # what is examined must find no memory to use again
    done = _in_child(lambda: _examine(using, kind, where), place / "log", limit_s=_HUNG_S)
    ending = Ending(
        number=number,
        subject=name,
        recipe=tuple(dice.recipe),
        end=done.get("end", ""),
        used=done.get("used"),
        why=done.get("why", ""),
        seconds=done.get("seconds", 0.0),
        grown=done.get("grown", 0),
        size=size,
    )
    return _judged(ending, before, place)


def _judged(ending: Ending, before: object, place: Path) -> Ending:
    """The ending with what is wrong beside it; the input goes where nothing is."""
    why = ending.why
    allowed = _BASE_BYTES + _BYTES_PER_BYTE * ending.size
    if not why and state(place / "in") != before:
        why = "the input was modified, or something was written beside it"
    if not why and ending.grown > allowed:
        why = f"took {ending.grown / 1e6:.0f} MB for an input of {ending.size / 1e6:.1f} MB"
    if why:
        (place / "why.txt").write_text(
            f"{ending.subject}: {', '.join(ending.recipe)}\n{why}\n", errors="replace"
        )
        return Ending(**{**asdict(ending), "why": why})
    shutil.rmtree(place)
    return ending


def _examine(dice: Dice, kind: str, place: Place) -> dict[str, object]:
    os.environ["ATTNPROF_RUNS"] = str(place.out / RUNS)
    os.environ["ATTNPROF_NSYS"] = "/nowhere/nsys"  # a converter takes a second per report
    os.chdir(place.out)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + _ADDRESS_SPACE, hard))
    LONGEST[0] = 0.0
    before = memory("VmRSS")
    end, used = examine(dice, kind, place)  # type: ignore[arg-type]
    return {"end": end, "used": used, "seconds": LONGEST[0], "grown": max(0, memory("VmHWM") - before)}


def memory(what: str) -> int:
    """A figure of this process from the kernel, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _in_child(work: object, log: Path, *, limit_s: float) -> dict:  # type: ignore[type-arg]
    """What ``work`` returns in a forked process; why not, where it raises, dies or does not end in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            with log.open("w") as errors:
                os.dup2(errors.fileno(), 2)
                faulthandler.enable(errors)
                faulthandler.dump_traceback_later(limit_s - 0.2, file=errors)
                try:
                    answer = work()  # type: ignore[operator]
                except BaseException as error:
                    answer = {"why": "".join(traceback.format_exception(error)[-4:])[-3000:]}
                faulthandler.cancel_dump_traceback_later()
                with os.fdopen(writing, "w") as out:
                    json.dump(answer, out)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    answer = _read(reading, limit_s)
    if answer is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer is None:
        return {"why": f"did not end in {limit_s} s\n{_where(log)}"}
    if not answer:
        return {"why": f"died: {_status(status)}\n{_where(log)}"}
    found: dict[str, object] = json.loads(answer)
    return found


def _where(log: Path) -> str:
    """The innermost frames of what a process was doing."""
    return "\n".join(log.read_text(errors="replace").splitlines()[:12])


def _read(pipe: int, limit_s: float) -> bytes | None:
    """All that comes out of a pipe; None where its other end stays open too long."""
    deadline, parts = perf_counter() + limit_s, []
    with os.fdopen(pipe, "rb", buffering=0) as opened:
        while True:
            ready, _, _ = select.select([opened], [], [], max(0.0, deadline - perf_counter()))
            if not ready:
                return None
            part = opened.read(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)


def _status(status: int) -> str:
    return (
        f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
    )


__all__ = ["Ending", "Outcome", "endings", "fuzz", "make_input", "memory", "state"]
