"""Operations that go over long columns block by block give what the plain ones give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof import arrays
from attnprof.analysis import nsys_columns
from attnprof.analysis.kernel_groups import group_totals
from attnprof.analysis.kernels import kernel_totals
from attnprof.analysis.phases import phase_totals
from attnprof.arrays import (
    coded_rows,
    distinct,
    distinct_rows,
    look_up,
    mapped,
    narrowest,
    occurring,
    scattered,
)
from attnprof.check.observed_calls import observe
from attnprof.trace.open_trace import open_trace
from attnprof.trace.sqlite_pages import GrowingColumn
from attnprof.trace.timeline import build_timeline, timeline_columns

TRACES = Path(__file__).parent.parent / "data" / "traces"

lengths = st.integers(0, 40)
widths = st.sampled_from([1, 3, 8, 20, 31, 32])


@pytest.fixture(params=[1, 7, 64])
def small_blocks(request, monkeypatch):
    monkeypatch.setattr(arrays, "_BLOCK", request.param)
    monkeypatch.setattr(arrays, "_MANY", 5 * request.param)
    monkeypatch.setattr(nsys_columns, "_ROWS_AT_ONCE", 2 * request.param)


@st.composite
def tables(draw):
    """Equally long columns: some constant, some of few values, some wide."""
    rows = draw(lengths)
    return [
        np.broadcast_to(np.int64(draw(st.integers(-5, 5))), (rows,))
        if draw(st.booleans())
        else np.array(
            draw(
                st.lists(st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1), min_size=rows, max_size=rows)
            ),
            np.int64,
        )
        for bits in draw(st.lists(widths, min_size=1, max_size=6))
    ]


@settings(max_examples=200, deadline=None)
@given(tables())
def test_coded_rows_are_the_distinct_rows(small_blocks_of_one, columns):
    plain, where = distinct_rows(columns)
    found, codes = coded_rows(columns)
    assert [column.tolist() for column in found] == [column.tolist() for column in plain]
    assert codes.tolist() == where.tolist()


@pytest.fixture(scope="module")
def small_blocks_of_one():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_BLOCK", 3)
        patch.setattr(arrays, "_MANY", 4)
        yield


def test_scattered_numbers_are_those_of_splitmix64():
    # The first outputs for seed 0 as Vigna's splitmix64.c, prng.di.unimi.it, gives them.
    assert [hex(number) for number in scattered(3).tolist()] == [
        "0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f",
    ]  # fmt: skip


def test_codes_are_as_narrow_as_they_can_be():
    column = np.arange(100_000) % 5
    assert coded_rows([column])[1].dtype == np.int8
    assert coded_rows([np.arange(70_000)])[1].dtype == np.int32
    limits = ((-1, 127), (0, 128), (-(1 << 31), 0), (0, 1 << 31))
    assert [narrowest(*pair) for pair in limits] == [np.int8, np.int16, np.int32, np.int64]


def test_long_columns_are_looked_up_counted_and_mapped_in_blocks(small_blocks):
    codes = (np.arange(500) ** 2 % 11).astype(np.int8)
    table = np.arange(100, 120)
    assert look_up(table, codes).tolist() == table[codes].tolist()
    assert occurring(codes, 20).tolist() == distinct(codes).tolist() == sorted(set(codes.tolist()))
    assert mapped(codes, lambda c: c * 1000, np.int32).tolist() == (codes.astype(int) * 1000).tolist()


def test_a_broadcast_column_stays_one():
    constant = np.broadcast_to(np.int8(3), (1 << 40,))
    assert look_up(np.arange(5), constant).strides == mapped(constant, lambda c: c, np.int32).strides == (0,)
    assert occurring(constant, 5).tolist() == distinct(constant).tolist() == [3]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-3, 3), max_size=5), max_size=8),
    st.integers(0, 60),
)
def test_a_column_that_grows_by_parts_holds_them_all(parts, expected):
    column = GrowingColumn()
    for part in parts:
        column.add(np.array(part, np.int64), of=expected)
    whole = [value for part in parts for value in part]
    assert column.values().tolist() == whole
    if len(set(whole)) > 1:
        assert column.values().dtype == narrowest(min(whole), max(whole))


@pytest.mark.parametrize(
    "name", ["nsys2026.2_h100x2_flash_fwd_nccl_slice", "nsys2025.5_rtx3060_cuda_graph_trace"]
)
def test_what_is_told_of_a_trace_does_not_depend_on_the_blocks(name, small_blocks, monkeypatch):
    def told():
        trace = open_trace(TRACES / f"{name}.sqlite.gz")
        timeline = build_timeline(trace)
        observed = observe(timeline)
        columns = [*timeline_columns(timeline).values(), observed.main, observed.shape, observed.duration]
        totals = kernel_totals(trace), phase_totals(timeline), group_totals(timeline), observed.shapes
        return [column.tolist() for column in columns], totals

    in_blocks = told()
    monkeypatch.undo()
    assert told() == in_blocks


def test_statistics_of_groups_do_not_depend_on_the_blocks(small_blocks):
    code = np.arange(300) ** 3 % 7
    duration = np.arange(300) ** 2 % 101
    found = nsys_columns.grouped(code, duration)
    few = nsys_columns.grouped_few(7, 300, lambda rows: (code[rows].astype(np.int8), duration[rows]))
    assert str(few) == str(found)
    for row, one in enumerate(found.code.tolist()):
        mine = duration[code == one]
        assert (found.count[row], found.total[row]) == (len(mine), mine.sum())
        assert (found.least[row], found.median[row], found.most[row]) == (
            mine.min(),
            np.median(mine),
            mine.max(),
        )
        assert found.deviation[row] == pytest.approx(mine.std(ddof=1))
    assert found.code.tolist() == sorted(set(code.tolist()))
