"""Layers of a kind: alternating, first and last, experts, encoders, and layers that change kind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from attnprof import load
from attnprof.analysis.call_slots import ALIKE, slots
from attnprof.analysis.layer_kinds import LayerKind, kind_changes, layer_kinds
from attnprof.analysis.splits import SplitRow, split_rows
from attnprof.report.layer_words import change_sentence, kind_titles
from attnprof.report.page_contents import make_page
from attnprof.report.summary import summarise
from tests.conftest import TESTS
from tests.support.command import attnprof
from tests.support.hybrid_trace import full, hybrid_trace, sliding, with_encoder

F5 = str(TESTS / "data" / "cases" / "F5_alternating_layers.json.gz")
GEMMA = [full if layer % 6 == 5 else sliding for layer in range(24)]


def rows_and_kinds(path: Path) -> tuple[list[SplitRow], list[LayerKind]]:
    rows = split_rows(load(path).check().calls)
    return rows, layer_kinds(rows)


def test_alternating_layers_that_nobody_names_are_two_rows() -> None:
    rows, kinds = rows_and_kinds(Path(F5))
    assert [(row.num_splits, row.steps, row.calls) for row in rows] == [(8, (1, 6), 60), (16, (1, 6), 12)]
    assert [[place for _, place in kind.slots] for kind in kinds] == [
        [0, 1, 2, 3, 4, 6, 7, 8, 9, 10],
        [5, 11],
    ]


def test_each_kind_has_one_sentence_and_one_row() -> None:
    out = attnprof("report", F5).out
    answer = " ".join(out.partition("answer")[2].partition("observed ")[0].split())
    assert answer.count("decode splits the keys in 8:") == answer.count("decode splits the keys in 16:") == 1
    assert answer.count(".") == 2
    timeline = out.partition("Split timeline")[2].partition("\n\n")[0].splitlines()[3:]
    assert len(timeline) == 2
    assert "10 of 12" in timeline[0]
    assert "2 of 12" in timeline[1]


def test_alternating_layers_are_no_change_over_time() -> None:
    done = attnprof("diff", F5, F5)
    assert done.code == 0
    assert "EQUAL" in done.out
    assert "switches" not in done.out


def test_alternation_in_steps_that_one_run_has_alone_is_no_switch(tmp_path: Path) -> None:
    short = hybrid_trace(tmp_path / "short.json", GEMMA, steps=2, named=False)
    long = hybrid_trace(tmp_path / "long.json", GEMMA, steps=6, named=False)
    out = " ".join(attnprof("diff", str(short), str(long)).out.split())
    assert "decode steps 3–6." in out
    assert "switches" not in out


@pytest.mark.parametrize("named", [True, False])
def test_interleaved_layers_are_named_by_their_window(tmp_path: Path, named: bool) -> None:
    rows, kinds = rows_and_kinds(hybrid_trace(tmp_path / "t.json", GEMMA, named=named))
    assert len(rows) == len(kinds) == 2
    assert [len(kind.slots) for kind in kinds] == [20, 4]
    titles = kind_titles(kinds)
    if named:
        assert titles == ["20 sliding layers", "4 full layers"]
        assert kinds[1].layers == (5, 11, 17, 23)
    else:
        assert titles == ["20 of a step's 24 calls sliding", "4 of a step's 24 calls full"]


def test_first_and_last_layers_apart(tmp_path: Path) -> None:
    layers = [full, *[sliding] * 6, full]
    _, kinds = rows_and_kinds(hybrid_trace(tmp_path / "t.json", layers))
    assert [kind.layers for kind in kinds] == [(0, 7), (1, 2, 3, 4, 5, 6)]


def test_experts_do_not_make_another_kind_of_attention(tmp_path: Path) -> None:
    _, kinds = rows_and_kinds(hybrid_trace(tmp_path / "t.json", [full] * 6, experts=[1, 3, 5]))
    assert len(kinds) == 1


def test_the_calls_to_an_encoder_are_a_kind_of_their_own(tmp_path: Path) -> None:
    rows, kinds = rows_and_kinds(hybrid_trace(tmp_path / "t.json", [with_encoder] * 4))
    assert len(rows) == len(kinds) == 2
    assert [{place for _, place in kind.slots} for kind in kinds] == [{0}, {1}]
    assert kind_titles(kinds) == [
        "call 1 of each of 4 layers (1921–2048 keys)",
        "call 2 of each of 4 layers (1409–1536 keys)",
    ]


def test_a_layer_that_changes_kind_is_said(tmp_path: Path) -> None:
    path = hybrid_trace(tmp_path / "t.json", GEMMA, changes={(4, 3): full})
    _, kinds = rows_and_kinds(path)
    (change,) = kind_changes(kinds)
    assert (change.slots, change.step) == (((3, 0),), 4)
    assert change_sentence(change, kinds).startswith(
        "layer 3 changes kind at decode step 4: first like the 19"
    )
    assert "layer 3 changes kind at decode step 4" in " ".join(attnprof("report", str(path)).out.split())


def test_layers_that_all_change_at_once_change_no_kind(tmp_path: Path) -> None:
    path = hybrid_trace(tmp_path / "t.json", [full] * 4, keys=1277)  # 1281 keys are split otherwise
    rows, kinds = rows_and_kinds(path)
    assert len(rows) == 2
    assert len(kinds) == 1
    assert kind_changes(kinds) == []


PATTERNS = {
    "interleaved": (GEMMA, ["20 sliding layers", "4 full layers"]),
    "first and last": ([full, *[sliding] * 6, full], ["6 sliding layers", "2 full layers"]),
    "encoder": (
        [with_encoder] * 4,
        ["call 1 of each of 4 layers (1921–2048 keys)", "call 2 of each of 4 layers (1409–1536 keys)"],
    ),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_kind_has_its_own_charts_costs_and_rows_in_an_export(pattern: str, tmp_path: Path) -> None:
    layers, titles = PATTERNS[pattern]
    path = hybrid_trace(tmp_path / "t.json", layers)
    run = load(path)
    report = summarise(run.recording, run.check())
    page = make_page(run.recording, report)
    assert {chart.title for chart in page.charts} == set(titles)
    figure = run.plot_splits()
    assert {axes.get_title(loc="left") for axes in figure.axes} == set(titles)
    costs = report.tables["splitting"].objects()
    assert {row["layers"] for row in costs} == set(titles)
    counted = run.calls.groupby("layer_kind").size().to_dict()
    assert counted == {kind: sum(row["calls"] for row in costs if row["layers"] == kind) for kind in titles}
    done = attnprof("export", str(path), "--to", "sqlite", "-o", str(tmp_path / "t.db"))
    assert done.code == 0, done.err
    with closing(sqlite3.connect(tmp_path / "t.db")) as db:
        assert dict(db.execute("select layer_kind, calls from layer_kinds").fetchall()) == counted


def test_a_chart_of_a_kind_shows_that_kind_alone(tmp_path: Path) -> None:
    run = load(hybrid_trace(tmp_path / "t.json", GEMMA, keys=1277))  # 1281 keys are split otherwise
    report = summarise(run.recording, run.check())
    drawn = {chart.title: chart.columns for chart in make_page(run.recording, report).charts}
    splits = {
        title: [{mark.num_splits for mark in marks} for marks in columns.marks]
        for title, columns in drawn.items()
    }
    assert splits == {"20 sliding layers": [{8}] * 6, "4 full layers": [{10}] * 3 + [{11}] * 3}
    spent = [sum(filter(None, columns.attention_ns)) for columns in drawn.values()]
    assert sum(spent) == int(run.calls["duration_ns"].sum())


def test_where_layers_are_of_one_kind_nothing_names_it(tmp_path: Path) -> None:
    run = load(hybrid_trace(tmp_path / "t.json", [full] * 4, experts=[1, 3]))
    report = summarise(run.recording, run.check())
    assert [chart.title for chart in make_page(run.recording, report).charts] == [""]
    assert {row["layers"] for row in report.tables["splitting"].objects()} == {""}
    assert run.calls["layer_kind"].isna().all()
    assert len(run.plot_splits().axes) == 1


def test_layers_of_a_public_trace_are_named_by_what_their_kernels_state() -> None:
    path = TESTS / "data" / "traces" / "torch_b200_vllm_eager_trtllmgen_fmha.json.gz"
    _, kinds = rows_and_kinds(path)
    assert kind_titles(kinds) == ["18 of a step's 36 calls sliding", "18 of a step's 36 calls full"]
    assert [kind.calls("prefill") for kind in kinds] == [18, 18]
    assert {kind.geometry.head_dim for kind in kinds} == {64}
    run = load(path)
    charts = make_page(run.recording, summarise(run.recording, run.check())).charts
    assert {chart.title for chart in charts} == set(kind_titles(kinds))
    for chart in charts:
        assert (chart.columns.kind, len(chart.columns.marks)) == ("call", 18)
        assert len(set(chart.columns.marks)) == 1


def test_many_layers_are_named_in_whole_spans(tmp_path: Path) -> None:
    layers = [sliding if layer % 4 else full for layer in range(40)]
    run = load(hybrid_trace(tmp_path / "t.json", layers, steps=2))
    told = [row[1] for row in summarise(run.recording, run.check()).tables["kinds"].for_people()]
    assert told == ["0, 4, 8, 12, 16, 20, …", "1–3, 5–7, 9–11, 13–15, …"]


def test_kinds_of_calls_that_nobody_names_are_told_apart_too() -> None:
    assert load(F5).calls["layer_kind"].value_counts().tolist() == [60, 12]


def test_steps_with_different_numbers_of_calls_are_not_compared_place_by_place() -> None:
    step = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    key = np.array([0, 1, 0, 0, 1, 0, 1, 0])
    zero = np.zeros_like(step)
    place, breaks = slots((zero,), step, key)
    assert place.tolist() == [ALIKE, ALIKE - 1, ALIKE, ALIKE, ALIKE - 1, ALIKE, ALIKE - 1, ALIKE]
    assert len(set(breaks.tolist())) == 1
    assert slots((zero,), step, zero)[0].tolist() == [0] * len(step)


def test_what_is_missing_from_a_step_between_is_two_runs() -> None:
    step = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3])
    key = np.array([0, 0, 1, 0, 0, 0, 1, 0, 1])
    place, breaks = slots((np.zeros_like(step),), step, key)
    rare = place == ALIKE - 1
    assert step[rare].tolist() == [0, 2, 3]
    first, second, third = breaks[rare].tolist()
    assert first != second == third
