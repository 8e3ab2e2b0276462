"""A call that launches its main kernel twice, each for half its heads, is one call of a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnprof.check.check_run import CheckResult, Verdict
from attnprof.check.compare import compare
from attnprof.check.observed_calls import observe
from attnprof.check.observed_shape import ObservedShape, second_halves
from attnprof.dispatch import libraries
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from attnprof.runs.run import load
from attnprof.trace.open_trace import open_trace
from attnprof.trace.timeline import build_timeline
from tests.support.build_trace import TraceBuilder

B200 = gpu_by_name("b200")
STEP = AttentionCall(
    "flash_mla", "fwd_kvcache", 4, 1, 4096, 128, 1, 576, head_dim_v=512, index_topk=2048
)  # fmt: skip
Launches = tuple[KernelLaunch, ...]


def launched(call: AttentionCall) -> Launches:
    return tuple(
        one
        for one in libraries.predict(call, B200).launches
        if parse_kernel_name(one.kernel).role != "metadata"
    )


def traced(folder: Path, calls: list[Launches], *, ranges: bool = False) -> Path:
    """A trace of these calls, in the ranges of recorded ones if asked for."""
    builder = TraceBuilder()
    builder.add(
        "TARGET_INFO_GPU", vmId=1, id=0, name="NVIDIA B200", smCount=148, computeMajor=10, computeMinor=0
    )
    builder.domain("attnprof", 1)
    at = 1
    for seq, call in enumerate(calls):
        if ranges:
            builder.range("attn", at * 1000, (at + len(call)) * 1000 - 1, domainId=1, int64Value=seq)
        for launch in call:
            time = at * 1000
            builder.call(time + 1, time + 10, at)
            builder.kernel(launch.kernel, time + 100, time + 400, at, grid=launch.grid, block=launch.block)
            at += 1
    return builder.write(folder / "t.sqlite")


def checked(folder: Path, calls: list[Launches]) -> CheckResult:
    """The check of a trace of these calls, without records."""
    return load(traced(folder, calls)).check()


def test_a_whole_trace_of_halved_calls_raises_no_alarm(tmp_path: Path) -> None:
    result = checked(tmp_path, [launched(STEP)] * 4)
    assert result.failures == ()
    assert result.counts == {Verdict.EXPLAINED: 4}


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_half_left_out_is_found_and_spared_at_the_traces_edges(tmp_path: Path, left_out: int) -> None:
    first, second, combine = whole = launched(STEP)
    assert first == second
    part = whole[:left_out] + whole[left_out + 1 :]
    result = checked(tmp_path, [whole, whole, part, whole, whole])
    assert [call.verdict for call in result.failures] == [Verdict.UNEXPLAINED]
    for number, calls in enumerate(([(second, combine), *[whole] * 3], [*[whole] * 3, (first,)])):
        folder = tmp_path / str(number)
        folder.mkdir()
        cut = checked(folder, calls)
        assert cut.failures == ()
        assert cut.counts[Verdict.NOT_READ] == 1


def test_a_second_half_of_another_grid_is_found(tmp_path: Path) -> None:
    first, second, combine = whole = launched(STEP)
    wrong = (first, replace(second, grid=(2, *second.grid[1:])), combine)
    result = checked(tmp_path, [whole, whole, wrong, whole])
    assert [call.verdict for call in result.failures] == [Verdict.UNEXPLAINED]


def test_halves_that_are_not_split_are_calls_of_64_heads_as_well(tmp_path: Path) -> None:
    """Nobody can tell: a call of 64 heads launches just one of them."""
    whole = launched(replace(STEP, index_topk=512))
    assert launched(replace(STEP, index_topk=512, num_heads=64)) == whole[:1]
    result = checked(tmp_path, [whole] * 3)
    assert result.failures == ()


def test_a_recorded_call_is_compared_with_both_launches() -> None:
    prediction = libraries.predict(STEP, B200)
    first, second, combine = launched(STEP)
    signatures = tuple(parse_kernel_name(one.kernel) for one in (first, combine))
    shape = ObservedShape((first, combine), signatures, again=(second,))
    assert compare(prediction, shape) == (Verdict.MATCH, "")
    assert compare(prediction, replace(shape, again=()))[0] is Verdict.WRONG_KERNEL
    other = replace(second, grid=(2, *second.grid[1:]))
    assert compare(prediction, replace(shape, again=(other,)))[0] is Verdict.WRONG_GRID


@pytest.mark.parametrize("topk", [512, 2048])
def test_a_recorded_calls_halves_are_seen_as_one_call(tmp_path: Path, topk: int) -> None:
    call = replace(STEP, index_topk=topk)
    path = traced(tmp_path, [launched(call)] * 3, ranges=True)
    observed = observe(build_timeline(open_trace(path)))
    assert observed.seq.tolist() == [0, 1, 2]
    (shape,) = observed.shapes
    assert compare(libraries.predict(call, B200), shape) == (Verdict.MATCH, "")


def test_which_launch_is_a_second_half() -> None:
    """Names are 0 for no half, 1 for one that may be a call, 2 for one that is split."""
    names = np.array([2, 2, 2, 2, 0, 1, 1, 1, 1, 2], np.int32)
    recorded = np.array([False] * 7 + [True] * 3)
    same = np.diff(recorded.astype(np.int8)) == 0  # stream and call
    found = second_halves(names, recorded, same, np.array([0, 1, 2], np.int8))
    assert found.tolist() == [False, True, False, True, False, False, False, False, True, False]
    apart = second_halves(names, recorded, np.zeros(9, np.bool_), np.array([0, 1, 2], np.int8))
    assert not apart.any()
