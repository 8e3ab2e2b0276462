"""The nsys reader on rows that real traces seldom show."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from attnprof.errors import TraceError
from attnprof.trace.open_trace import open_trace
from tests.support.build_trace import TraceBuilder, global_tid


@pytest.fixture
def build():
    return TraceBuilder()


def read(build, tmp_path):
    return open_trace(build.write(tmp_path / "trace.sqlite"))


def test_sorts_rows_that_are_out_of_order(build, tmp_path):
    for start in (500, 100, 300):
        build.kernel(f"k{start}", start, start + 50, start)
        build.call(start - 20, start - 10, start)
        build.range(f"r{start}", start - 30, start)
    build.range("outer", 70, 900)
    trace = read(build, tmp_path)
    assert trace.kernels.start.tolist() == [100, 300, 500]
    assert [trace.strings[i] for i in trace.kernels.name] == ["k100", "k300", "k500"]
    assert trace.api_calls.start.tolist() == [80, 280, 480]
    assert [trace.strings[i] for i in trace.ranges.name] == ["outer", "r100", "r300", "r500"]


def test_ids_above_53_bits_stay_exact(build, tmp_path):
    node = (1 << 62) + 3
    build.kernel("a", 1, 2, 5, graphNodeId=node)
    build.kernel("b", 3, 4, 6, graphNodeId=1)
    build.call(0, 1, 5, pid=0xFFFFFF, tid=0xFFFFFF)
    build.call(2, 3, 6, pid=1, tid=2)
    trace = read(build, tmp_path)
    assert trace.kernels.graph_node.tolist() == [node, 1]
    assert trace.api_calls.pid.tolist() == [0xFFFFFF, 1]
    assert trace.api_calls.thread.tolist() == [global_tid(0xFFFFFF, 0xFFFFFF), global_tid(1, 2)]


def test_strings_with_nul_or_invalid_utf8_do_not_stop_the_reader(build, tmp_path):
    build.kernel(b"bad\xff\xfename", 1, 2, 5)
    build.range(b"inline\xff", 0, 3, inline=True)
    build.range("a\0b", 0, 3)
    trace = read(build, tmp_path)
    assert trace.strings[trace.kernels.name[0]] == "bad��name"
    assert {trace.strings[i] for i in trace.ranges.name} == {"inline�", r"a\u0000b"}


def test_names_of_ranges_come_from_text_or_from_string_ids(build, tmp_path):
    build.range("registered", 0, 9)
    build.range("plain", 1, 8, inline=True)
    build.range("plain", 2, 7, inline=True)
    trace = read(build, tmp_path)
    assert [trace.strings[i] for i in trace.ranges.name] == ["registered", "plain", "plain"]
    assert trace.ranges.name[1] == trace.ranges.name[2]


def test_payload_is_read_from_whichever_column_holds_it(build, tmp_path):
    build.range("none", 0, 90)
    build.range("negative", 1, 80, int64Value=-3)
    build.range("unsigned", 2, 70, uint64Value=1 << 40)
    build.range("short", 3, 60, int32Value=7)
    build.range("float", 4, 50, doubleValue=1.5)
    trace = read(build, tmp_path)
    assert trace.ranges.has_payload.tolist() == [False, True, True, True, False]
    assert trace.ranges.payload[trace.ranges.has_payload].tolist() == [-3, 1 << 40, 7]


def test_domain_numbers_belong_to_their_process(build, tmp_path):
    build.domain("attnprof", 1, pid=7)
    build.domain("NCCL", 1, pid=8)
    build.range("a", 10, 20, domainId=1, pid=7)
    build.range("b", 30, 40, domainId=1, pid=8)
    build.range("c", 50, 60, domainId=0, pid=8)
    trace = read(build, tmp_path)
    assert [trace.strings[i] for i in trace.ranges.domain] == ["attnprof", "NCCL", ""]
    assert trace.info.nvtx_domains == ("attnprof", "NCCL")


def test_marks_categories_and_domain_rows_are_no_ranges(build, tmp_path):
    build.domain("attnprof", 1)
    build.range("mark", 5, None, eventType=34)
    build.range("category", 5, None, eventType=33)
    build.range("pushed", 6, 7)
    build.range("started", 6, 8, eventType=60)
    trace = read(build, tmp_path)
    assert [trace.strings[i] for i in trace.ranges.name] == ["started", "pushed"]
    assert trace.ranges.nested.tolist() == [False, True]


def test_a_range_without_end_lasts_to_the_end_of_the_trace(build, tmp_path):
    build.range("open", 5, None)
    build.range("closed", 6, 70)
    assert read(build, tmp_path).ranges.end.tolist() == [70, 70]


def test_domains_without_a_single_range_say_that_nvtx_is_too_new(build, tmp_path):
    build.domain("attnprof", 1)
    assert any("nvtx is too new" in note for note in read(build, tmp_path).info.notes)


def test_warnings_of_lost_events_are_passed_on_and_the_environment_is_not(build, tmp_path):
    build.add("DIAGNOSTIC_EVENT", severity=1, text="Some CUPTI events might be missing.\nFlush more often.")
    build.add("DIAGNOSTIC_EVENT", severity=2, text="No OpenGL events collected. Does the process use OpenGL?")
    build.add("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value="HF_TOKEN=hf_secret")
    build.kernel("k", 1, 2, 3)
    trace = read(build, tmp_path)
    assert trace.info.notes == ("nsys says: Some CUPTI events might be missing. Flush more often.",)
    assert "hf_secret" not in repr(trace)


def test_whole_graph_launches_are_counted_and_the_option_is_named(build, tmp_path):
    build.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=1, end=2, correlationId=3)
    build.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=3, end=4, correlationId=4)
    info = read(build, tmp_path).info
    assert info.whole_graph_launches == 2
    assert any("--cuda-graph-trace=node" in note for note in info.notes)


def test_devices_by_compute_capability_and_per_process_numbering(build, tmp_path):
    gpu = {"smCount": 108, "computeMajor": 8, "computeMinor": 0, "smMajor": 8, "smMinor": 2}
    build.add("TARGET_INFO_GPU", id=3, name="A100", maxShmemPerSm=167936, maxShmemPerBlockOptin=166912, **gpu)
    build.add("TARGET_INFO_GPU", id=0, name="no CUDA", smCount=0)
    build.add("TARGET_INFO_CUDA_DEVICE", gpuId=3, cudaId=0, pid=7)
    build.kernel("k", 1, 2, 3, pid=7)
    build.kernel("k", 4, 5, 6, pid=8, deviceId=1)
    trace = read(build, tmp_path)
    (device,) = trace.info.devices
    assert (device.index, device.num_sms, device.sm_major, device.sm_minor) == (3, 108, 8, 0)
    assert trace.kernels.device.tolist() == [3, 1]


def test_an_index_added_by_another_tool_changes_nothing(build, tmp_path):
    for i in range(50):
        build.kernel(f"k{i % 3}", 1000 - i, 1000, i, grid=(i + 1, 1, 1))
    path = build.write(tmp_path / "trace.sqlite")
    before = open_trace(path).kernels
    db = sqlite3.connect(path)
    db.execute("CREATE INDEX added ON CUPTI_ACTIVITY_KIND_KERNEL (demangledName, gridX, start, end)")
    db.commit()
    db.close()
    after = open_trace(path).kernels
    assert np.array_equal(before.grid, after.grid)
    assert np.array_equal(before.start, after.start)


def test_a_missing_required_column_is_named(build, tmp_path):
    path = build.write(tmp_path / "trace.sqlite")
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, deviceId INTEGER)")
    db.close()
    with pytest.raises(TraceError, match="CUPTI_ACTIVITY_KIND_KERNEL has no column"):
        open_trace(path)


def test_a_value_that_is_no_integer_is_an_error(build, tmp_path):
    build.kernel("k", "soon", 2, 3)
    with pytest.raises(TraceError, match="not an integer"):
        read(build, tmp_path)
