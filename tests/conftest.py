"""Paths and readers that every test may use."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
GOLDEN = TESTS / "data" / "golden"
SHARED = TESTS.parent.parent / "shared"


def golden_rows(name: str) -> list[dict[str, Any]]:
    """The rows of one golden JSON Lines file, plain or gzip."""
    path = GOLDEN / name
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or leaves runs in the folder pytest was started from."""
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path / "attnprof-runs"))
    monkeypatch.delenv("ATTNPROF_NSYS", raising=False)
