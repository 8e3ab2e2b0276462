"""Attribution: launches, nesting, phases, steps, layers, calls and the projection on the GPU."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.trace import range_nesting
from attnprof.trace.open_trace import open_trace
from attnprof.trace.range_names import DECODE, MIXED, PREFILL
from attnprof.trace.range_nesting import lanes
from attnprof.trace.tables import Ranges
from attnprof.trace.timeline import NO_PHASE, build_timeline
from tests.support.build_trace import TraceBuilder, global_tid


class Scene(TraceBuilder):
    """A trace with helpers for launches and for what its timeline says."""

    def launch(self, at, correlation=None, gpu=None, pid=7, tid=7, name="k", **values):
        """A call at CPU time ``at`` and the kernel it starts at ``gpu`` (default: a thousand later)."""
        correlation = at if correlation is None else correlation
        gpu = at + 1000 if gpu is None else gpu
        self.call(at, at + 2, correlation, pid=pid, tid=tid)
        self.kernel(name, gpu, gpu + 5, correlation, pid=pid, **values)

    def own(self, name, start, end, payload, **values):
        if not any(row["eventType"] == 75 for row in self.rows["NVTX_EVENTS"]):
            self.domain("attnprof", 1)
        self.range(name, start, end, domainId=1, int64Value=payload, **values)


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
def line(scene, tmp_path):
    return lambda: build_timeline(open_trace(scene.write(tmp_path / "trace.sqlite")))


def names(timeline, indices):
    return [timeline.trace.strings[timeline.trace.ranges.name[i]] for i in indices]


def around(timeline):
    """Name of each kernel's innermost range."""
    return [names(timeline, [i])[0] if i >= 0 else None for i in timeline.range.tolist()]


def test_a_launch_is_joined_on_correlation_and_process(scene, line):
    scene.launch(100, correlation=5, pid=7, tid=7)
    scene.launch(200, correlation=5, pid=8, tid=8)
    scene.kernel("lost", 5000, 5001, 99)
    scene.kernel("no correlation", 6000, 6001, None)
    timeline = line()
    calls = timeline.trace.api_calls
    assert [calls.start[i] if i >= 0 else None for i in timeline.launch] == [100, 200, None, None]
    assert timeline.notes == (
        "2 of 4 kernels have no launching call (the trace was cut): attributed to no range",
    )


@pytest.mark.parametrize("gap", [1, 10_000_000])
def test_a_launch_is_found_among_dense_and_sparse_ids(scene, line, gap):
    for i in range(50):
        scene.launch(10 * i, correlation=gap * (i + 1))
    assert line().launch.tolist() == list(range(50))


def test_the_cpu_time_of_the_launch_counts_not_when_the_kernel_ran(scene, line):
    scene.range("first", 0, 100)
    scene.range("second", 200, 300)
    scene.launch(50, gpu=250)
    assert around(line()) == ["first"]


def test_a_range_on_another_thread_does_not_hold_the_launch(scene, line):
    scene.range("mine", 0, 100, tid=7)
    scene.range("other", 0, 50, tid=8)
    scene.launch(20, tid=7)
    scene.launch(30, tid=8)
    scene.launch(40, tid=9)
    assert around(line()) == ["mine", "other", None]


def test_all_kernels_of_a_graph_share_its_launch(scene, line):
    scene.own("decode", 0, 100, 3)
    scene.call(10, 20, 77, name="cudaGraphLaunch_v10000")
    for i in range(30):
        scene.kernel("k", 1000 + 10 * i, 1005 + 10 * i, 77, graphNodeId=i + 1)
    timeline = line()
    assert set(timeline.launch.tolist()) == {0}
    assert set(timeline.step.tolist()) == {3}
    assert timeline.projection().num_ops.tolist() == [1]
    assert timeline.projection().num_kernels.tolist() == [30]


