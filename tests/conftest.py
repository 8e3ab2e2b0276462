"""Paths and readers that every test may use."""

from __future__ import annotations

import fcntl
import gzip
import json
import tempfile
from collections.abc import Generator
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """No test kills nsys while another records: all on a machine share memory, and its lock dies with one."""
    kills = item.get_closest_marker("kills_nsys")
    if not kills and not item.get_closest_marker("nsys"):
        return (yield)
    with Path(tempfile.gettempdir(), "attnprof-tests-nsys.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if kills else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or leaves runs in the folder pytest was started from."""
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path / "attnprof-runs"))
    monkeypatch.delenv("ATTNPROF_NSYS", raising=False)
