"""The examples run alone and recorded, and their reports say what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.runs import run_folders
from attnprof.runs.ingest import finish
from attnprof.runs.run_builder import new_run
from attnprof.trace.open_trace import open_trace
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def recorded(name: str, *arguments: str) -> str:
    script = str(EXAMPLES / f"{name}.py")
    program = ("run", "--capture", "none", "-o", name, "--", script, *arguments)
    done = python("-c", "from attnprof.cli import main; main()", *program)
    assert done.returncode == 0, done.stderr
    return attnprof("report", name).out


@pytest.mark.parametrize("name", ["cswin_stripes", "linear_attention", "varlen_vs_naive"])
def test_an_example_agrees_with_its_naive_implementation(name):
    done = python(EXAMPLES / f"{name}.py")
    assert done.returncode == 0, done.stderr
    assert "within" in done.stdout


def test_the_example_that_serves_says_what_it_needs():
    done = python(EXAMPLES / "serve_vllm.py", "--requests", "2")
    if done.returncode != 0:  # this Python has no vllm
        assert (done.returncode, done.stdout) == (2, "")
        assert "pip install vllm" in done.stderr
    refused = python(EXAMPLES / "serve_vllm.py", "--concurrency", "0")
    assert refused.returncode == 2
    assert "at least 1" in refused.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cswin_stripes", ("--size", "10", "--stripe", "3")),
        ("cswin_stripes", ("--heads", "3")),
        ("linear_attention", ("--tokens", "0")),
        ("linear_attention", ("--chunk", "-1")),
    ],
)
def test_an_example_refuses_sizes_that_make_no_sense_in_one_line(name, arguments):
    done = python(EXAMPLES / f"{name}.py", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--tokens", "37", "--chunk", "64"), ("--tokens", "65", "--chunk", "8")]
)
def test_linear_attention_takes_lengths_that_no_chunk_divides(arguments):
    assert python(EXAMPLES / "linear_attention.py", *arguments).returncode == 0


def test_cross_shaped_windows_are_two_calls_with_the_stripes_as_batch():
    shown = recorded("cswin_stripes", "--size", "12", "--stripe", "3", "--batch", "2", "--heads", "4")
    calls = [json.loads(line) for line in (run_folders.run_folder("cswin_stripes") / "calls.jsonl").open()]
    # 2 images x 4 stripes; 2 of the 4 heads; 3 x 12 patches.
    assert [call["q"] for call in calls] == [[8, 2, 36, 32], [8, 2, 36, 32]]
    assert not any(call["causal"] for call in calls)
    assert "2 attention calls would run flash_fwd_kernel: no split; KV length 36." in shown


def test_linear_attention_is_reported_as_no_attention_call():
    shown = recorded("linear_attention", "--tokens", "64")
    assert "No attention call was recorded." in shown
    assert "would run" not in shown


def test_with_kernels_a_report_says_that_none_is_an_attention_kernel(tmp_path):
    builder = TraceBuilder()
    builder.call(1000, 1010, 1)
    builder.kernel("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm>(Params)", 1100, 1900, 1)
    with new_run("linear") as run:
        (run.folder / run_folders.CALLS_JSONL).write_text("")
        finish(run, open_trace(builder.write(tmp_path / "trace.sqlite")), {"kind": "run"})
    shown = " ".join(attnprof("report", "linear").out.split())
    assert "answer No attention call was recorded." in shown
    assert "observed the one kernel in the trace is no attention kernel attnprof knows." in shown
