"""GPU time of CUDA graphs recorded whole counts the same in every place that shows GPU time."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from attnprof.report.page_contents import make_page
from attnprof.report.summary import summarise
from attnprof.runs.run import load
from attnprof.trace.tables import WHOLE_GRAPH
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof

FLASH = (
    "void flash_fwd_kernel<Flash_fwd_kernel_traits<(int)128, (int)128, (int)64, (int)4, (bool)0, (bool)0, "
    "cutlass::bfloat16_t, Flash_kernel_traits<(int)128, (int)128, (int)64, (int)4, cutlass::bfloat16_t>>, "
    "(bool)0, (bool)1, (bool)0, (bool)0, (bool)0, (bool)1, (bool)0>(Flash_fwd_params)"
)
GEMM = "ampere_bf16_s16816gemm_bf16_128x64"
KERNELS_NS, GRAPHS_NS = 1_000 + 3_000, 2 * 6_000


def trace(path: Path, graphs: int = 2) -> Path:
    """A prefill of two kernels, and decode steps that are a graph each."""
    made = TraceBuilder()
    made.add("TARGET_INFO_GPU", vmId=1, id=0, name="H100", smCount=132, computeMajor=9, computeMinor=0)
    made.domain("attnprof", 1)
    made.range("prefill", 1_000, 9_000, domainId=1, int64Value=0)
    for number, (name, length) in enumerate(((FLASH, 1_000), (GEMM, 3_000))):
        made.call(2_000 + number * 1_000, 2_100 + number * 1_000, number + 1)
        made.kernel(
            name, 3_000 + number * 2_000, 3_000 + number * 2_000 + length, number + 1, grid=(8, 1, 28)
        )
    for number in range(graphs):
        at = 20_000 + number * 10_000
        made.range("decode", at, at + 9_000, domainId=1, int64Value=number + 1)
        made.call(at + 100, at + 200, 50 + number, name="cudaGraphLaunch_v10000")
        made.add(
            "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=at + 500, end=at + 6_500, deviceId=0, contextId=1,
            streamId=7, correlationId=50 + number, globalPid=7 << 24 | 1 << 48, graphId=1, graphExecId=2,
        )  # fmt: skip
    return made.write(path)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace(tmp_path_factory.mktemp("graphs") / "t.sqlite")


def test_a_report_counts_them_as_gpu_time_of_their_step_and_says_what_is_hidden(recorded: Path) -> None:
    told = json.loads(attnprof("report", str(recorded), "--format", "json").out)
    spent = {row["phase"]: row["gpu_ns"] for row in told["phases"]}
    assert spent == {"prefill": KERNELS_NS, "first decode": 6_000, "steady decode": 6_000}
    shares = {row["phase"]: row["attention_share"] for row in told["phases"]}
    assert shares == {"prefill": 0.25, "first decode": None, "steady decode": None}
    (graph,) = (row for row in told["kernels"] if row["Name"] == WHOLE_GRAPH)
    assert graph["Total Time (ns)"] == GRAPHS_NS
    shown = " ".join(attnprof("report", str(recorded)).out.split())
    assert "2 kernels, 2 CUDA graphs recorded whole" in shown
    assert "100.0 % of decode's GPU time are CUDA graphs recorded whole: what of it is attention" in shown
    assert "their 0.012 ms count as GPU time, of no kernel" in shown


def test_without_them_nothing_of_it_is_said(tmp_path: Path) -> None:
    shown = " ".join(attnprof("report", str(trace(tmp_path / "t.sqlite", graphs=0))).out.split())
    assert "recorded whole" not in shown
    assert "Attention is 25.0 % of its GPU time" in shown


def test_page_export_doctor_and_diff_agree(recorded: Path, tmp_path: Path) -> None:
    run = load(str(recorded))
    page = make_page(run.recording, summarise(run.recording, run.check()))
    assert sum(total.total_ns for total in page.kernels) == KERNELS_NS + GRAPHS_NS
    assert attnprof("export", str(recorded), "--to", "sqlite", "-o", str(tmp_path / "x.db")).code == 0
    with sqlite3.connect(tmp_path / "x.db") as db:
        ((spent,),) = db.execute("select sum(gpu_ns) from phase_totals")
    assert spent == KERNELS_NS + GRAPHS_NS
    examined = " ".join(attnprof("doctor", str(recorded)).out.split())
    assert "2, each with its launch" in examined
    assert "the kernels inside are not in the trace, 75.0 % of the GPU time with them" in examined
    other = trace(tmp_path / "other.sqlite", graphs=1)
    told = json.loads(attnprof("diff", str(recorded), str(other), "--format", "json").out)
    measured = {(m["name"], m["metric"]): (m["a"], m["b"]) for m in told["measures"]}
    assert measured["all", "GPU time"] == (KERNELS_NS + 6_000, KERNELS_NS + 6_000)  # over the shared steps
    assert measured["first decode", "attention, of GPU time"] == (None, None)


def test_nsyss_own_reports_hold_kernels_alone_and_a_run_keeps_the_time(recorded: Path) -> None:
    summed = attnprof("report", str(recorded), "--report", "cuda_gpu_kern_sum", "--format", "json")
    assert sum(row["Total Time (ns)"] for row in json.loads(summed.out)) == KERNELS_NS
    made = attnprof("import", str(recorded), "-o", "kept")
    assert "2 kernels" in made.out
    told = json.loads(attnprof("report", "kept", "--format", "json").out)
    assert sum(row["gpu_ns"] for row in told["phases"]) == KERNELS_NS + GRAPHS_NS
