"""What one call's verdict says, for launches recorded from upstream and for every way to differ from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attnprof.calls.call_files import parse_call
from attnprof.check.check_run import Verdict, compare
from attnprof.check.observed_shape import ObservedShape
from attnprof.dispatch import predict
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import KernelLaunch, Prediction
from tests.conftest import golden_rows

ROWS = golden_rows("fa2_launches_2.8.3.jsonl.gz")


def shape(launches: list[KernelLaunch]) -> ObservedShape | None:
    if not launches:
        return None
    return ObservedShape(tuple(launches), tuple(parse_kernel_name(launch.kernel) for launch in launches))


def recorded(row: dict[str, Any]) -> list[KernelLaunch]:
    return [
        KernelLaunch(launch["kernel"], tuple(launch["grid"]), tuple(launch["block"]))
        for launch in row["expect"]["launches"]
    ]


def split_row() -> tuple[Prediction, list[KernelLaunch]]:
    row = next(row for row in ROWS if row["expect"]["num_splits"] == 6)
    return predict(*parse_call(row)), recorded(row)


def test_recorded_launches_match() -> None:
    assert {compare(predict(*parse_call(row)), shape(recorded(row)))[0] for row in ROWS} == {Verdict.MATCH}


def test_the_recorders_spelling_does_not_matter() -> None:
    prediction, launches = split_row()
    nsys = [
        replace(launch, kernel=launch.kernel.replace("false", "(bool)0").replace("> >", ">>"))
        for launch in launches
    ]
    assert compare(prediction, shape(nsys)) == (Verdict.MATCH, "")


def test_another_split_count() -> None:
    prediction, launches = split_row()
    grid = launches[0].grid
    launches[0] = replace(launches[0], grid=(grid[0], 5, grid[2]))
    assert compare(prediction, shape(launches)) == (Verdict.WRONG_NUM_SPLITS, "ran 5 splits; predicted 6")


def test_another_kernel() -> None:
    prediction, launches = split_row()
    row = next(
        row for row in ROWS if row["expect"]["num_splits"] == 1 and "flash_fwd_kernel" in str(row["expect"])
    )
    verdict, detail = compare(prediction, shape(recorded(row)))
    assert verdict is Verdict.WRONG_KERNEL
    assert (
        detail
        == "ran flash_fwd_kernel; predicted flash_fwd_splitkv_kernel + flash_fwd_splitkv_combine_kernel"
    )
    assert compare(prediction, shape(launches[:1]))[0] is Verdict.WRONG_KERNEL


def test_other_template_arguments_are_named() -> None:
    prediction, launches = split_row()
    assert parse_kernel_name(launches[0].kernel).flag("Is_causal") is True
    launches[0] = replace(launches[0], kernel=launches[0].kernel.replace("> >, true", "> >, false"))
    assert compare(prediction, shape(launches)) == (
        Verdict.WRONG_TEMPLATE,
        "flash_fwd_splitkv_kernel: Is_causal: ran False, predicted True",
    )


def test_another_grid_or_block() -> None:
    prediction, launches = split_row()
    grid = launches[1].grid
    wider = [launches[0], replace(launches[1], grid=(grid[0] + 1, 1, 1))]
    verdict, detail = compare(prediction, shape(wider))
    assert verdict is Verdict.WRONG_GRID
    assert str(grid) in detail
    taller = [replace(launches[0], block=(256, 1, 1)), launches[1]]
    assert compare(prediction, shape(taller))[0] is Verdict.WRONG_GRID


def test_a_missing_and_an_unexpected_kernel() -> None:
    prediction, launches = split_row()
    assert compare(prediction, None)[0] is Verdict.MISSING
    assert compare(Prediction(error="refused"), shape(launches))[0] is Verdict.UNEXPECTED
    assert compare(Prediction(), shape(launches))[0] is Verdict.UNEXPECTED
    assert compare(Prediction(error="refused"), None)[0] is Verdict.MATCH


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_a_meaning(verdict: Verdict) -> None:
    assert verdict.meaning
