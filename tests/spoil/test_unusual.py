"""Programs that are no plain generation, and traces whose edges are cut: whole ones raise no alarm."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.spoil.harness import FOUND, judge
from tests.spoil.spoils import spoils
from tests.spoil.traces import run_of
from tests.spoil.unusual_scenes import make_unusual

# Each raised an alarm once: a draft model with heads of its own; a cut first or last call, step or replay.
ONCE = (1, 32, 43, 102, 108, 183, 203, 238, 268, 1067, 1228)


@pytest.mark.parametrize("seeds", [ONCE, range(40)], ids=["once", "first"])
def test_unusual_whole_scenes_raise_no_alarm(seeds: range, tmp_path: Path) -> None:
    for seed in seeds:
        scene = make_unusual(seed)
        failures = run_of(scene, tmp_path / str(seed)).check().failures
        assert not failures, f"{seed}: {scene.line()}: {failures[0].detail}"


def test_with_arguments_what_is_spoilt_of_them_is_found(tmp_path: Path) -> None:
    for seed in range(12):
        scene = make_unusual(seed, records="file")
        for number, one in enumerate(spoils(scene, Random(seed), 4)):
            verdict = judge(seed, scene, one, tmp_path / f"{seed} {number}")
            assert verdict.outcome == FOUND, f"{seed}: {one.kind} {one.detail}: {scene.line()}"
