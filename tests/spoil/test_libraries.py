"""A few spoils and whole traces of every library of the registry.

``python -m tests.spoil --library each`` draws more.
"""

from __future__ import annotations

from functools import cache

import pytest

from attnprof.dispatch.libraries import LIBRARIES
from tests.spoil.harness import Tally, alarm_of_whole, judge_scene
from tests.spoil.libraries import NO_SCENES, SERVED
from tests.spoil.scenes import PROGRAMS, make_scene

SCENES = {*SERVED, *PROGRAMS}
BARE_MISSES = 1  # without records, of these few spoils; docs/evidence.md has the share of many
SEED, SPOILT, WHOLE = 3, 6, 10  # scenes, of ten spoils each, and whole traces
EAGER = ("sglang_triton", "flex_attention", "vllm_rocm")  # of which no step is drawn as captured
COSTLY = (
    "vllm_flash_attn",
    "flash_attn_3",
    "flash_attn",
    "torch",
)  # whose builds are many


def test_every_library_has_scenes_or_it_is_said_why_not() -> None:
    assert set(LIBRARIES) == SCENES | set(NO_SCENES)
    assert not SCENES & set(NO_SCENES)
    assert all(NO_SCENES.values())


@cache
def tally(library: str) -> Tally:
    found = Tally()
    for number in range(SPOILT // 3 if library in COSTLY else SPOILT):
        for verdict in judge_scene(SEED, number, 10, library=library):
            found.add(verdict)
    return found


@pytest.mark.parametrize("library", sorted(SCENES))
def test_what_is_spoilt_of_a_library_is_found(library: str) -> None:
    of_all = tally(library)
    assert of_all.broken == []
    missed = [f"{one.kind} {one.detail}: {one.scene}" for one in of_all.missed]
    assert [one.records for one in of_all.missed if one.records != "none"] == [], missed
    assert len(missed) <= BARE_MISSES, missed
    assert sum(of_all.rate(recorded)[0] for recorded in ("without records", "with records")) >= 10


@pytest.mark.parametrize("library", sorted(SCENES))
def test_whole_traces_of_a_library_raise_no_alarm(library: str) -> None:
    count = WHOLE // 2 if library in COSTLY else WHOLE
    assert [one for n in range(count) if (one := alarm_of_whole(SEED, n, library=library))] == []


@pytest.mark.parametrize("library", sorted(SERVED))
def test_scenes_are_eager_and_captured_with_records_and_without(library: str) -> None:
    scenes = [make_scene(seed, records=("none", "file"), library=library) for seed in range(60)]
    assert {scene.library for scene in scenes} == {library}
    assert {"none", "file"} == {scene.records for scene in scenes}
    assert False in {bool(scene.graphs) for scene in scenes}
    assert any(scene.graphs for scene in scenes) or library in EAGER