def test_nested_ranges_have_parents_levels_and_all_enclosing_ones(scene, line):
    scene.range("generate", 0, 1000)
    scene.range("prefill", 10, 400)
    scene.range("layer=0", 20, 100)
    scene.range("layer=1", 100, 200)
    scene.range("decode", 500, 900)
    scene.launch(30)
    scene.launch(150)
    scene.launch(450)
    scene.launch(600)
    timeline = line()
    assert timeline.parent.tolist() == [-1, 0, 1, 1, 0]
    assert timeline.level.tolist() == [0, 1, 2, 2, 1]
    assert around(timeline) == ["layer=0", "layer=1", "generate", "decode"]
    assert names(timeline, timeline.enclosing(0)) == ["generate", "prefill", "layer=0"]
    assert timeline.layer.tolist() == [0, 1, -1, -1]
    assert timeline.phase.tolist() == [PREFILL, PREFILL, NO_PHASE, DECODE]
    assert timeline.step.tolist() == [0, 0, -1, 1]
    assert timeline.of_range.phase.tolist() == [NO_PHASE, PREFILL, PREFILL, PREFILL, DECODE]


def test_a_range_that_ends_within_the_call_does_not_hold_it(scene, line):
    scene.range("outer", 0, 100)
    scene.range("short", 10, 21, eventType=60)
    scene.launch(20)
    assert around(line()) == ["outer"]


def test_domains_that_interleave_both_hold_a_launch_between(scene, line):
    scene.own("decode", 0, 100, 4)
    scene.range("layer=2", 50, 150)
    scene.launch(20)
    scene.launch(70)
    scene.launch(120)
    timeline = line()
    assert around(timeline) == ["decode", "layer=2", "layer=2"]
    assert timeline.step.tolist() == [4, 4, -1]
    assert timeline.layer.tolist() == [-1, 2, 2]
    assert names(timeline, timeline.enclosing(1)) == ["decode", "layer=2"]
    assert timeline.parent.tolist() == [-1, -1]
    assert timeline.projection().num_ops.tolist() == [2, 2]


def test_start_end_ranges_may_overlap_and_end_on_another_thread(scene, line):
    scene.range("request A", 0, 100, eventType=60, endGlobalTid=global_tid(7, 9))
    scene.range("request B", 40, 200, eventType=60)
    scene.range("request C", 60, 300, eventType=60)
    scene.range("pushed", 50, 90)
    for at in (10, 45, 70, 95, 150, 250, 299):
        scene.launch(at)
    timeline = line()
    expected = ["request A", "request B", "request C", "request C", "request C", "request C", None]
    assert around(timeline) == expected
    assert names(timeline, timeline.enclosing(2)) == ["request A", "request B", "pushed", "request C"]


def test_a_range_never_popped_holds_all_that_follows_on_its_thread(scene, line):
    scene.range("unclosed", 10, None)
    scene.range("layer=1", 20, 30)
    scene.launch(25)
    scene.range("later", 5000, 6000)
    scene.launch(4000)
    assert around(line()) == ["layer=1", "unclosed"]


def test_own_ranges_give_step_layer_and_call_by_payload(scene, line):
    scene.own("prefill", 0, 100, 0)
    scene.own("layer", 10, 50, 1)
    scene.own("attn", 20, 40, 12)
    scene.own("decode", 200, 300, 7)
    scene.own("attn", 220, 240, 13)
    for at in (5, 15, 25, 230, 290, 400):
        scene.launch(at)
    timeline = line()
    assert timeline.phase.tolist() == [PREFILL] * 3 + [DECODE] * 2 + [NO_PHASE]
    assert timeline.step.tolist() == [0, 0, 0, 7, 7, -1]
    assert timeline.layer.tolist() == [-1, 1, 1, -1, -1, -1]
    assert timeline.call.tolist() == [-1, -1, 12, 13, -1, -1]


