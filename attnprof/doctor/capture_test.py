"""A real capture of a tiny program with one NVTX range, which must arrive."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from attnprof.capture import nsys as nsys_capture
from attnprof.capture.nsys_files import EXPORT
from attnprof.capture.trace_facts import count_ranges
from attnprof.errors import CaptureError
from attnprof.workloads.child import PID_FILE

_GRACE_S = 4.0
# nsys 2022.4 can go on for ever after a program that exits at once, so this one lives for a moment.
_PROGRAM = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
from attnprof.instrument.ranges import NvtxRanges
ranges = NvtxRanges()
channel = ranges.channel("attn")
channel.push(0)
channel.pop()
time.sleep(0.4)
"""


@dataclass(frozen=True, slots=True)
class CaptureTest:
    """``ranges`` is how many of the one range arrived. ``error`` says why there is no export at all, ``fix``
    what to do about it where that is known.

    ``timed_out``: the recorder was ended because it had not finished in time.
    """

    ranges: int
    seconds: float
    error: str = ""
    fix: str = ""
    timed_out: bool = False
    notes: tuple[str, ...] = ()


def try_capture(nsys: Path, *, limit_s: float) -> CaptureTest:
    """Records the program with this nsys, for at most about ``limit_s`` seconds."""
    started = time.monotonic()

    def tick() -> None:
        if time.monotonic() - started > limit_s:
            raise TimeoutError

    def spent() -> float:
        return time.monotonic() - started

    with tempfile.TemporaryDirectory(prefix="attnprof-") as name:
        folder = Path(name)
        child = [sys.executable, "-c", _PROGRAM, str(folder / PID_FILE)]
        session = nsys_capture.Session(os.environ, grace_s=min(_GRACE_S, limit_s), tick=tick)
        try:
            recorded = nsys_capture.record(nsys, folder, child, session)
        except TimeoutError:
            return CaptureTest(0, spent(), f"nsys had not finished after {limit_s:g} s", timed_out=True)
        except CaptureError as error:
            return CaptureTest(0, spent(), str(error), error.hint)
        except OSError as error:
            return CaptureTest(0, spent(), str(error))
        if recorded.failure is not None:
            return CaptureTest(0, spent(), str(recorded.failure), recorded.failure.hint)
        arrived = count_ranges(folder / EXPORT, "attn")
        if recorded.exit_code and not arrived:
            return CaptureTest(0, spent(), f"the test program ended with code {recorded.exit_code}")
        return CaptureTest(arrived, spent(), notes=tuple(recorded.notes))
