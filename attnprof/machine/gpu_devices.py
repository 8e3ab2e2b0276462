"""Whether there is an NVIDIA GPU, told without torch."""

from __future__ import annotations

from pathlib import Path


def has_gpu() -> bool:
    """An NVIDIA GPU by its device files."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
