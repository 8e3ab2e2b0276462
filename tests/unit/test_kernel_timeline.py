"""What the page's kernel timeline is given: every kernel with its launch, step, call and split count."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest

from attnprof import load
from attnprof.analysis.splits import split_rows
from attnprof.report import kernel_timeline as module
from attnprof.report import thinned_kernels
from attnprof.report.kernel_timeline import COLUMNS, ROLES, KernelTimeline, kernel_timeline
from attnprof.runs.run import Run
from tests.conftest import TESTS
from tests.support.build_trace import TraceBuilder
from tests.support.hybrid_trace import full, hybrid_trace, sliding

TRACES = TESTS / "data" / "traces"


def timeline_of(run: Run) -> KernelTimeline:
    calls = run.check().calls
    made = kernel_timeline(run.recording, calls, split_rows(calls))
    assert made is not None
    return made


def columns_of(made: KernelTimeline) -> dict[str, np.ndarray]:
    """As the page's script reads them."""
    rows = made.head["rows"]
    data = zlib.decompress(base64.b64decode(made.blob))
    planes = np.frombuffer(data, np.uint8).reshape(len(COLUMNS), 4, rows)
    numbers = np.ascontiguousarray(planes.transpose(0, 2, 1)).view("<u4")[..., 0]
    return dict(zip(COLUMNS, np.cumsum(numbers, axis=1, dtype=np.uint32).astype(np.int64), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "nsys2026.2_h100x2_flash_fwd_nccl_slice.sqlite.gz",
        "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz",
        "nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz",
    ],
)
def test_the_page_has_every_kernel_and_copy_of_a_real_trace(name: str) -> None:
    run = load(TRACES / name)
    made, trace = timeline_of(run), run.trace
    columns = columns_of(made)
    kernels, copies = trace.kernels, trace.copies
    assert made.head["tick"] == 1
    assert made.head["rows"] == len(kernels) + len(copies)
    took = np.concatenate([kernels.end - kernels.start, copies.end - copies.start])
    assert np.array_equal(np.sort(columns["took"]), np.sort(took))
    begin = columns["start"].min() - min(kernels.start.min(), copies.start.min(initial=kernels.start.min()))
    starts = np.concatenate([kernels.start, copies.start]) + begin
    assert np.array_equal(np.sort(columns["start"]), np.sort(starts))
    launched = run.timeline.launch >= 0
    assert np.count_nonzero(columns["launch"]) == np.count_nonzero(launched)
    ours = (columns["launch"] - 1)[columns["launch"] > 0]
    assert np.array_equal(
        np.sort(ours), np.sort(trace.api_calls.start[run.timeline.launch[launched]] + begin)
    )
    for lane in made.head["lanes"]:
        mine = columns["start"][lane["first"] : lane["first"] + lane["rows"]]
        assert np.all(np.diff(mine) >= 0)
    names = {kind[1] for kind in made.head["kinds"] if kind[1]}
    assert names == {trace.strings[name] for name in np.unique(kernels.name)}


def test_kernels_carry_step_layer_call_and_split_count(tmp_path: Path) -> None:
    run = load(hybrid_trace(tmp_path / "t.json", [sliding, full], steps=3, keys=1278))
    made = timeline_of(run)
    columns = columns_of(made)
    kinds = [made.head["kinds"][kind] for kind in columns["kind"].tolist()]
    attention = [number for number, kind in enumerate(kinds) if ROLES[kind[2]] == "attention"]
    assert [(int(columns["step"][row]) - 1, int(columns["layer"][row]) - 1) for row in attention] == [
        (step, layer) for step in (1, 2, 3) for layer in (0, 0, 1, 1)
    ]
    assert [int(columns["call"][row]) - 1 for row in attention] == [n for n in range(6) for _ in "ab"]
    assert [kinds[row][3] for row in attention] == [8, 8, 10, 10, 8, 8, 10, 10, 8, 8, 11, 11]
    assert not any(kinds[row][3] for row in range(len(kinds)) if row not in attention)
    ((tick, words),) = made.head["changes"]
    assert words == "decode step 3: 10 to 11 splits, layers 1"
    assert tick == columns["start"][attention[8]]


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ((1,), "attention, not split"),
        ((0,), "attention, splits not told"),
        ((0, 1, 4), "attention, splits not told or not split"),
    ],
)
def test_the_legend_says_not_split_of_no_kernel_whose_splits_are_not_told(
    counts: tuple[int, ...], says: str
) -> None:
    assert module._legend([("k", "k", 0, count, "") for count in counts])[0] == (0, says)


def test_the_legend_names_what_occurs(tmp_path: Path) -> None:
    made = timeline_of(load(hybrid_trace(tmp_path / "t.json", [sliding, full], keys=1278)))
    assert [label for _, label in made.legend] == [
        "5–8 splits", "9–16 splits", "matrix product", "normalisation, elementwise"
    ]  # fmt: skip


def test_a_page_that_would_be_large_merges_what_does_not_attend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load(hybrid_trace(tmp_path / "t.json", [sliding, full] * 4, experts=[1, 3]))
    whole = timeline_of(run)
    assert not whole.thinned
    for owner in (module, thinned_kernels):
        monkeypatch.setattr(owner, "MOST_ROWS", whole.head["rows"] - 1)
    made = timeline_of(run)
    before, after = columns_of(whole), columns_of(made)
    assert made.head["rows"] < whole.head["rows"]
    assert after["took"].sum() == before["took"].sum()
    assert after["count"].sum() == whole.head["rows"]

    def attention(one: KernelTimeline, columns: dict[str, np.ndarray]) -> list[tuple[int, int]]:
        mine = np.array([kind[2] == 0 for kind in one.head["kinds"]])[columns["kind"]]
        assert set(columns["count"][mine].tolist()) == {1}
        return list(zip(columns["start"][mine].tolist(), columns["took"][mine].tolist(), strict=True))

    assert attention(whole, before) == attention(made, after)
    merged = int(after["count"][after["count"] > 1].sum())
    assert f"Of {whole.head['rows']:,} kernels and copies, {merged:,} that follow" in made.thinned


def test_a_trace_of_hours_is_told_in_coarser_ticks(tmp_path: Path) -> None:
    builder = TraceBuilder()
    hour = 3_600_000_000_000
    for number in range(3):
        builder.call(1_000 + number * hour, 1_010 + number * hour, number + 1)
        builder.kernel("k", 2_000 + number * hour, 2_700 + number * hour, number + 1)
    made = timeline_of(load(builder.write(tmp_path / "t.sqlite")))
    columns, tick = columns_of(made), made.head["tick"]
    assert tick == -(-(2 * hour + 1_700) // 0xFFFFFFFF)
    assert columns["took"].tolist() == [700] * 3
    assert np.abs(columns["start"] * tick - [1_000, 1_000 + hour, 1_000 + 2 * hour]).max() <= tick
    assert np.all(columns["launch"] > 0)


def test_names_in_the_page_are_redacted(tmp_path: Path) -> None:
    token = "hf_" + "aB3d" * 9
    builder = TraceBuilder()
    builder.call(100, 110, 1)
    builder.kernel(f"kernel_{token}", 200, 300, 1)
    made = timeline_of(load(builder.write(tmp_path / "t.sqlite")))
    assert token not in str(made.head)
