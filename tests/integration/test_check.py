"""check and report on real traces, and on generated runs with deliberate mismatches, which must be found."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnprof import load
from attnprof.check.check_run import Verdict
from attnprof.dispatch import predict
from attnprof.dispatch.intervals import Interval
from attnprof.gpus import gpu_by_name
from attnprof.model import KernelLaunch
from attnprof.trace.open_trace import open_trace
from tests.conftest import SHARED, TESTS
from tests.support.command import attnprof
from tests.support.generated_run import decode_call, generated_run

TRACES = TESTS / "data" / "traces"
H100 = gpu_by_name("h100")


def trace_file(name: str) -> Path:
    """A trace of the repository, or one that may only be tested where it lies."""
    for folder in (TRACES, SHARED / "traces"):
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"{name} is not in this checkout")


def test_the_decode_step_of_llama_2_on_an_l40_splits_in_two_in_each_of_32_layers() -> None:
    path = trace_file("torch_l40_llama2-7b_cudagraph_decode_fa2_splitkv.json.gz")
    result = load(path).check()
    assert result.exit_code == 3  # explained is not compared
    assert [call.verdict for call in result.calls] == [Verdict.EXPLAINED] * 32
    assert {call.num_splits for call in result.calls} == {2}
    assert {call.inferred.seqlen_k for call in result.calls if call.inferred} == {(Interval(129, 256),)}
    assert {call.num_kernels for call in result.calls} == {2}
    done = attnprof("check", str(path))
    assert "129–256" in done.out
    assert "flash_fwd_splitkv_kernel + combine" in done.out


def test_the_h100_slices_run_the_plain_kernel_without_split() -> None:
    result = load(trace_file("nsys2026.2_h100x2_flash_fwd_nccl_slice.sqlite.gz")).check()
    assert result.exit_code == 3
    assert result.cannot_tell == "nothing was compared: arguments not recorded"
    assert len(result.calls) == 68
    assert {(call.num_splits, call.observed.main.kernel) for call in result.calls if call.observed} == {
        (1, "flash_fwd_kernel")
    }


def test_torch_traces_are_checked_against_their_own_recorded_arguments() -> None:
    bert = load(trace_file("torch_h100_bert-small_pytorch_flash.json.gz")).check()
    assert bert.counts == {Verdict.MATCH: 4}
    qwen = load(trace_file("torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz")).check()
    assert qwen.counts == {Verdict.MATCH: 24, Verdict.EXPLAINED: 10}
    assert qwen.exit_code == 0
    said = "compared 24 of 34 calls: 24 match; 10 not compared: arguments not recorded"
    assert qwen.coverage.sentence == said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nsys2022.4_nvtx_only_python.sqlite.gz", "the trace holds no GPU kernels"),
        ("nsys2025.1_rtx5060ti_runtime_only_nokernels.sqlite.gz", "the trace holds no GPU kernels"),
        ("nsys2025.5_rtx3060_cuda_graph_trace.sqlite.gz", "2 CUDA graph launches were recorded whole"),
        (
            "nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz",
            "none of the 2 kernels in the trace is an attention kernel",
        ),
        ("torch_b200_vllm_eager_trtllmgen_fmha.json.gz", "whose launches attnprof does not model"),
        (
            "torch_mi300x_sglang_qwen3-8b_decode.json.gz",
            "not read 36 a kernel's name, grid or block cannot be read",
        ),
    ],
)
def test_a_trace_that_cannot_answer_exits_3_and_says_why(name: str, says: str) -> None:
    done = attnprof("check", str(trace_file(name)))
    assert done.code == 3
    assert says in " ".join(done.out.split())
    assert "try " in done.out


@pytest.mark.parametrize("path", sorted((SHARED / "traces").glob("*.gz")), ids=lambda path: path.name)
def test_every_trace_at_hand_imports_and_reports(path: Path) -> None:
    imported = attnprof("import", str(path), "-o", "it")
    assert imported.code == 0, imported.err
    report = attnprof("report", "it")
    assert report.code == 0, report.err
    assert attnprof("check", "it").code == attnprof("check", str(path)).code
    rows = list(csv.DictReader(io.StringIO(attnprof("report", "it", "--format", "csv").out)))
    kernels = open_trace(path).kernels
    assert sum(int(row["Instances"]) for row in rows) == len(kernels)
    assert sum(int(row["Total Time (ns)"]) for row in rows) == int((kernels.end - kernels.start).sum())


def test_a_run_that_did_what_was_predicted_matches_throughout(tmp_path: Path) -> None:
    run = load(generated_run(tmp_path, range(120, 140)))
    result = run.check()
    assert result.counts == {Verdict.MATCH: 40}
    assert [call.num_splits for call in result.calls] == [1] * 18 + [2] * 22
    assert attnprof("check").code == 0
    assert "From 129 keys on (step 10) it splits them in 2" in " ".join(attnprof("report").out.split())


def other_split(launches: list[KernelLaunch]) -> list[KernelLaunch]:
    gx, gy, gz = launches[0].grid
    return [replace(launches[0], grid=(gx, gy + 1, gz)), *launches[1:]]


def other_template(launches: list[KernelLaunch]) -> list[KernelLaunch]:
    return [
        replace(launch, kernel=launch.kernel.replace("> >, false", "> >, true", 1)) for launch in launches
    ]


def other_grid(launches: list[KernelLaunch]) -> list[KernelLaunch]:
    return [*launches[:-1], replace(launches[-1], grid=(launches[-1].grid[0] + 1, *launches[-1].grid[1:]))]


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (other_split, Verdict.WRONG_NUM_SPLITS),
        (other_template, Verdict.WRONG_TEMPLATE),
        (other_grid, Verdict.WRONG_GRID),
        (lambda launches: list(predict(decode_call(64), H100).launches), Verdict.WRONG_KERNEL),
        (lambda launches: [], Verdict.MISSING),
    ],
)
def test_one_spoilt_call_among_forty_is_found_and_named(tmp_path: Path, spoil: Any, verdict: Verdict) -> None:
    run = load(generated_run(tmp_path, range(130, 150), spoil={17: spoil}))
    result = run.check()
    assert [(call.seq, call.verdict) for call in result.failures] == [(17, verdict)]
    done = attnprof("check")
    assert done.code == 1
    assert "call 17, decode 9, layer 1" in done.out
    assert "FAILED: 1 of 40 attention calls" in done.out


def test_without_records_the_split_changes_give_the_kv_length(tmp_path: Path) -> None:
    run = load(generated_run(tmp_path, range(120, 140), records=False))
    assert run.check().counts == {Verdict.EXPLAINED: 40}
    assert "the first decode step held 120 keys" in " ".join(attnprof("report").out.split())


def test_without_records_an_impossible_split_count_is_a_mismatch(tmp_path: Path) -> None:
    def impossible(launches: list[KernelLaunch]) -> list[KernelLaunch]:
        return [replace(launches[0], grid=(1, 127, 4)), *launches[1:]]

    run = load(generated_run(tmp_path, range(130, 150), spoil={5: impossible}, records=False))
    result = run.check()
    assert [call.verdict for call in result.failures] == [Verdict.UNEXPLAINED]
    assert result.exit_code == 1


def test_the_data_frames_hold_what_the_check_says(tmp_path: Path) -> None:
    run = load(generated_run(tmp_path, range(120, 140)))
    calls, kernels, ranges = run.calls, run.kernels, run.ranges
    assert calls["verdict"].tolist() == ["match"] * 40
    assert calls["observed_num_splits"].tolist() == calls["predicted_num_splits"].tolist()
    assert kernels["call"].notna().all()
    assert kernels["duration_ns"].sum() == 400 * len(kernels)
    assert sorted(ranges["name"].unique()) == ["attn", "decode", "layer"]


def test_the_database_can_be_queried(tmp_path: Path) -> None:
    import sqlite3

    folder = generated_run(tmp_path, range(120, 140))
    db = sqlite3.connect(load(folder).database)
    rows = db.execute(
        "select num_splits, min(first_step), max(last_step), min(min_seqlen_k), max(max_seqlen_k), sum(calls)"
        " from split_timeline group by num_splits order by num_splits"
    ).fetchall()
    assert rows == [(1, 1, 9, 120, 128, 18), (2, 10, 20, 129, 139, 22)]


@pytest.mark.parametrize(
    ("trace", "why"),
    [
        ("torch_b200_vllm_eager_trtllmgen_fmha.json.gz", "not among the kernels of flashinfer-cubin 0.6.13"),
        ("torch_mi300x_sglang_qwen3-8b_decode.json.gz", ""),
        ("torch_h100_bert-small_pytorch_flash.json.gz", ""),
    ],
)
def test_a_report_says_why_observed_calls_are_not_modelled(trace: str, why: str) -> None:
    done = attnprof("report", str(TRACES / trace), "--format", "json")
    said = [note for note in json.loads(done.out)["notes"] if note.startswith("not modelled: ")]
    assert [why in note and note.endswith("(36 calls)") for note in said] == ([True] if why else [])
