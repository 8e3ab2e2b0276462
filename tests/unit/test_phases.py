"""Phases, steps and idle time, on small traces whose numbers can be added up by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from attnprof.analysis.phases import FIRST_DECODE, PREFILL_PART, STEADY_DECODE, build_steps, phase_totals
from attnprof.analysis.split_cost import split_costs
from attnprof.check.observed_calls import observe
from attnprof.report.phases import phases_table, steps_table, time_sentences
from attnprof.trace.nsys_sqlite import read_nsys_sqlite
from attnprof.trace.timeline import Timeline, build_timeline
from tests.support.build_trace import TraceBuilder

FLASH = "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64, 64, 4>>(Flash_fwd_params)"
GEMM = "ampere_bf16_s16816gemm"


class Trace(TraceBuilder):
    """Ranges of attnprof's own domain, and kernels with a launch each."""

    def __init__(self) -> None:
        super().__init__()
        self.domain("attnprof", 1)
        self.correlation = 0

    def step(self, name: str, number: int, start: int, end: int, **values: int) -> None:
        self.range(name, start, end, domainId=1, int64Value=number, **values)

    def launched(self, name: str, at: int, start: int, end: int, **values: int) -> None:
        """A kernel whose launch call lasts from ``at`` to ``at`` + 10."""
        self.correlation += 1
        pid = values.get("pid", 7)
        self.call(at, at + 10, self.correlation, pid=pid, tid=pid)
        self.kernel(name, start, end, self.correlation, **values)

    def timeline(self, tmp_path: Path) -> Timeline:
        return build_timeline(read_nsys_sqlite(self.write(tmp_path / "t.sqlite")))


def three_steps() -> Trace:
    """A prefill of 1000 ns, a first decode and two decode steps of 500 ns, 100 ns between two steps."""
    trace = Trace()
    trace.step("prefill", 0, 0, 1000)
    trace.launched(GEMM, 10, 100, 400)
    trace.launched(FLASH, 30, 400, 900)
    for number, start in ((1, 1100), (2, 1700), (3, 2300)):
        trace.step("decode", number, start, start + 500)
        trace.launched(GEMM, start + 50, start + 100, start + 200)
        trace.launched(FLASH, start + 60, start + 150, start + 300)
    return trace


def test_phases_keep_the_first_decode_step_apart_and_count_the_time_between_steps(tmp_path: Path) -> None:
    steps = build_steps(three_steps().timeline(tmp_path))
    assert steps.part.tolist() == [PREFILL_PART, FIRST_DECODE, STEADY_DECODE, STEADY_DECODE]
    assert steps.number.tolist() == [0, 1, 2, 3]
    assert steps.wall.tolist() == [1000, 600, 600, 600]
    assert steps.gpu.tolist() == [800, 250, 250, 250]
    assert steps.attention.tolist() == [500, 150, 150, 150]


def test_idle_is_wall_time_without_a_kernel_and_waiting_ends_with_the_launch(tmp_path: Path) -> None:
    steps = build_steps(three_steps().timeline(tmp_path))
    # The first gap of a step ends with a launch; what follows its last kernel waits for the next step's.
    assert steps.idle.tolist() == [200, 400, 400, 400]
    assert steps.waiting.tolist() == [20 + 100, 160 + 200, 160 + 200, 160]


def test_a_step_that_the_gpu_ends_after_the_cpu_lasts_until_then(tmp_path: Path) -> None:
    trace = Trace()
    trace.step("decode", 1, 0, 100)
    trace.launched(GEMM, 10, 50, 1000)
    trace.step("decode", 2, 200, 300)
    trace.launched(GEMM, 210, 1000, 1500)
    steps = build_steps(trace.timeline(tmp_path))
    assert steps.wall.tolist() == [1000, 500]
    assert steps.idle.tolist() == [50, 0]


def test_two_generations_have_two_first_decode_steps_and_no_pause_between_them(tmp_path: Path) -> None:
    trace = Trace()
    for number, (name, start) in enumerate(
        (("prefill", 0), ("decode", 200), ("prefill", 90_000), ("decode", 90_200))
    ):
        trace.step(name, number, start, start + 100)
    phases = {phase.phase: phase for phase in phase_totals(trace.timeline(tmp_path))}
    assert phases["first decode"].steps == 2
    assert "steady decode" not in phases
    assert phases["prefill"].wall_ns == 200


