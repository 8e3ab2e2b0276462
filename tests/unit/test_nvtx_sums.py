"""nvtx_kern_sum counts ranges and kernels in two ways each: both give the same."""

from __future__ import annotations

import pytest

from attnprof.analysis import nsys_nvtx
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof


@pytest.mark.parametrize("inner", ["outer", "inner"])
def test_a_table_of_ranges_and_names_counts_as_sorted_pairs_do(tmp_path, monkeypatch, inner):
    monkeypatch.chdir(tmp_path)
    builder = TraceBuilder()
    for number in range(30):
        at = 1000 * number
        builder.range("outer", at, at + 900)
        builder.range(inner, at + 100, at + 800)
        for launch in range(number % 4):
            builder.call(at + 200 + 20 * launch, at + 210 + 20 * launch, 10 * number + launch)
            builder.kernel(
                f"k{launch % 2}", at + 300 + 40 * launch, at + 330 + 40 * launch, 10 * number + launch
            )
    builder.call(40_000, 40_010, 999)
    builder.kernel("k0", 40_020, 40_030, 999)
    builder.write(tmp_path / "t.sqlite")
    command = ("report", "t.sqlite", "--report", "nvtx_kern_sum", "--format", "csv")
    found = attnprof(*command)
    assert found.code == 0, found.err
    assert found.out.count("\n") == (4 if inner == "outer" else 6)
    monkeypatch.setattr(nsys_nvtx, "_CELLS_PER_PAIR", 0)
    monkeypatch.setattr(nsys_nvtx, "_LEVELS_LOOKED_AT", 0)
    assert attnprof(*command).out == found.out
