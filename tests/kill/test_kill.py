"""A seeded part of python -m tests.kill."""

from __future__ import annotations

from pathlib import Path

from tests.kill.harness import kill_many


def test_an_import_killed_at_any_moment_leaves_a_whole_run_or_none(tmp_path: Path) -> None:
    outcome = kill_many(9, seed=1, runs=tmp_path / "attnprof-runs", commands=("import",))
    assert outcome.broken == []
    assert sum(outcome.left.values()) == 9
