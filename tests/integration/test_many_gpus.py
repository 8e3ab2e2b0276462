"""Traces of several processes on several GPUs, as Windows too writes them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from attnprof import load
from attnprof.analysis.splits import split_rows
from attnprof.check.check_run import Verdict
from attnprof.dispatch import predict
from attnprof.dispatch.intervals import Interval
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof

GPUS = {0: "h100", 1: "a100"}
LENGTHS = {0: range(1020, 1030), 1: range(500, 510)}
LAYERS = 2


def two_ranks(path: Path, *, scrambled: bool = False) -> Path:
    """A process per GPU, decoding at different lengths at the same time, with the same correlation ids."""
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, id=9, name="Intel(R) UHD Graphics", smCount=0)
    for device, name in GPUS.items():
        gpu = gpu_by_name(name)
        capability = {"computeMajor": gpu.sm_major, "computeMinor": gpu.sm_minor}
        builder.add(
            "TARGET_INFO_GPU",
            vmId=1,
            id=device,
            name=name,
            smCount=gpu.num_sms,
            cuDevice=device,
            **capability,
        )
    # Localised names are no UTF-8 in the metadata of Windows captures; CAST keeps the bytes as they are.
    builder.add("META_DATA_EXPORT", name="EXPORT_TIME_ZONE", value="\u0420\u0443\u0441".encode("cp1251"))
    for device, lengths in LENGTHS.items():
        pid, time, correlation = 100 + device, 1_000, 1
        for step, keys in enumerate(lengths, start=1):
            began = time
            for layer in range(LAYERS):
                opened = time
                call = AttentionCall("flash_attn", "fwd", 1, 1, keys, 28, 4, 128, causal=True)
                for launch in predict(call, gpu_by_name(GPUS[device])).launches:
                    builder.call(time + 1, time + 5, correlation, pid=pid, tid=pid)
                    start = time + 50
                    builder.kernel(
                        launch.kernel,
                        start,
                        start + 40,
                        correlation,
                        grid=launch.grid,
                        pid=pid,
                        deviceId=device,
                    )
                    time, correlation = time + 100, correlation + 1
                builder.range(f"layer {layer}", opened, time, pid=pid, tid=pid)
                time += 5
            builder.range(f"decode step {step}", began - 1, time, pid=pid, tid=pid)
            time += 10
    if scrambled:
        for rows in builder.rows.values():
            rows.reverse()
    return builder.write(path)


def test_each_gpu_is_judged_by_its_own_sm_count(tmp_path: Path) -> None:
    run = load(two_ranks(tmp_path / "t.sqlite"))
    assert run.check().counts == {Verdict.EXPLAINED: 2 * 10 * LAYERS}
    rows = {(row.processes, row.steps): row for row in split_rows(run.check().calls)}
    # 132 SMs: 8 splits to 1024 keys, 9 from 1025 on; 108 SMs: 4 splits of up to 512 keys
    assert rows[(100,), (1, 5)].num_splits == 8
    assert rows[(100,), (6, 10)].num_splits == 9
    assert rows[(101,), (1, 10)].num_splits == 4
    assert rows[(101,), (1, 10)].seqlen_k == (Interval(385, 512),)
    assert all(row.layers == (0, 1) for row in rows.values())


def test_processes_stand_apart_in_the_split_timeline(tmp_path: Path) -> None:
    done = attnprof("check", str(two_ranks(tmp_path / "t.sqlite")))
    assert done.code == 3  # arguments were not recorded: nothing was compared
    assert [line.split()[-1] for line in done.out.splitlines() if line.startswith("decode")] == [
        "100", "100", "101",
    ]  # fmt: skip
    table = attnprof("report", str(tmp_path / "t.sqlite"), "--format", "csv", "--table", "splits").out
    assert [row["processes"] for row in csv.DictReader(io.StringIO(table))] == ["100", "100", "101"]


def test_rows_in_any_order_give_the_same_answer(tmp_path: Path) -> None:
    ordered, scrambled = two_ranks(tmp_path / "a.sqlite"), two_ranks(tmp_path / "b.sqlite", scrambled=True)
    assert split_rows(load(ordered).check().calls) == split_rows(load(scrambled).check().calls)
    for report in ("nvtxkernsum", "gpukernsum"):
        rows = [
            sorted(attnprof("report", str(path), "-r", report, "--format", "csv").out.splitlines())
            for path in (ordered, scrambled)
        ]
        assert rows[0] == rows[1]


def test_a_gpu_given_by_hand_stands_for_all(tmp_path: Path) -> None:
    result = load(two_ranks(tmp_path / "t.sqlite")).check(gpu=gpu_by_name("a100"))
    on_first = {call.inferred.seqlen_k for call in result.calls if call.inferred and call.num_splits == 4}
    assert on_first == {(Interval(385, 512),)}
