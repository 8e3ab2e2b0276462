"""Direct calls under torch.profiler: which kernels each one launched."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attnprof.check.observed_calls import ObservedCalls, ObservedShape, observe
from attnprof.instrument.ranges import RecordFunctionRanges
from attnprof.instrument.torch_profiler import large_gpu_buffer
from attnprof.trace.open_trace import open_trace
from attnprof.trace.timeline import build_timeline


def _wait() -> None:
    """Until the GPU has nothing left to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def profiling(trace: Path, *, cpu: bool = True) -> Any:
    """Profiles the block into ``trace``; without ``cpu`` only kernels and launches are kept."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CUDA] + ([ProfilerActivity.CPU] if cpu else [])
    _wait()
    with ExitStack() as stack:
        with large_gpu_buffer():
            profiler = stack.enter_context(profile(activities=activities))
        yield
        _wait()
    profiler.export_chrome_trace(str(trace))


def observe_calls(
    thunks: Sequence[Callable[[], Any]],
) -> list[tuple[ObservedShape | None, str | None]]:
    """What each thunk launched, or the first line of what it raised."""
    channel = RecordFunctionRanges().channel("attn")
    errors: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "calls.json"
        with profiling(trace):
            for number, thunk in enumerate(thunks):
                channel.push(number)
                try:
                    thunk()
                except RuntimeError as error:
                    errors[number] = first_line(error)
                finally:
                    channel.pop()
        observed = observe(build_timeline(open_trace(trace)))
    shapes = by_sequence(observed)
    return [(shapes.get(number), errors.get(number)) for number in range(len(thunks))]


def by_sequence(observed: ObservedCalls) -> dict[int, ObservedShape]:
    """Sequence number to what ran."""
    return {
        seq: observed.shapes[shape]
        for seq, shape in zip(observed.seq.tolist(), observed.shape.tolist(), strict=True)
        if seq >= 0
    }


def first_line(error: BaseException) -> str:
    """The message a library wrote, without torch's stack of C++ frames."""
    return str(error).strip().partition("\n")[0]