def test_where_own_ranges_number_the_steps_other_names_do_not(scene, line):
    scene.range("step=99", 0, 500)
    scene.own("decode", 10, 100, 2)
    scene.range("layer=5", 20, 90)
    scene.launch(30)
    scene.launch(300)
    timeline = line()
    assert timeline.step.tolist() == [2, -1]
    assert timeline.layer.tolist() == [5, -1]


@pytest.mark.parametrize(
    ("name", "phase", "step", "layer"),
    [
        ("prefill", PREFILL, 0, -1),
        ("Prefill", PREFILL, 0, -1),
        ("decode", DECODE, 1, -1),
        ("decode step=17", DECODE, 17, -1),
        ("decode step 17", DECODE, 17, -1),
        ("decode_step_17", DECODE, 17, -1),
        ("step[DECODE bs=32]", DECODE, 1, -1),
        ("step=3", NO_PHASE, 3, -1),
        ("ProfilerStep#6", NO_PHASE, 6, -1),
        ("layer=4", NO_PHASE, -1, 4),
        ("layer_7_computation", NO_PHASE, -1, 7),
        ("model.layers.31.self_attn", NO_PHASE, -1, 31),
        ("execute_context_1(888_788544)_generation_0(0)", PREFILL, 0, -1),
        ("execute_32_context_0(sq0sk0sqsq0sqsk0)_generation_32(sq32sk32785)", DECODE, 1, -1),
        ("execute_context_1(5)_generation_3(3)", MIXED, 0, -1),
        ("decoder", NO_PHASE, -1, -1),
        ("aten::native_layer_norm, op_id = 5", NO_PHASE, -1, -1),
        ("Optimizer.step#SGD.step", NO_PHASE, -1, -1),
        ("timestep=5", NO_PHASE, -1, -1),
    ],
)
def test_what_foreign_names_say(scene, line, name, phase, step, layer):
    scene.range(name, 0, 100)
    scene.launch(10)
    timeline = line()
    assert (timeline.phase[0], timeline.step[0], timeline.layer[0]) == (phase, step, layer)


def phases_at(scene, line, *ranges):
    """Steps of one launch inside each of the ranges given as (name, start, end), at its start + 1."""
    for name, start, end in ranges:
        scene.range(name, start, end)
    return lambda *at: ([scene.launch(t) for t in at], line().step.tolist())[1]


def test_unnumbered_decode_ranges_count_in_order_per_process(scene, line):
    for pid in (7, 8):
        scene.range("prefill", 0, 90, pid=pid, tid=pid)
        for i in range(3):
            scene.range("decode", 100 * i + 100, 100 * i + 190, pid=pid, tid=pid)
            scene.launch(100 * i + 110 + pid, pid=pid, tid=pid)
        scene.launch(10 + pid, pid=pid, tid=pid)
    timeline = line()
    assert timeline.step.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_phases_nested_in_a_phase_are_not_steps_of_their_own(scene, line):
    at = phases_at(scene, line, ("decode", 0, 100), ("decode attention", 10, 50), ("decode", 200, 300))
    assert at(20, 210) == [1, 2]


def test_a_step_range_around_decode_numbers_it(scene, line):
    at = phases_at(
        scene, line, ("step=5", 0, 100), ("decode", 10, 90), ("step=6", 200, 300), ("decode", 210, 290)
    )
    assert at(20, 220) == [5, 6]


def test_step_ranges_inside_one_decode_range_number_what_they_hold(scene, line):
    at = phases_at(scene, line, ("decode", 0, 1000), ("step=1", 10, 100), ("step=2", 200, 300))
    assert at(20, 150, 220) == [1, -1, 2]


def test_one_profiler_step_around_many_decodes_does_not_number_them(scene, line):
    at = phases_at(scene, line, ("ProfilerStep#3", 0, 900), ("decode", 10, 100), ("decode", 110, 200))
    assert at(20, 120) == [1, 2]


