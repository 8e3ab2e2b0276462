"""The torch profiler reader: times, ids, categories and attnprof's own ranges."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprof.errors import TraceError
from attnprof.trace import json_stream
from attnprof.trace.open_trace import open_trace
from attnprof.trace.torch_rows import nanoseconds


def event(cat, name, ts="10", dur="5", pid=9, tid=9, **args):
    """One event; times are the JSON text itself, so that fractions are what the file says."""
    fields = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "args": args}
    return json.dumps(fields)[:-1] + f', "ts": {ts}, "dur": {dur}}}'


def write(path, events, head='"schemaVersion": 1', tail=""):
    text = "{" + head + ', "traceEvents": [\n' + ",\n".join(events) + "\n]" + tail + "}"
    path.write_text(text)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trace.json"


@given(st.integers(0, 2**53 * 1000))
def test_microseconds_become_exact_nanoseconds(ns):
    assert nanoseconds(f"{ns // 1000}.{ns % 1000:03d}") == ns
    assert nanoseconds(str(Decimal(ns) / 1000)) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [(12, 12_000), ("12.5", 12_500), ("1712195495520883.0", 1_712_195_495_520_883_000), ("-0.5", -500),
     ("1.7e3", 1_700_000), ("0.0004", 0), ("0.12345678", 123)],
)  # fmt: skip
def test_the_spellings_of_a_time(text, ns):
    assert nanoseconds(text) == ns


def test_a_kernel_has_its_launch_device_stream_and_shape(path):
    args = {"device": 2, "stream": 7, "correlation": 33, "grid": [1, 2, 32], "block": [128, 1, 1]}
    write(path, [
        event("kernel", "flash_fwd", "1365627862757.064", "87.41", pid=2, tid=7, **args),
        event("cuda_runtime", "cudaLaunchKernel", "1365627862750", "3.5", correlation=33),
    ])  # fmt: skip
    trace = open_trace(path)
    k = trace.kernels
    assert (k.start[0], k.end[0]) == (1365627862757064, 1365627862757064 + 87410)
    assert (k.device[0], k.stream[0], k.pid[0], k.correlation[0]) == (2, 7, 9, 33)
    assert k.grid.tolist() == [[1, 2, 32]]
    assert k.block.tolist() == [[128, 1, 1]]
    assert trace.api_calls.correlation.tolist() == [33]
    assert trace.strings[trace.api_calls.name[0]] == "cudaLaunchKernel"


def test_categories_are_compared_without_case_and_others_are_left(path):
    write(path, [
        event("Kernel", "k", correlation=1),
        event("Runtime", "cudaLaunchKernel", correlation=1),
        event("user_annotation", "mine"),
        event("gpu_user_annotation", "mine"),
        event("python_function", "f"),
        event("ac2g", "ac2g"),
        '{"ph": "M", "name": "process_name", "pid": "Spans", "tid": "x", "args": {}}',
    ])  # fmt: skip
    trace = open_trace(path)
    assert (len(trace.kernels), len(trace.api_calls), len(trace.ranges)) == (1, 1, 1)


def test_own_annotations_become_what_nvtx_would_have_given(path):
    names = ["attnprof:decode:17", "attnprof:attn:42", "decode:3"]
    write(path, [event("user_annotation", name, str(i)) for i, name in enumerate(names)])
    trace = open_trace(path)
    r = trace.ranges
    assert [trace.strings[i] for i in r.name] == ["decode", "attn", "decode:3"]
    assert [trace.strings[i] for i in r.domain] == ["attnprof", "attnprof", ""]
    assert r.payload[:2].tolist() == [17, 42]
    assert r.has_payload.tolist() == [True, True, False]


def test_without_grids_kernels_are_kept_and_the_loss_is_told(path):
    write(path, [event("kernel", "k", correlation=1), event("kernel", "l", correlation=1, grid=[1, 1, 1])])
    trace = open_trace(path)
    assert trace.kernels.grid.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert any("1 of 2 kernels carry no grid" in note for note in trace.info.notes)


def test_attention_operators_keep_their_arguments_and_launches(path):
    dims = [[1, 99, 28, 128], [1, 99, 4, 128], [1, 99, 4, 128], []]
    args = {
        "Input Dims": dims,
        "Input type": ["c10::Half"] * 3 + ["Scalar"],
        "Concrete Inputs": ["", "", "", "0."],
    }
    write(path, [
        event("cpu_op", "flash_attn::_flash_attn_forward", "10", "10", **args),
        event("cpu_op", "flash_attn::_flash_attn_backward", "40", "10", **args),
        event("cpu_op", "aten::mm", "10", "10"),
        event("cuda_runtime", "cudaLaunchKernel", "12", "1", correlation=5),
        event("cuda_runtime", "cudaLaunchKernel", "14", "1", correlation=6),
        event("cuda_runtime", "cudaLaunchKernel", "25", "1", correlation=7),
        *(event("kernel", "k", "30", correlation=c) for c in (5, 7)),
    ])  # fmt: skip
    ops = open_trace(path).attention_ops
    assert len(ops) == 1
    assert ops.dims[0] == ((1, 99, 28, 128), (1, 99, 4, 128), (1, 99, 4, 128), ())
    assert ops.dtypes[0] == ("c10::Half", "c10::Half", "c10::Half", "Scalar")
    assert ops.inputs[0] == ("", "", "", "0.")
    assert ops.correlations == ((5,),)


def test_a_kernel_belongs_to_the_process_that_called_unless_two_did(path):
    calls = [(1, 50), (2, 51), (3, 50), (3, 51)]
    write(path, [
        *(event("cuda_runtime", "cudaLaunchKernel", pid=pid, correlation=c) for c, pid in calls),
        *(event("kernel", "k", str(c), pid=0, correlation=c) for c in (1, 2, 3, 4)),
    ])  # fmt: skip
    assert open_trace(path).kernels.pid.tolist() == [50, 51, 0, 0]


def test_devices_are_read_before_or_after_the_events(path):
    device = '{"id": 1, "name": "H100", "numSms": 132, "computeMajor": 9, "computeMinor": 0}'
    write(path, [event("kernel", "k")], tail=f', "deviceProperties": [{device}], "displayTimeUnit": "ms"')
    (found,) = open_trace(path).info.devices
    assert (found.index, found.name, found.num_sms, found.sm_major) == (1, "H100", 132, 9)
    write(path, [event("kernel", "k")], head=f'"hip_runtime_version": 7, "deviceProperties": [{device}]')
    assert open_trace(path).info.devices[0].sm_major is None


@pytest.mark.parametrize("count", ["true", "-1", "1.5", '"132"', str(2**40)])
def test_a_count_of_a_device_that_is_none_is_not_taken(path, count):
    device = f'{{"id": 0, "name": "NVIDIA H100", "numSms": {count}, "computeMajor": 9}}'
    write(path, [event("kernel", "k")], head=f'"deviceProperties": [{device}]')
    (found,) = open_trace(path).info.devices
    assert (found.num_sms, found.sm_major) == (None, 9)


def test_a_bare_list_of_events_is_a_trace(path):
    path.write_text("[" + event("kernel", "k") + "]")
    assert len(open_trace(path).kernels) == 1


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_events_survive_any_cut_of_the_text_into_chunks(path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    events = [event("kernel", f"k\\u00e9 {i}", f"{1000 + i}.125", correlation=i) for i in range(20)]
    trace = open_trace(write(path, events, tail=', "last": 12345'))
    assert trace.kernels.start.tolist() == [1_000_125 + 1000 * i for i in range(20)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"traceEvents": [{"ph": "X", "cat": "kernel"', "broken JSON"),
        ('{"traceEvents": [{"ph": "X"}, nope]}', "broken JSON"),
        ('{"traceEvents": []} trailing', "broken JSON"),
        ('{"traceEvents": [' + event("kernel", "k") + "]", "broken JSON"),
        ('{"rows": [1, 2]}', "no traceEvents"),
        ('{"traceEvents": 5}', "no traceEvents"),
        ("[1, 2, 3]", "not an object"),
        ('{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "k", "ts": null}]}', "no usable time"),
        ('{"traceEvents": [{"ph": "X", "cat": "kernel", "name": "k", "ts": "x"}]}', "no usable time"),
        ("[" * 100_000, "broken JSON"),
    ],
)
def test_what_is_no_trace_is_told_in_one_error(path, text, says, packed):
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(TraceError, match=says) as caught:
        open_trace(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
