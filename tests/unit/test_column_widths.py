"""Tables at 80 and 100 columns: nothing is cut to an ellipsis, names stay apart, what is left out is said."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from attnprof import load
from attnprof.report.column_widths import fitted, shortened
from attnprof.report.console import Console
from attnprof.report.layer_words import kind_labels, kind_titles
from attnprof.report.summary import summarise
from attnprof.report.tables import Column, Table, table_text
from tests.conftest import TESTS
from tests.support.hybrid_trace import Layer, full, hybrid_trace, sliding, with_encoder

TRACES = sorted((TESTS / "data" / "traces").glob("torch_h100_*"))


def widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest.mark.parametrize("path", [*TRACES, None], ids=lambda path: path.name if path else "hybrid")
def test_every_table_of_a_report_fits(path: Path | None, tmp_path: Path) -> None:
    layers = [full if layer % 6 == 5 else sliding for layer in range(24)]
    run = load(path or hybrid_trace(tmp_path / "hybrid.json", layers))
    tables = summarise(run.recording, run.check()).tables.values()
    shown = [table for table in tables if table.rows and table.shown is not None]
    assert shown
    for table, width in product(shown, (80, 100)):
        text = table_text(table, Console(width))
        assert widest(text) <= width
        head = text.splitlines()[0]
        assert "…" not in head
        titles = re.split(r"\s{2,}", head.strip())
        left_out = " ".join(text.split()).partition("left out at this width: ")[2]
        for index, column in enumerate(table.columns):
            if any(row[index] for row in table.for_people()):
                assert (column.title in titles) != (column.title in left_out.split(", ")), column


def test_two_names_that_differ_in_their_middle_stay_two() -> None:
    names = [f"flash_fwd_hdim{size}_bf16_causal_sm90_a_long_ending_of_a_name" for size in (64, 128, 256)]
    short = shortened(names, 24)
    assert len(set(short)) == 3
    assert all(len(name) <= 24 for name in short)
    long = [f"{letter}{'x' * 40}{letter}{'x' * 40}" for letter in "ab"]  # no words to cut between
    assert [len(name) for name in shortened(long, 24)] == [24, 24]
    assert len(set(shortened(long, 24))) == 2


@pytest.mark.parametrize("width", [20, 24, 30])
def test_a_name_is_cut_between_its_words(width: int) -> None:
    names = ["flash_fwd_splitkv_combine_of_partial_results", "fmhaSm100a H64 Sliding P16 Context", "short"]
    words = {word for name in names for word in re.split("[_ ]", name)}
    for name in shortened(names, width):
        assert len(name) <= width
        assert set(re.split("[_ …]", name)) <= {*words, ""}


def test_what_tells_names_apart_is_kept() -> None:
    names = ["fmhaSm100a H64 Sliding P16 Context", "fmhaSm100a H64 Causal P16 Context"]
    assert shortened(names, 20) == ["…Sliding P16 Context", "…Causal P16 Context"]


def test_what_every_kernel_is_called_goes_first() -> None:
    assert shortened(["flash_fwd_splitkv_kernel + combine"], 27) == ["flash_fwd_splitkv + combine"]
    same_without = shortened(["launch_kernel_of_something", "launch_of_something_kernel"], 18)
    assert len(set(same_without)) == 2


def test_the_least_useful_column_is_left_out_and_named() -> None:
    columns = (
        Column("name"),
        Column("a", right=True),
        Column("b", right=True, use=0),
        Column("c", right=True),
    )
    rows = [("attention", "1" * 20, "2" * 20, "3" * 20)]
    kept, cells = fitted(columns, rows, 60)
    assert kept == [0, 1, 3]
    assert cells == [["attention", "1" * 20, "3" * 20]]
    text = table_text(Table("t", columns, rows, rows), Console(60))
    assert text.splitlines()[-1] == "left out at this width: b"
    assert "left out" not in table_text(Table("t", columns, rows, rows), Console(100))


def test_of_columns_equally_useful_the_rightmost_goes() -> None:
    columns = [Column(name, right=True) for name in "abc"]
    assert fitted(columns, [["1" * 20] * 3], 50)[0] == [0, 1]
    assert fitted(columns, [["1" * 90] * 3], 50)[0] == [0]


@pytest.mark.parametrize(
    "layers", [[full, *[sliding] * 5] * 2, [with_encoder] * 4], ids=["hybrid", "encoder"]
)
@pytest.mark.parametrize("width", [80, 100])
def test_what_a_kind_is_called_is_never_cut(layers: list[Layer], width: int, tmp_path: Path) -> None:
    run = load(hybrid_trace(tmp_path / "t.json", layers))
    report = summarise(run.recording, run.check())
    told = " ".join(table_text(report.tables["kinds"], Console(width=width)).split())
    costs = table_text(report.tables["splitting"], Console(width=width))
    assert all(label in costs for label in kind_labels(report.kinds))
    for title in kind_titles(report.kinds):
        assert all(word in told for word in title.split())
    assert "…" not in told + costs
