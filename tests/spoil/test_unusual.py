"""Programs that are no plain generation, and traces whose edges are cut: whole ones raise no alarm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from attnprof.model import Library
from tests.spoil.harness import FOUND, RECORDS, judge
from tests.spoil.scenes import make_scene
from tests.spoil.spoils import spoils
from tests.spoil.traces import run_of
from tests.spoil.unusual_scenes import make_unusual

# Each raised an alarm once: a draft model with heads of its own; a cut first or last call, step or replay.
ONCE = (1, 32, 43, 102, 108, 183, 203, 238, 268, 1067, 1228)

# So did these of servers: (library, seed, kernels cut at either edge).
ONCE_SERVED = (
    ("vllm_flash_attn", 1111248646328059822, (1, 3)),  # a first call whose plan was cut
    ("flash_mla", 792904231591216154, (2, 10)),  # a last call in halves, whose combine kernel was cut
    ("flash_mla", 88424688532072410, (10, 10)),
    ("flash_mla", 1011703916463103113, (0, 0)),  # a prompt beside replays of calls in halves
    ("flash_mla", 879119052090050756, (0, 0)),
    ("flash_mla", 1062031734512074040, (1, 10)),  # a first call of which one half was cut
    ("flash_mla", 1016675163073078134, (1, 10)),  # of two layers: a step begins with either
    ("flash_mla", 414753845227014772, (1, 10)),
    ("vllm_rocm", 15231238607895155, (3, 10)),  # mixed steps, of whose edge's layer one call of two was cut
    ("vllm_rocm", 75998161374972581, (3, 3)),
    ("vllm_rocm", 390229065782752270, (2, 2)),
    ("vllm_rocm", 300072413488555714, (1, 1)),
    ("vllm_rocm", 528043993662452675, (1, 2)),
    ("vllm_rocm", 435925826631632655, (10, 10)),  # which left one layer with two calls
)


@pytest.mark.parametrize("seeds", [ONCE, range(40)], ids=["once", "first"])
def test_unusual_whole_scenes_raise_no_alarm(seeds: range, tmp_path: Path) -> None:
    for seed in seeds:
        scene = make_unusual(seed)
        failures = run_of(scene, tmp_path / str(seed)).check().failures
        assert not failures, f"{seed}: {scene.line()}: {failures[0].detail}"


@pytest.mark.parametrize(("library", "seed", "cut"), ONCE_SERVED)
def test_scenes_of_servers_that_raised_an_alarm_once_raise_none(
    library: Library, seed: int, cut: tuple[int, int], tmp_path: Path
) -> None:
    records = ("none", "file") if any(cut) else RECORDS
    scene = replace(make_scene(seed, records=records, library=library), cut=cut)
    assert scene.records == "none"
    assert [one.detail for one in run_of(scene, tmp_path).check().failures] == []


def test_with_arguments_what_is_spoilt_of_them_is_found(tmp_path: Path) -> None:
    for seed in range(12):
        scene = make_unusual(seed, records="file")
        for number, one in enumerate(spoils(scene, Random(seed), 4)):
            verdict = judge(seed, scene, one, tmp_path / f"{seed} {number}")
            assert verdict.outcome == FOUND, f"{seed}: {one.kind} {one.detail}: {scene.line()}"