def test_without_ranges_or_calls_kernels_are_attributed_to_nothing(scene, line):
    scene.kernel("k", 1, 2, 3)
    timeline = line()
    assert (timeline.launch[0], timeline.range[0], timeline.phase[0], timeline.step[0]) == (
        -1,
        -1,
        NO_PHASE,
        -1,
    )
    assert "no CUDA API call was recorded" in timeline.notes[0]
    assert timeline.enclosing(0) == []


def test_an_empty_trace_has_an_empty_timeline(scene, line):
    timeline = line()
    assert len(timeline.launch) == len(timeline.parent) == len(timeline.projection().start) == 0


def test_a_projection_spans_first_to_last_operation(scene, line):
    scene.range("outer", 0, 100)
    scene.range("inner", 10, 50)
    scene.range("empty", 60, 70)
    scene.launch(20, gpu=900)
    scene.launch(30, gpu=500)
    scene.launch(80, gpu=2000)
    p = line().projection()
    assert p.start.tolist() == [500, 500, 0]
    assert p.end.tolist() == [2005, 905, 0]
    assert p.num_kernels.tolist() == [3, 2, 0]
    assert p.kernel_ns.tolist() == [15, 10, 0]


def table(rows):
    """Ranges from (start, length, thread, domain)."""
    rows = sorted((s, -(s + n), t, d) for s, n, t, d in rows)
    start, end, thread, domain = (np.array([r[i] for r in rows], np.int64) for i in range(4))
    zeros = np.zeros(len(rows), np.int32)
    nested = np.ones(len(rows), np.bool_)
    return Ranges(start, -end, zeros, domain.astype(np.int32), thread, zeros, start, nested, nested)


spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(0, 1), st.integers(0, 2)), max_size=14
)


@settings(max_examples=400, deadline=None)
@given(spans, st.integers(0, 60), st.integers(1, 6))
def test_lanes_hold_every_range_once_and_find_all_that_hold_an_interval(rows, at, length):
    ranges = table(rows)
    found = lanes(ranges)
    assert sorted(int(i) for lane in found for i in lane.members) == list(range(len(ranges)))
    for thread in (0, 1):
        holding = set()
        for lane in (lane for lane in found if lane.thread == thread):
            (i,) = lane.innermost(np.array([at]), np.array([at + length])).tolist()
            while i >= 0:
                holding.add(int(lane.members[i]))
                i = int(lane.parent[i])
        around = (ranges.thread == thread) & (ranges.start <= at) & (ranges.end >= at + length)
        assert holding == set(np.flatnonzero(around).tolist())


@settings(max_examples=200, deadline=None)
@given(spans, st.integers(0, 60), st.integers(1, 6))
def test_ancestors_looked_up_by_leaps_are_those_found_by_walking(rows, at, length):
    for walking, leaping in zip(lanes(table(rows)), lanes(table(rows)), strict=True):
        walked = walking.innermost(np.array([at]), np.array([at + length]))
        with mock.patch.object(range_nesting, "_DEEP", 1):
            assert leaping.innermost(np.array([at]), np.array([at + length])) == walked


def test_ten_thousand_ranges_inside_each_other_are_joined(scene, line):
    for depth in range(10_000):
        scene.range(f"step {depth}", depth, 40_000 - depth)
    for number in range(2_000):
        scene.launch(30_500 + number)
    timeline = line()
    assert timeline.level.max() == 9_999
    assert timeline.range[0] == 9_498


def test_thousands_of_ranges_across_each_other_are_joined_and_those_beyond_any_lane_are_told(scene, line):
    for number in range(3_000):
        scene.range(f"request {number}", 10 * number, 10 * number + 20_000, eventType=60)
    scene.launch(20_000)
    timeline = line()
    assert timeline.notes == (
        "2,488 ranges each overlap 256 others of their thread without nesting: left out",
    )
    assert timeline.range[0] == 2_000
