"""A seeded part of python -m tests.kill."""

from __future__ import annotations

from pathlib import Path

from tests.kill.harness import kill_many
from tests.kill.ways import WAYS


def test_an_import_stopped_in_any_way_leaves_a_whole_run_or_says_what_it_leaves(tmp_path: Path) -> None:
    outcome = kill_many(10, seed=1, folder=tmp_path, commands=("import",))
    assert outcome.broken == []
    assert outcome.left.total() == 10


def test_a_run_stopped_in_any_way_leaves_no_process_and_says_what_can_be_resumed(tmp_path: Path) -> None:
    outcome = kill_many(7, seed=2, folder=tmp_path, commands=("run program",), ways=WAYS)
    assert outcome.broken == []
    assert {way for way, _ in outcome.left} == set(WAYS)
