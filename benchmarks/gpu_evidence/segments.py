"""A long program profiled in segments of some steps each, so that no profiler's buffer fills up."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprof.instrument import Recorder
from attnprof.instrument.ranges import NoRanges
from benchmarks.gpu_evidence.profiled import profiling

STEPS = 64


@dataclass(frozen=True)
class Segment:
    """A trace and the number of the first attention call in it."""

    trace: Path
    first_call: int


class SegmentedRecorder(Recorder):
    """Records calls without ranges; kernels and launches are profiled anew every STEPS steps.

    A range per call needs the profiler's CPU side, whose trace of 512 steps is too large to read.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(NoRanges())
        self.segments: list[Segment] = []
        self._folder = folder
        self._profiled = ExitStack()

    def begin_step(self, phase: str, *given: Any) -> tuple[Any, ...]:
        if len(self.steps) % STEPS == 0:
            self.close()
            segment = Segment(self._folder / f"segment-{len(self.segments)}.json", self.num_calls)
            self.segments.append(segment)
            self._profiled.enter_context(profiling(segment.trace, cpu=False))
        return super().begin_step(phase, *given)

    def close(self) -> int:
        """Waits for the GPU and writes the segment that is open, if one is."""
        self._profiled.close()
