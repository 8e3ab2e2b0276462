"""Bytes, operations and rates of attention calls, and figures for any run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprof import load
from attnprof.analysis.layer_kinds import layer_kinds
from attnprof.analysis.roofline import _seen, roofline, work_of
from attnprof.analysis.splits import split_rows
from attnprof.check.check_run import check
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.report.roofline import computing_sentence
from attnprof.report.summary import summarise
from tests.conftest import TESTS
from tests.support.command import attnprof
from tests.support.generated_run import decode_call, generated_run
from tests.support.hybrid_trace import full, hybrid_trace

TRACES = TESTS / "data" / "traces"
QWEN = TRACES / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"


@given(
    queries=st.integers(1, 12),
    keys=st.integers(1, 16),
    causal=st.booleans(),
    window=st.tuples(st.integers(-1, 6), st.integers(-1, 6)),
)
def test_the_keys_seen_are_those_of_the_mask(
    queries: int, keys: int, causal: bool, window: tuple[int, int]
) -> None:
    i, j = np.arange(queries)[:, None] + keys - queries, np.arange(keys)[None]
    mask = np.ones((queries, keys), bool)
    left, right = window[0], 0 if causal else window[1]
    if left >= 0:
        mask &= j >= i - left
    if right >= 0:
        mask &= j <= i + right
    read, pairs = _seen(queries, keys, causal, window)
    assert pairs == mask.sum()
    if queries <= keys:
        assert read == mask.any(axis=0).sum()


def test_a_decode_call_reads_each_key_and_value_once() -> None:
    work = work_of(decode_call(1000))
    assert work is not None
    assert (work.kv_bytes, work.flops, work.lower_bound) == (
        1000 * 4 * 128 * 2 * 2,
        4 * 1000 * 28 * 128,
        False,
    )


def test_several_queries_read_at_least_that() -> None:
    work = work_of(decode_call(1000, 1000))
    assert work is not None
    assert work.lower_bound
    assert work.flops == 4 * 28 * 128 * 1000 * 1001 // 2


def test_of_lengths_that_are_not_known_nothing_is_said() -> None:
    capacity = AttentionCall("flash_attn", "fwd_kvcache", 2, 1, 4096, 28, 4, 128, cache_seqlens=True)
    assert work_of(capacity) is None
    assert work_of(AttentionCall("flash_attn", "varlen_fwd", 3, 7, 900, 28, 4, 128)) is None
    packed = AttentionCall(
        "flash_attn", "varlen_fwd", 2, 1, 900, 28, 4, 128, seqlens_q=(1, 1), seqlens_k=(900, 100)
    )
    work = work_of(packed)
    assert work is not None
    assert work.kv_bytes == 1000 * 4 * 128 * 2 * 2


def test_rates_are_bytes_and_operations_over_the_observed_time(tmp_path: Path) -> None:
    generated_run(tmp_path, range(1000, 1010), attention_ns=lambda _: 4_000)
    run = load("generated")
    result = check(run.recording)
    (row,) = roofline(result.calls, layer_kinds(split_rows(result.calls)), run.observed_gpu)
    assert row.num_splits == 8
    assert row.calls == 20
    assert row.kv_bytes == 2 * sum(keys * 4 * 128 * 2 * 2 for keys in range(1000, 1010))
    assert row.gpu_ns == sum(call.duration_ns or 0 for call in result.calls)
    assert row.gb_s == row.kv_bytes / row.gpu_ns
    assert row.of_peak == row.gb_s / 3352
    assert row.peak_tflop_s == 989.4
    assert row.tflop_s == row.flops / row.gpu_ns / 1e3
    assert row.of_flop_peak == row.tflop_s / 989.4
    assert row.in_l2
    assert (row.sms_busy, row.num_sms) == (32, 132)
    assert not row.lower_bound
    facts = dict(summarise(run.recording, result).facts)
    assert "at most 32 of 132 SMs work" in facts["reading"]


def test_a_public_trace_says_that_bytes_are_a_lower_bound() -> None:
    out = attnprof("report", str(QWEN)).out
    table = out.partition("Reading and computing")[2].partition("\n\n")[0]
    assert "≥" in table
    assert "132 of 132" in table
    (row,) = summarise(load(QWEN).recording, load(QWEN).check()).tables["roofline"].objects()
    assert row["of_flop_peak"] == pytest.approx(row["tflop_s"] / 989.4, rel=1e-3)
    assert f"computes at {row['of_flop_peak']:.1%} of the matrix".replace("%", " %") in " ".join(out.split())


def test_of_a_card_without_a_published_peak_no_share_is_told(tmp_path: Path) -> None:
    generated_run(tmp_path, range(1000, 1010), attention_ns=lambda _: 4_000)
    run = load("generated")
    calls = check(run.recording).calls
    (row,) = roofline(calls, [], gpu_by_name("A10G"))
    assert row.of_peak is not None
    assert (row.peak_tflop_s, row.of_flop_peak) == (None, None)
    assert computing_sentence([replace(row, phase="prefill")]) == ""
    (known,) = roofline(calls, [], gpu_by_name("H100"))
    assert computing_sentence([replace(known, phase="prefill")]).startswith("Prefill's attention in 8 splits")


def test_the_figure_has_both_of_the_cards_lines(tmp_path: Path) -> None:
    figure = load(QWEN).plot_roofline()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    memory, units = lines["memory: 3,352 GB/s"], lines["matrix units, dense: 989.4 TFLOP/s"]
    corner = (memory.get_xdata()[-1], memory.get_ydata()[-1])
    assert corner == pytest.approx((989.4e3 / 3352, 989.4))
    assert (units.get_xdata()[0], units.get_ydata()[0]) == pytest.approx(corner)


def test_without_recorded_arguments_nothing_is_said(tmp_path: Path) -> None:
    run = load(hybrid_trace(tmp_path / "t.json", [full] * 2, steps=2))
    assert roofline(run.check().calls, [], run.observed_gpu) == []


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        (QWEN.name, "calls"),
        ("nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz", "phases"),
        ("torch_mi300x_sglang_qwen3-8b_decode.json.gz", "calls"),
    ],
)
def test_a_plot_is_drawn_for_any_trace_and_says_which(name: str, figure: str, tmp_path: Path) -> None:
    done = attnprof("report", str(TRACES / name), "--plot", str(tmp_path / "p.svg"))
    assert done.code == 0
    assert f"(--figure {figure}: " in done.err
    assert (tmp_path / "p.svg").stat().st_size > 1000


def test_the_roofline_is_a_figure(tmp_path: Path) -> None:
    done = attnprof("report", str(QWEN), "--plot", str(tmp_path / "p.svg"), "--figure", "roofline")
    assert done.code == 0
    other = hybrid_trace(tmp_path / "t.json", [full] * 2, steps=2)
    done = attnprof("report", str(other), "--plot", str(tmp_path / "p.svg"), "--figure", "roofline")
    assert done.code == 2
    assert "no attention call is both recorded and observed" in done.err


def test_a_trace_without_calls_and_kernels_has_no_figure(tmp_path: Path) -> None:
    trace = TRACES / "nsys2022.4_nvtx_only_python.sqlite.gz"
    done = attnprof("report", str(trace), "--plot", str(tmp_path / "p.svg"))
    assert done.code == 2
    assert "no attention call and no GPU kernel" in done.err