def test_the_totals_agree_with_the_steps_and_with_the_trace(tmp_path: Path) -> None:
    trace = three_steps()
    trace.launched(GEMM, 5000, 5100, 5300)
    phases = {phase.phase: phase for phase in phase_totals(trace.timeline(tmp_path))}
    assert list(phases) == ["prefill", "first decode", "steady decode", "other"]
    steady = phases["steady decode"]
    assert (steady.steps, steady.wall_ns, steady.median_ns, steady.p95_ns) == (2, 1200, 600, 600)
    assert steady.attention_share == pytest.approx(300 / 500)
    assert steady.idle_share == pytest.approx(800 / 1200)
    assert steady.attention_of_wall == pytest.approx(300 / 1200)
    assert phases["other"].gpu_ns == 200
    assert phases["other"].wall_ns is None


def test_time_per_token_and_layer_counts_only_kernels_of_layers(tmp_path: Path) -> None:
    trace = Trace()
    trace.step("decode", 1, 0, 1000)
    trace.launched(GEMM, 5, 20, 100)  # outside every layer
    for layer in range(2):
        trace.step("layer", layer, 100 + 300 * layer, 300 + 300 * layer)
        trace.launched(GEMM, 110 + 300 * layer, 200 + 300 * layer, 230 + 300 * layer)
        trace.launched(FLASH, 130 + 300 * layer, 230 + 300 * layer, 240 + 300 * layer)
    (decode,) = phase_totals(trace.timeline(tmp_path))
    assert (decode.layer_ns, decode.attention_layer_ns) == (40, 10)


def test_two_processes_on_two_gpus_are_idle_each_by_its_own_steps(tmp_path: Path) -> None:
    trace = Trace()
    trace.domain("attnprof", 1, pid=8)
    for pid, busy in ((7, 800), (8, 200)):
        trace.step("decode", 1, 0, 1000, pid=pid, tid=pid)
        trace.launched(GEMM, 0, 100, 100 + busy, pid=pid, deviceId=pid - 7)
    (decode,) = phase_totals(trace.timeline(tmp_path))
    assert decode.device_wall_ns == 2000
    assert decode.idle_share == pytest.approx(0.5)


def test_a_trace_without_steps_is_one_phase_from_the_first_kernel_to_the_last(tmp_path: Path) -> None:
    trace = TraceBuilder()
    for number, (start, end) in enumerate(((100, 200), (400, 600)), start=1):
        trace.call(start - 50, start - 40, number)
        trace.kernel(FLASH, start, end, number)
    (whole,) = phase_totals(build_timeline(read_nsys_sqlite(trace.write(tmp_path / "t.sqlite"))))
    assert (whole.wall_ns, whole.idle_ns, whole.waiting_ns) == (500, 200, 160)
    assert "whole trace" in phases_table([whole]).for_people()[0]
    assert "The trace, first kernel to last, takes 500 ns" in time_sentences([whole])[0]


def test_without_kernels_nothing_is_said_of_a_gpu(tmp_path: Path) -> None:
    trace = Trace()
    trace.step("prefill", 0, 0, 1000)
    trace.step("decode", 1, 1100, 1500)
    phases = phase_totals(trace.timeline(tmp_path))
    assert time_sentences(phases) == []
    assert [phase.idle_ns for phase in phases] == [None, None]
    for table in (phases_table(phases), steps_table(phases)):
        shown = [[cell for cell in row if cell] for row in table.for_people()]
        assert all(len(cells) <= 3 for cells in shown)
    assert phases_table(phases).title == "Phases"


def test_where_graphs_hide_their_kernels_no_gpu_is_called_idle(tmp_path: Path) -> None:
    trace = three_steps()
    trace.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=1, end=2)
    phases = phase_totals(trace.timeline(tmp_path))
    assert {phase.idle_share for phase in phases} == {None}
    assert "idle" not in " ".join(time_sentences(phases))


def test_without_launches_idle_is_known_and_waiting_is_not(tmp_path: Path) -> None:
    trace = TraceBuilder()
    trace.kernel(GEMM, 100, 200, 1)
    trace.kernel(GEMM, 300, 400, 2)
    (whole,) = phase_totals(build_timeline(read_nsys_sqlite(trace.write(tmp_path / "t.sqlite"))))
    assert (whole.idle_ns, whole.waiting_ns) == (100, None)


