"""Figures: what they draw, their axes and units, their files, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnprof import load
from attnprof.analysis.kernel_groups import GROUPS, group_totals, kernel_group, step_shares
from attnprof.analysis.phases import phase_totals
from attnprof.errors import UsageError
from attnprof.model import AttentionCall
from attnprof.report.colours import COLOURS, colour_numbers
from attnprof.runs.run import Run
from tests.support.command import attnprof
from tests.support.generated_run import LAYER_KERNELS, calls_only_run, generated_run

KINDS = ("splits", "step", "phases", "modules", "share")


def spent(call: AttentionCall) -> int:
    return 2000 + 30 * call.seqlen_k


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """30 decode steps of two layers across the change from one split to two, after a prefill."""
    generated_run(tmp_path, range(115, 145), prefill=114, others=LAYER_KERNELS, attention_ns=spent)
    return load("generated")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128>>(Params)", "attention"),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN", "matrix product"),
        ("void gemv2T_kernel_val<int, int, __half>(Params)", "matrix product"),
        ("Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT256x32x64", "matrix product"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgs)", "communication"),
        ("void vllm::rms_norm_kernel<c10::BFloat16>(float)", "normalisation"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>(int)", "elementwise"),
        ("my_own_kernel", "other"),
    ],
)
def test_kernels_are_grouped_by_their_names(name: str, group: str) -> None:
    assert kernel_group(name) == group


def test_the_groups_of_a_phase_add_up_to_its_gpu_time(run: Run) -> None:
    totals = group_totals(run.timeline)
    phases = phase_totals(run.timeline)
    assert [(row.phase, row.steps, sum(row.gpu_ns)) for row in totals] == [
        (phase.phase, phase.steps, phase.gpu_ns) for phase in phases
    ]
    attention = [row.gpu_ns[GROUPS.index("attention")] for row in totals]
    assert attention == [phase.attention_ns for phase in phases]


def test_the_share_of_each_step_is_told_with_its_kv_length_and_splits(run: Run) -> None:
    shares = step_shares(run.timeline, run.check().calls)
    assert shares.number.tolist() == list(range(1, 31))
    assert shares.seqlen_k.tolist() == list(range(115, 145))
    assert shares.num_splits.tolist() == [1] * 14 + [2] * 16
    others = 2 * sum(kernel.decode_ns for kernel in LAYER_KERNELS)
    attention = 2 * (2000 + 30 * 115)
    assert shares.share[0] == pytest.approx(attention / (attention + others))


def test_a_step_has_a_lane_per_stream_and_a_bar_per_kernel(run: Run) -> None:
    figure = run.plot_step(20)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stream 7", "stream 19"]
    bars = sum(len(collection.get_paths()) for collection in axes.collections)
    assert bars == int(np.count_nonzero(run.timeline.step == 20)) == 2 * (2 + len(LAYER_KERNELS))
    assert axes.get_title().startswith("generated: decode step 20\n12 kernels in ")


def test_the_middle_step_is_drawn_where_none_is_named(run: Run) -> None:
    assert "decode step 16\n" in run.plot_step().axes[0].get_title()


def test_the_whole_trace_is_drawn_where_it_names_no_step() -> None:
    traces = Path(__file__).parents[1] / "data" / "traces"
    figure = load(traces / "torch_h100_bert-small_pytorch_flash.json.gz").plot_step()
    assert "whole trace" in figure.axes[0].get_title()


def test_every_axis_names_what_it_shows_and_its_unit(run: Run) -> None:
    labels = {
        (axes.get_xlabel(), axes.get_ylabel())
        for figure in (run.plot_splits(), run.plot_step(), run.plot_phases(), run.plot_attention_share())
        for axes in figure.axes
    }
    assert {x for x, _ in labels} == {
        "decode step (number); small figures: KV length in tokens where a row begins",
        "time since the first kernel (µs)",
        "GPU time (ms)",
        "GPU time per step (µs)",
        "KV length (tokens)",
    }
    assert {y for _, y in labels} == {
        "num_splits (thread blocks along the keys)",
        "CUDA stream (number)",
        "phase (number of steps)",
        "",  # shares the axis of the panel to its left
        "attention's share of GPU time (%)",
    }


def test_the_bars_of_modules_are_the_gpu_time_of_each_phase_and_of_each_step(run: Run) -> None:
    drawn = run.plot_modules()
    whole = {"prefill": 0, "decode": 0}
    for total in group_totals(run.recording.timeline):
        whole[total.phase.split()[-1]] += sum(total.gpu_ns)
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels == ["prefill (1)", "decode (30)"]
    for axes, divisors, scale in zip(drawn.axes, ((1, 1), (1, 30)), (1e6, 1e3), strict=True):
        ends = {}
        for bar in axes.patches:
            place = round(bar.get_y() + bar.get_height() / 2)
            ends[place] = max(ends.get(place, 0.0), bar.get_x() + bar.get_width())
        spent = [
            whole[phase] / each / scale for phase, each in zip(("prefill", "decode"), divisors, strict=True)
        ]
        assert [ends[0], ends[1]] == pytest.approx(spent)
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert legend[0] == "attention"
    assert len(legend) == len(set(legend)) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_each_figure_is_written_in_each_format(run: Run, tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"figure.{ending}"
    done = attnprof("report", "generated", "--plot", str(path), "--figure", kind)
    assert done.code == 0, done.err
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(begins)
    assert f"wrote {path}" in done.err


@pytest.mark.parametrize("kind", ["step", "phases", "modules", "share"])
def test_a_run_without_kernels_has_no_figure_of_gpu_time(tmp_path: Path, kind: str) -> None:
    calls_only_run("calls", range(120, 140))
    done = attnprof("report", "calls", "--plot", str(tmp_path / "figure.png"), "--figure", kind)
    assert done.code == 2
    assert "there is nothing to plot" in done.err
    assert not (tmp_path / "figure.png").exists()


def test_a_step_that_is_not_there_is_refused_with_the_steps_there_are(run: Run) -> None:
    with pytest.raises(UsageError) as refused:
        run.plot_step(99)
    assert "decode step 99" in refused.value.message
    assert refused.value.hint == "the decode steps are 1 to 30"


def test_the_plain_and_the_split_kernel_have_their_own_colours_in_any_company() -> None:
    plain, split = "flash_fwd_kernel", "flash_fwd_splitkv_kernel + flash_fwd_splitkv_combine_kernel"
    assert colour_numbers([split]) == {split: 1}
    numbers = colour_numbers(["a", plain, "b", split])
    assert (numbers[plain], numbers[split]) == (0, 1)
    assert len(set(numbers.values())) == 4
    assert max(colour_numbers(map(str, range(40))).values()) < len(COLOURS)
