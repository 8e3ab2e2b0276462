"""What the doctor finds wrong with a machine and with a trace, and the fix that it names."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from attnprof.commands.trial_capture import try_capture
from attnprof.doctor.finding import Finding, Level, exit_code, fail, ok, warn
from attnprof.doctor.machine import examine_machine, modelled, query_gpus
from attnprof.doctor.trace import examine_trace
from attnprof.doctor.trial import TryCapture
from tests.support.build_trace import TraceBuilder
from tests.support.generated_run import generated_run

FLASH = "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64, 64, 4>>(Flash_fwd_params)"


def by_what(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def trial(limit_s: float = 20) -> TryCapture:
    return partial(try_capture, limit_s=limit_s)


def one_kernel() -> TraceBuilder:
    builder = TraceBuilder()
    builder.add(
        "TARGET_INFO_GPU", vmId=1, id=0, name="NVIDIA H100", smCount=132, computeMajor=9, computeMinor=0
    )
    builder.call(10, 20, 1)
    builder.kernel(FLASH, 30, 40, 1)
    return builder


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_failures_make_exit_code_1_and_warnings_only_under_strict() -> None:
    fine, worth, broken = ok("a", ""), warn("b", "", "do"), fail("c", "", "do")
    assert [exit_code(found, strict=False) for found in ([fine], [fine, worth], [worth, broken])] == [0, 0, 1]
    assert [exit_code(found, strict=True) for found in ([fine], [fine, worth])] == [0, 1]


# Machines


def test_a_named_nsys_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_NSYS", "/nowhere/nsys")
    found = by_what(examine_machine(try_capture=trial()))
    assert found["nsys"].level is Level.FAIL
    assert "ATTNPROF_NSYS names /nowhere/nsys" in found["nsys"].found
    assert "capture" not in found


def test_an_nsys_that_does_not_run_fails(tmp_path: Path) -> None:
    found = by_what(examine_machine(str(program(tmp_path / "bin", "nsys", "exit 1")), try_capture=trial()))
    assert found["nsys"].level is Level.FAIL
    assert "does not run" in found["nsys"].found


def test_an_nsys_that_never_ends_is_ended_and_fails(tmp_path: Path) -> None:
    script = 'case "$1" in --version) echo NVIDIA Nsight Systems version 2022.4.2.1;; *) sleep 300;; esac'
    stuck = program(tmp_path / "bin", "nsys", script)
    started = time.monotonic()
    found = by_what(examine_machine(str(stuck), try_capture=trial(1)))
    assert time.monotonic() - started < 8
    assert found["capture"].level is Level.FAIL
    assert "not finished after 1 s" in found["capture"].found
    assert "--timeout 60" in found["capture"].fix


def test_an_nsys_that_fails_is_quoted(tmp_path: Path) -> None:
    script = 'case "$1" in --version) echo version 2023.4.4;; *) echo no space left; exit 1;; esac'
    found = by_what(examine_machine(str(program(tmp_path / "bin", "nsys", script)), try_capture=trial(10)))
    assert found["capture"].level is Level.FAIL
    assert "no space left" in found["capture"].found


@pytest.mark.parametrize(
    ("answer", "level", "says"),
    [
        ("NVIDIA H100 80GB HBM3, 550.54.14, 9.0", Level.OK, "132 SMs, sm 9.0, driver 550.54.14"),
        ("Tesla T4, 535.1, 7.5", Level.WARN, "flash kernels need sm 8.0"),
        ("NVIDIA Unheard 9000, 600.1, 13.0", Level.WARN, "not in the table of GPUs"),
    ],
)
def test_the_gpu_is_named_with_what_is_known_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, level: Level, says: str
) -> None:
    program(tmp_path / "bin", "nvidia-smi", f"echo '{answer}'; echo '{answer}'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ATTNPROF_NSYS", "/nowhere/nsys")
    found = by_what(examine_machine(try_capture=trial()))["gpu"]
    assert found.level is level
    assert says in found.found
    assert found.found.startswith("2 x ")


def test_a_driver_that_knows_no_compute_capability_is_asked_for_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path / "bin", "nvidia-smi", 'case "$1" in *compute_cap*) exit 2;; *) echo "A100, 450.1";; esac'
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert query_gpus() == [{"name": "A100", "driver_version": "450.1"}]


def test_versions_are_modelled_or_said_not_to_be() -> None:
    assert modelled("flash_attn", "2.8.3") == ""
    assert "not modelled" in modelled("flash_attn", "9.9.9")
    assert "not modelled" in modelled("torch", "1.13.0")


def test_a_runs_folder_that_cannot_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path / "file"))
    monkeypatch.setenv("ATTNPROF_NSYS", "/nowhere/nsys")
    found = by_what(examine_machine(try_capture=trial()))["runs"]
    assert found.level is Level.FAIL
    assert "ATTNPROF_RUNS" in found.fix


# Traces


def test_a_good_run_has_nothing_to_mend(tmp_path: Path) -> None:
    folder = generated_run(tmp_path, range(120, 130), prefill=64)
    found = by_what(examine_trace(str(folder)))
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert "1 prefill and 10 decode steps, 2 layers" in found["ranges"].found
    assert "132 SMs" in found["gpu"].found


def test_a_missing_and_a_cut_trace_fail(tmp_path: Path) -> None:
    (missing,) = examine_trace(str(tmp_path / "none.sqlite"))
    assert (missing.level, missing.what) == (Level.FAIL, "trace")
    path = one_kernel().write(tmp_path / "cut.sqlite")
    path.write_bytes(path.read_bytes()[:-4096])
    (cut,) = examine_trace(str(path))
    assert cut.level is Level.FAIL
    assert "cut short" in cut.found
    assert "export" in cut.fix
    packed = tmp_path / "cut.sqlite.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    (broken,) = examine_trace(str(packed))
    assert broken.level is Level.FAIL


def test_an_export_older_than_its_report_fails_and_a_newer_one_does_not(tmp_path: Path) -> None:
    path = one_kernel().write(tmp_path / "run.sqlite")
    report = tmp_path / "run.nsys-rep"
    report.touch()
    now = time.time()
    os.utime(path, (now - 7300, now - 7300))
    stale = by_what(examine_trace(str(path)))["export"]
    assert stale.level is Level.FAIL
    assert "2 hours older than run.nsys-rep" in stale.found
    assert "nsys export" in stale.fix
    os.utime(path, (now + 5, now + 5))
    assert by_what(examine_trace(str(path)))["export"].level is Level.OK


def test_graphs_recorded_whole_fail_with_the_option_that_helps(tmp_path: Path) -> None:
    builder = one_kernel()
    builder.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=50, end=60)
    found = by_what(examine_trace(str(builder.write(tmp_path / "t.sqlite"))))["graphs"]
    assert found.level is Level.FAIL
    assert "--cuda-graph-trace=node" in found.fix


def test_ranges_that_nvtx_lost_fail_with_what_is_heard(tmp_path: Path) -> None:
    builder = one_kernel()
    builder.domain("attnprof", 1)
    found = by_what(examine_trace(str(builder.write(tmp_path / "t.sqlite"))))["ranges"]
    assert found.level is Level.FAIL
    assert found.fix == "capture again with attnprof run, or with nvtx 0.2.11"


def test_a_bare_trace_is_usable_with_warnings(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.kernel(FLASH, 30, 40, 1)
    builder.kernel(FLASH, 50, 60, 2)
    builder.call(10, 20, 1)
    builder.add("DIAGNOSTIC_EVENT", severity=3, text="Not all CUDA events might have been collected.")
    findings = list(examine_trace(str(builder.write(tmp_path / "t.sqlite"))))
    found = by_what(findings)
    assert exit_code(findings, strict=False) == 0
    warned = {what for what, finding in found.items() if finding.level is Level.WARN}
    assert warned == {"kernels", "ranges", "losses", "gpu"}
    assert "1 of them have no launching call" in found["kernels"].found
    assert "--gpu NAME" in found["gpu"].fix


def test_a_trace_without_kernels_and_calls_fails(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.range("something", 1, 2)
    found = by_what(examine_trace(str(builder.write(tmp_path / "t.sqlite"))))
    assert found["kernels"].level is Level.FAIL
    assert found["ranges"].level is Level.WARN


def test_kernels_without_any_attention_are_a_warning(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.call(10, 20, 1)
    builder.kernel("ampere_sgemm_128x64_tn", 30, 40, 1)
    found = by_what(examine_trace(str(builder.write(tmp_path / "t.sqlite"))))
    assert found["attention"].level is Level.WARN
