"""How much was compared: it stands first, gates a check, and decides what an OK may rest on."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from attnprof.check.coverage import Coverage
from attnprof.check.verdicts import FAILED, Verdict
from attnprof.report.html import save_page
from attnprof.report.page_contents import make_page
from attnprof.report.summary import summarise
from attnprof.runs.run import load
from tests.support.command import attnprof

QWEN = str(Path(__file__).parent.parent / "data" / "traces" / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz")
NOT_COMPARED = (
    Verdict.EXPLAINED, Verdict.NOT_RECORDED, Verdict.NOT_MODELLED, Verdict.NOT_READ, Verdict.NOT_OBSERVED,
)  # fmt: skip


def test_whatever_mixture_of_reasons_nothing_compared_is_no_ok() -> None:
    for number in range(1, len(NOT_COMPARED) + 1):
        for mixture in combinations(NOT_COMPARED, number):
            counts = Counter(dict.fromkeys(mixture, 2))
            why, hint = Coverage(counts).nothing_compared()
            assert why.startswith("nothing was compared: "), mixture
            assert hint, mixture
            for outcome in (Verdict.MATCH, *FAILED):
                some = Coverage(counts + Counter({outcome: 1}))
                assert some.nothing_compared() == ("", "")
                assert some.compared == 1
    every = {verdict for verdict in Verdict if verdict not in NOT_COMPARED}
    assert every == {Verdict.MATCH, *FAILED}  # a new verdict is on one of the two sides


def test_how_much_was_compared_is_the_first_line() -> None:
    done = attnprof("check", QWEN)
    assert done.code == 0
    assert done.out.splitlines()[0] == (
        "compared 24 of 34 calls: 24 match; 10 not compared: arguments not recorded"
    )


@pytest.mark.parametrize(
    ("least", "code", "says"),
    [
        ("0", 0, "OK: 24 of 34"),
        ("70.5", 0, "OK: 24 of 34"),
        ("71", 1, "70.6 % were compared, not 71 %"),
        ("100", 1, "FAILED: none of 34 attention calls"),
    ],
)
def test_the_gate_is_the_share_of_calls_compared(least: str, code: int, says: str) -> None:
    done = attnprof("check", QWEN, "--min-compared", least)
    assert done.code == code
    assert says in done.out


@pytest.mark.parametrize("least", ["0", "1", "100"])
def test_where_nothing_was_compared_the_gate_is_not_what_failed(least: str) -> None:
    fa3 = str(Path(__file__).parent.parent / "data" / "cases" / "F15_fa3_upstream_names.json")
    done = attnprof("check", fa3, "--min-compared", least)
    assert done.code == 3
    assert "nothing was compared" in done.out


def test_the_strength_of_an_explanation_is_in_table_json_and_page(tmp_path: Path) -> None:
    run = load(QWEN)
    (strength,) = run.check().strengths
    assert run.check().strengths == {strength: 10}
    assert f"10 {strength}" in attnprof("check", QWEN).out
    told = json.loads(attnprof("check", QWEN, "--format", "json").out)
    assert told["explained"] == {strength: 10}
    explained = [row for row in told["calls"] if row["verdict"] == "explained"]
    assert {row["strength"] for row in explained} == {strength}
    assert all(0 < row["share"] <= 1 for row in explained)
    page = make_page(run.recording, summarise(run.recording, run.check()))
    save_page(page, tmp_path / "page.html", run.files)
    assert f"10 {strength}" in (tmp_path / "page.html").read_text()
    with_arguments = {row["strength"] for row in told["calls"] if row["verdict"] == "match"}
    assert with_arguments == {None}
