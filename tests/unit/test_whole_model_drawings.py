"""The page's bars of GPU time by module and its line of the KV cache, and the same as tables of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from attnprof import load
from attnprof.analysis.kv_cache import step_reads
from attnprof.analysis.work_kinds import EVIDENCE, WORK_KINDS, WorkTotal, work_totals
from attnprof.report.html import render_page
from attnprof.report.kv_cache import cache_table
from attnprof.report.page_contents import make_page
from attnprof.report.summary import summarise
from attnprof.report.whole_model_drawings import draw_cache, draw_work
from attnprof.report.work import work_table
from tests.conftest import TESTS
from tests.support.command import attnprof
from tests.unit.test_kv_cache import generation

MI300X = TESTS / "data" / "traces" / "torch_mi300x_sglang_qwen3-8b_decode.json.gz"


def total(kind: str, spent: int, phase: str = "decode", of: int = 100) -> WorkTotal:
    return WorkTotal(phase, kind, 1, 1, spent, of, (spent, *[0] * (len(EVIDENCE) - 1)))


def test_the_pieces_of_a_bar_fill_it_in_their_shares() -> None:
    drawing = draw_work(work_table([total("MLP", 70), total("attention", 27), total("router", 3)]))
    assert drawing is not None
    (bar,) = drawing.bars
    room = drawing.width - drawing.left - 20
    assert [round(piece.width / room, 3) for piece in bar.pieces] == [0.27, 0.7, 0.03]
    assert [piece.label for piece in bar.pieces] == ["27.0 %", "70.0 %", ""]
    assert bar.pieces[-1].x + bar.pieces[-1].width == pytest.approx(drawing.width - 20)
    assert bar.pieces[-1].title == "experts, router: 3.0 % of decode's GPU time, 3 ns"


def test_every_kind_is_drawn_and_named_once() -> None:
    drawing = draw_work(work_table([total(kind, 10, of=10 * len(WORK_KINDS)) for kind in WORK_KINDS]))
    assert drawing is not None
    room = drawing.width - drawing.left - 20
    assert sum(piece.width for piece in drawing.bars[0].pieces) == pytest.approx(room, abs=0.1)
    assert len({style for style, _ in drawing.legend}) == len(drawing.legend) == 9
    assert draw_work(work_table([])) is None
    assert draw_work(work_table([total("MLP", 0, of=0)])) is None


def test_the_line_of_the_cache_rises_with_what_is_read() -> None:
    drawing = draw_cache(cache_table(step_reads(generation(20, 9))))
    assert drawing is not None
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)H", drawing.path)]
    assert len(heights) == 9
    assert heights[1:] == sorted(heights[1:], reverse=True)
    assert (drawing.ticks[0], drawing.ticks[-1][1]) == ((drawing.bottom, "0 bytes"), "88 KiB")
    assert drawing.path.count("M") == 1
    assert draw_cache(cache_table(step_reads(generation(20, 1)))) is None
    assert draw_cache(cache_table([])) is None


def test_a_step_that_is_not_known_is_a_gap_in_the_line() -> None:
    reads = step_reads(generation(20, 9))
    drawing = draw_cache(cache_table([one for one in reads if one.step != 4]))
    assert drawing is not None
    assert drawing.path.count("M") == 2


def test_the_page_holds_the_bars_and_not_thousands_of_steps() -> None:
    run = load(MI300X)
    page = render_page(make_page(run.recording, summarise(run.recording, run.check())))
    assert "MLP: 43.0 % of decode&#39;s GPU time, 4.20 ms" in page
    assert 'id="modules"' in page
    assert "cache_steps" not in page


def test_a_run_gives_them_as_frames_and_an_export_as_files(tmp_path: Path, monkeypatch: Any) -> None:
    run = load(MI300X)
    frame = run.modules
    assert frame.gpu_ns.sum() == sum(one.gpu_ns for one in work_totals(run.timeline))
    assert set(frame.kind) <= set(WORK_KINDS)
    assert len(run.cache) == 0
    monkeypatch.chdir(tmp_path)
    for form in ("csv", "parquet"):
        done = attnprof("export", str(MI300X), "--to", form, "-o", form)
        assert done.code == 0, done.err
    lines = (tmp_path / "csv" / "modules.csv").read_text().splitlines()
    assert lines[0].startswith("phase,kind,kernels,gpu_ns,share")
    assert len(lines) == len(frame) + 1
    import pandas as pd

    assert pd.read_parquet(tmp_path / "parquet" / "modules.parquet").gpu_ns.tolist() == frame.gpu_ns.tolist()