def test_idle_and_waiting_agree_with_a_count_of_every_nanosecond(tmp_path: Path) -> None:
    rng = random.Random(5)
    trace, moment, kernels, windows = Trace(), 0, [], []
    for number in range(1, 9):
        start = moment
        for _ in range(6):
            at = moment
            moment += rng.randint(11, 40)
            begins = at + rng.randint(12, 60)
            kernels.append((begins, begins + rng.randint(1, 70), at + 10))
            trace.launched(GEMM, at, *kernels[-1][:2], streamId=rng.choice([7, 8]))
        trace.step("decode", number, start, moment)
        windows.append((start, moment, max(end for _, end, _ in kernels[-6:])))
    steps = build_steps(trace.timeline(tmp_path))
    done = 0
    for index, (_, cpu_end, gpu_end) in enumerate(windows):
        begin, done = done, max(done, cpu_end, gpu_end)
        idle = [t for t in range(begin, done) if not any(s <= t < e for s, e, _ in kernels)]
        waiting = 0
        for t in idle:
            following = [kernel for kernel in sorted(kernels) if kernel[0] > t]
            waiting += bool(following) and following[0][2] > t
        assert (steps.idle[index], steps.waiting[index]) == (len(idle), waiting)


def test_the_sentences_say_launch_bound_only_where_the_gpu_waits_for_launches(tmp_path: Path) -> None:
    slow = " ".join(time_sentences(phase_totals(three_steps().timeline(tmp_path))))
    assert "Decode takes 600 ns per token" in slow
    assert "launch-bound" in slow
    assert "Attention is 60.0 % of decode's GPU time and 25.0 % of a token's wall time" in slow
    assert "Prefill takes 1 µs" in slow
    queued = Trace()
    for number in range(1, 4):
        queued.step("decode", number, 100 * number, 100 * number + 50)
        queued.launched(GEMM, 100 * number, 1000 * number - 850, 1000 * number + 140)
    (tmp_path / "queued").mkdir()
    fast = " ".join(time_sentences(phase_totals(queued.timeline(tmp_path / "queued"))))
    assert "GPU-bound" in fast
    assert "launch-bound" not in fast


SPLIT = (
    "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4, false, false, "
    "cutlass::half_t, Flash_kernel_traits<128, 64, 128, 4, cutlass::half_t>>, false, false, false, false, "
    "true, false, true, false>"
    "(flash::Flash_fwd_params)"
)
COMBINE = (
    "void flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>, 4, 1, true>(P)"
)


def test_the_cost_of_splitting_is_the_combine_beside_the_kernel_per_split_count(tmp_path: Path) -> None:
    trace = Trace()
    trace.step("decode", 1, 0, 10_000)
    trace.launched(FLASH, 0, 100, 140)
    for index in range(3):
        start = 1000 + 1000 * index
        trace.launched(SPLIT, start, start + 100, start + 130, grid=(1, 2, 4))
        trace.launched(COMBINE, start + 20, start + 130, start + 140 + index)
    timeline = trace.timeline(tmp_path)
    costs = split_costs(timeline, observe(timeline))
    assert [(c.phase, c.num_splits, c.calls, c.main_ns, c.rest_ns, c.total_ns) for c in costs] == [
        ("decode", 1, 1, 40, 0, 40),
        ("decode", 2, 3, 30, 11, 41),
    ]


def test_where_nothing_was_split_no_cost_is_shown(tmp_path: Path) -> None:
    timeline = three_steps().timeline(tmp_path)
    assert split_costs(timeline, observe(timeline)) == []


def test_a_process_called_like_the_domain_does_not_hide_the_ranges(tmp_path: Path) -> None:
    trace = Trace()
    trace.string("attnprof")  # StringIds holds the names of processes too
    trace.step("decode", 17, 0, 1000)
    trace.step("layer", 3, 10, 900)
    trace.launched(GEMM, 20, 100, 200)
    timeline = trace.timeline(tmp_path)
    assert (timeline.step.tolist(), timeline.layer.tolist()) == ([17], [3])
