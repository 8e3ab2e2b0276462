"""Runs torch.profiler around a program, from the moment the program imports torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_CONFIG = "KINETO_CONFIG"
_GPU_BUFFER_MB = 2047  # Kineto counts the bytes in 32 bits: 4096 would be none


@contextmanager
def profiled(trace: Path, *, shapes: bool = False) -> Iterator[None]:
    """Profiles the block into ``trace``, a .json.gz; no file where torch is never imported.

    Stacks stay off, and ``shapes`` where nobody asks: they double the trace, and the call records hold the
    shapes of all calls but those inside graphs of torch.compile.
    """
    from attnprof.instrument.imports import when_imported

    profilers: list[Any] = []

    def start(torch: ModuleType) -> None:
        with suppress(Exception):  # the program goes on without: that there is no trace is said
            profiler = torch.profiler.profile(record_shapes=shapes)
            with large_gpu_buffer():
                profiler.__enter__()
            profilers.append(profiler)

    pid = os.getpid()
    forget = when_imported("torch", start)
    try:
        yield
    finally:
        forget()
        for profiler in profilers if os.getpid() == pid else ():  # not in a forked process
            profiler.__exit__(None, None, None)
            profiler.export_chrome_trace(str(trace))


@contextmanager
def large_gpu_buffer() -> Iterator[None]:
    """A profiler that starts in the block records up to 2 GB of GPU activity.

    By default Kineto stops recording the GPU after 128 MB, some half a million kernels, without a word in the
    trace. Its buffers are taken as they are needed. A KINETO_CONFIG that is set already is left alone.
    """
    if _CONFIG in os.environ:
        yield
        return
    with tempfile.NamedTemporaryFile("w", prefix="attnprof-", suffix=".conf") as config:
        config.write(f"ACTIVITIES_MAX_GPU_BUFFER_SIZE_MB = {_GPU_BUFFER_MB}\n")
        config.flush()
        os.environ[_CONFIG] = config.name
        try:
            yield
        finally:
            del os.environ[_CONFIG]
