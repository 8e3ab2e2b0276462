"""Runs attnprof on one damaged trace and says how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import resource
import signal
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import FrameType

from attnprof.errors import AttnprofError
from attnprof.session import load
from attnprof.summary import summarise
from tests.fuzz.mutate import mutated, originals

LIMIT_S = 10
MEMORY_BYTES = 3 << 30


class TooLongError(Exception):
    """An input took more than LIMIT_S seconds."""


@dataclass
class Outcome:
    """How the inputs ended; ``broken``: number, name and reason of each that ended as it may not."""

    ends: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    slowest_s: float = 0.0


def examine(path: Path) -> str:
    """ "result", or the kind of AttnprofError. Anything else is raised."""
    try:
        run = load(path)
        summarise(run, run.check())
    except AttnprofError as error:
        if not error.message or "\n" in error.message:
            raise ValueError(f"no one-line message: {error.message!r}") from error
        return type(error).__name__
    return "result"


def fuzz(count: int, seed: int, folder: Path, *, first: int = 0) -> Outcome:
    """``count`` damaged traces, numbered from ``first``; input ``n`` is the same for the same seed."""
    outcome = Outcome()
    traces = originals()
    names = sorted(traces)
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(first, first + count):
        rng = random.Random(f"{seed}:{number}")
        name = names[number % len(names)]
        content = mutated(rng, name, traces[name])
        place = folder / f"input-{number}"
        place.mkdir(exist_ok=True)
        path = place / name
        path.write_bytes(content)
        before = hashlib.sha256(content).digest()
        began = perf_counter()
        why = ""
        try:
            signal.alarm(LIMIT_S)
            with contextlib.redirect_stdout(io.StringIO()):
                outcome.ends[examine(path)] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            why = "".join(traceback.format_exception(error)[-3:])
        finally:
            signal.alarm(0)
        outcome.slowest_s = max(outcome.slowest_s, perf_counter() - began)
        if not why and hashlib.sha256(path.read_bytes()).digest() != before:
            why = "the input was modified"
        if not why and [entry.name for entry in place.iterdir()] != [name]:
            why = f"written beside the input: {sorted(entry.name for entry in place.iterdir())}"
        if why:
            outcome.broken.append((number, name, why))
        else:
            path.unlink()
            place.rmdir()
    return outcome


def limit_memory() -> None:
    """Bounds this process's address space, so that an input that asks for more fails instead of swapping."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise TooLongError(f"more than {LIMIT_S} s")
