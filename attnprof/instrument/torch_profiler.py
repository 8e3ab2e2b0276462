"""Runs torch.profiler around a program, from the moment the program imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def profiled(trace: Path) -> Iterator[None]:
    """Profiles the block into ``trace``, a .json.gz; no file where torch is never imported.

    Shapes and stacks stay off: they double the trace, and the call records hold the shapes.
    """
    from attnprof.instrument.imports import when_imported

    profilers: list[Any] = []

    def start(torch: ModuleType) -> None:
        profiler = torch.profiler.profile()
        profiler.__enter__()
        profilers.append(profiler)

    forget = when_imported("torch", start)
    try:
        yield
    finally:
        forget()
        for profiler in profilers:
            profiler.__exit__(None, None, None)
            profiler.export_chrome_trace(str(trace))
