"""What makes two dispatches different, and how calls and steps of two runs are matched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attnprof.analysis.diff import Dispatch, compare_dispatch, dispatch_of
from attnprof.analysis.diff_times import Measure, compare_times
from attnprof.check.check_run import CheckedCall, Verdict
from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.report.diff_tables import cells
from attnprof.trace.nsys_sqlite import read_nsys_sqlite
from attnprof.trace.timeline import Timeline, build_timeline
from tests.support.build_trace import TraceBuilder

H100 = gpu_by_name("h100")
FWD = Dispatch(
    (("flash-attn", "flash_fwd_kernel"),), (128, 64, 4), 1, observed=True, grid=(1, 1, 28), block=(128, 1, 1)
)


def predicted(step: int, keys: int, layer: int = 0, *, seqlen_q: int = 1) -> CheckedCall:
    call = AttentionCall("flash_attn", "fwd", 1, seqlen_q, keys, 28, 4, 128, causal=True)
    phase = "decode" if seqlen_q == 1 else "prefill"
    prediction = predict(call, H100)
    return CheckedCall(Verdict.NOT_OBSERVED, "", None, step, phase, layer, call, prediction)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (FWD, ""),
        (replace(FWD, observed=False), ""),
        (replace(FWD, num_splits=2), "num_splits"),
        (replace(FWD, builds=(("pytorch-bundled-flash", "flash_fwd_kernel"),)), "kernel"),
        (replace(FWD, builds=(("cudnn", "sdpa"),), num_splits=None), "kernel"),
        (replace(FWD, tile=(64, 128, 4)), "tile"),
        (replace(FWD, tile=None), ""),
        (replace(FWD, tile=None, block=(256, 1, 1)), "launch"),
        (replace(FWD, block=(256, 1, 1)), ""),  # of a name that states the tile
        (replace(FWD, tile=None, grid=(2, 1, 28)), ""),  # as of another length
    ],
)
def test_a_dispatch_differs_by_splits_kernel_or_tile(other: Dispatch, what: str) -> None:
    assert FWD.differs_in(other) == what


def test_another_grid_for_the_same_recorded_call_is_another_kernel_where_no_name_tells_the_tile() -> None:
    untiled = replace(FWD, tile=None)
    other = replace(untiled, grid=(2, 1, 28))
    assert untiled.differs_in(other, same_call=True) == "launch"
    assert FWD.differs_in(replace(FWD, grid=(2, 1, 28)), same_call=True) == ""


def _of_version(version: str) -> CheckedCall:
    call = AttentionCall("flash_attn_3", "fwd", 2, 600, 600, 16, 16, 64)
    prediction = predict(call, H100, version)
    return CheckedCall(Verdict.NOT_OBSERVED, "", None, 0, "prefill", 0, call, prediction)


def test_tiles_of_flash_attention_3_are_told_by_its_names() -> None:
    assert dispatch_of(_of_version("3.0.0")).tile == (192, 192, 16)  # type: ignore[union-attr]
    (found,) = compare_dispatch([_of_version("2.7.4")], [_of_version("3.0.0")]).differences
    assert found.what == "tile"
    alike = compare_dispatch([_of_version("3.0.0")], [_of_version("3.0.0")])
    assert (alike.equal, alike.untiled) == (True, 0)


def test_calls_whose_kernels_state_no_tile_are_counted() -> None:
    call = AttentionCall("vllm_triton", "batch_paged", 2, 1, 900, 16, 4, 128, causal=True, page_block_size=16)
    checked = CheckedCall(Verdict.NOT_OBSERVED, "", None, 0, "decode", 0, call, predict(call, H100))
    found = compare_dispatch([checked], [checked])
    assert (found.equal, found.untiled) == (True, 1)


def test_the_first_differing_call_is_named_by_step_and_layer() -> None:
    a = [predicted(step, 100 + step, layer) for step in range(1, 60) for layer in range(2)]
    b = [predicted(step, 110 + step, layer) for step in range(1, 60) for layer in range(2)]
    found = compare_dispatch(a, b)
    first = found.differences[0]
    assert (first.key.step, first.key.layer, first.what) == (19, 0, "num_splits")
    assert (first.a.num_splits, first.b.num_splits) == (1, 2)
    assert len(found.differences) == 2 * 10
    assert not found.equal
    assert found.first_other_length is not None
    assert found.first_other_length[1:] == (101, 111)


def test_steps_of_one_run_alone_are_no_difference_and_their_changes_are_told() -> None:
    a = [predicted(step, 25 + step) for step in range(1, 64)]
    b = [predicted(step, 25 + step) for step in range(1, 300)]
    found = compare_dispatch(a, b)
    assert found.equal
    assert found.shared == 63
    assert found.only_a.steps == ()
    assert found.only_b.steps[0] == ("decode", 64)
    assert found.only_b.steps[-1] == ("decode", 299)
    starts = [
        (after.steps[0], before.num_splits, after.num_splits)
        for before, after in found.only_b.changes
        if after.steps
    ]
    assert starts == [(104, 1, 2), (232, 2, 3)]


def test_a_call_missing_from_a_shared_step_is_a_difference() -> None:
    a = [predicted(1, 64, layer) for layer in range(3)]
    found = compare_dispatch(a, a[:2])
    assert found.only_a.in_shared_steps == 1
    assert not found.equal


def test_calls_that_are_not_modelled_are_counted_and_not_compared() -> None:
    unknown = CheckedCall(Verdict.NOT_MODELLED, "cudnn", 0, 1, "decode", 0)
    found = compare_dispatch([unknown], [unknown])
    assert (found.shared, found.unknown) == (0, 1)


def test_calls_without_step_and_layer_are_matched_in_order() -> None:
    calls = [replace(predicted(1, keys), step=None, layer=None, phase="other") for keys in (64, 200)]
    found = compare_dispatch(calls, calls[::-1])
    assert [one.key.nth for one in found.differences] == [0, 1]


def timeline(folder: Path, kernels: dict[int, list[tuple[str, int]]], *, layer: int | None = 0) -> Timeline:
    """Decode steps of 1000 ns with kernels of the given names and durations."""
    builder = TraceBuilder()
    builder.domain("attnprof", 1)
    correlation = 0
    for step, launched in kernels.items():
        start = step * 1000
        builder.range("decode", start, start + 900, domainId=1, int64Value=step)
        if layer is not None:
            builder.range("layer", start + 1, start + 899, domainId=1, int64Value=layer)
        for index, (name, took) in enumerate(launched):
            correlation += 1
            at = start + 2 + 200 * index
            builder.call(at, at + 5, correlation)
            builder.kernel(name, at + 10, at + 10 + took, correlation)
    folder.mkdir()
    return build_timeline(read_nsys_sqlite(builder.write(folder / "t.sqlite")))


def test_times_are_compared_over_shared_steps_only(tmp_path: Path) -> None:
    a = timeline(tmp_path / "a", {step: [("gemm", 100)] for step in range(1, 4)})
    b = timeline(tmp_path / "b", {step: [("gemm", 110), ("norm", 10)] for step in range(2, 9)})
    found = compare_times(a, b)
    assert found.steps == 2
    assert found.gpu_ns == (200, 240)
    kernels = {(m.name, m.metric): (m.a, m.b) for m in found.measures if m.section == "kernel"}
    assert kernels == {
        ("gemm", "GPU time"): (200, 220), ("gemm", "launches"): (2, 2),
        ("norm", "GPU time"): (0, 20), ("norm", "launches"): (0, 2),
    }  # fmt: skip
    layers = {(m.name, m.metric): (m.a, m.b) for m in found.measures if m.section == "layer"}
    assert layers == {("0", "GPU time"): (100, 120)}


def test_module_kinds_are_compared_and_add_up_to_all_the_time(tmp_path: Path) -> None:
    norm, act = "void vllm::rms_norm_kernel<float>(float)", "void vllm::act_and_mul_kernel<float>(float)"
    a = timeline(tmp_path / "a", {1: [("gemm", 100), (norm, 20), ("mine", 5)]}, layer=None)
    b = timeline(tmp_path / "b", {1: [("gemm", 100), (norm, 80), (act, 7)]}, layer=None)
    found = compare_times(a, b)
    kinds = {(m.name, m.metric): (m.a, m.b) for m in found.measures if m.section == "module"}
    assert kinds == {
        ("norm", "GPU time"): (20, 80), ("norm", "launches"): (1, 1),
        ("MLP", "GPU time"): (0, 7), ("MLP", "launches"): (0, 1),
        ("module not told", "GPU time"): (105, 100), ("module not told", "launches"): (2, 1),
    }  # fmt: skip
    assert [m.name for m in found.measures if m.section == "module"][::2] == [
        "norm",
        "MLP",
        "module not told",
    ]
    spent = [pair for (_, metric), pair in kinds.items() if metric == "GPU time"]
    assert tuple(map(sum, zip(*spent, strict=True))) == found.gpu_ns
    assert found.told_by == (("name",), ("name",))


def test_layers_of_any_number_are_compared_one_by_one(tmp_path: Path) -> None:
    kernels = {step: [("a", 100)] for step in (1, 2)}
    sides = [timeline(tmp_path / name, kernels, layer=2**31 - 1) for name in ("a", "b")]
    layers = [m for m in compare_times(*sides).measures if m.section == "layer"]
    assert [(m.name, m.metric, m.a, m.b) for m in layers] == [("2147483647", "GPU time", 100, 100)]


def test_without_steps_on_both_sides_all_kernels_are_compared(tmp_path: Path) -> None:
    a = timeline(tmp_path / "a", {1: [("gemm", 100)], 2: [("gemm", 100)]})
    builder = TraceBuilder()
    builder.kernel("gemm", 0, 150, 1)
    b = build_timeline(read_nsys_sqlite(builder.write(tmp_path / "b.sqlite")))
    found = compare_times(a, b)
    assert (found.steps, found.gpu_ns, found.wall_ns) == (0, (200, 150), None)


def test_without_kernels_only_wall_time_is_compared(tmp_path: Path) -> None:
    a = timeline(tmp_path / "a", {1: [], 2: []})
    found = compare_times(a, a)
    assert found.gpu_ns is None
    assert {m.metric for m in found.measures} == {"wall time", "wall time per token, median"}


@pytest.mark.parametrize(
    ("unit", "a", "b", "shown"),
    [
        ("ns", 1000, 1250, ["1 µs", "1.25 µs", "+25.0 %"]),
        ("ns", 1_000_000, 1_000_001, ["1 ms", "1.00 ms", "+<0.1 %"]),
        ("ns", 0, 10, ["0 ns", "10 ns", "new"]),
        ("share", 0.25, 0.2, ["25.0 %", "20.0 %", "-5.0 points"]),
        ("count", 3, 3, ["3", "3", "0 %"]),
        ("ns", None, 5, ["", "5 ns", ""]),
    ],
)
def test_a_change_reads_with_its_unit_and_sign(
    unit: str, a: float | None, b: float, shown: list[str]
) -> None:
    assert cells(Measure("total", "all", "x", unit, a, b)) == shown
