"""A real capture of a tiny program with one NVTX range, which must arrive."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from attnprof.capture import nsys as nsys_capture
from attnprof.capture.nsys_files import EXPORT
from attnprof.capture.trace_facts import count_ranges
from attnprof.doctor.trial import TrialCapture
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


def try_capture(nsys: Path, *, limit_s: float) -> TrialCapture:
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
            return TrialCapture(0, spent(), f"nsys had not finished after {limit_s:g} s", timed_out=True)
        except CaptureError as error:
            return TrialCapture(0, spent(), str(error), error.hint)
        except OSError as error:
            return TrialCapture(0, spent(), str(error))
        if recorded.failure is not None:
            return TrialCapture(0, spent(), str(recorded.failure), recorded.failure.hint)
        arrived = count_ranges(folder / EXPORT, "attn")
        if recorded.exit_code and not arrived:
            return TrialCapture(0, spent(), f"the test program ended with code {recorded.exit_code}")
        return TrialCapture(arrived, spent(), notes=tuple(recorded.notes))
