"""attnprof report --report against nsys's own reports, row for row, on real and generated traces."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from attnprof.machine.find_nsys import find_nsys
from tests.conftest import SHARED, TESTS
from tests.support.build_trace import TraceBuilder, global_tid
from tests.support.command import attnprof

NAMES = {
    "gpukernsum": "cuda_gpu_kern_sum",
    "gputrace": "cuda_gpu_trace",
    "nvtxgpuproj": "nvtx_gpu_proj_trace",
    "nvtxkernsum": "nvtx_kern_sum",
}
HIERARCHY = ("Lvl", "NumChild", "ParentId", "RangeStack")
MAKE_TRACE = SHARED / "bench" / "make_trace.py"
REAL = (
    "nsys2022.4_rtx3090_gemm_nonvtx.sqlite.gz",
    "nsys2024.6_rtx4060ti_layer_ranges.sqlite.gz",
    "nsys2025.1_rtx3070ti_cs336_fwd_bwd.sqlite.gz",
    "nsys2025.5_rtx3060_cuda_graph_trace.sqlite.gz",
    "nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz",
    "nsys2026.2_h100x2_flash_fwd_nccl_slice.sqlite.gz",
)
MADE: dict[str, list[str]] = {
    "made": ["--steps", "6", "--domain", "serving"],
    "made two processes": ["--steps", "2", "--processes", "2", "--inline-text"],
    "made cuda graph": ["--steps", "20", "--cuda-graph"],
}


def knotted_trace(path: Path) -> Path:
    """Nested ranges of one name, overlapping domains, one ended elsewhere, one open, lost launches."""
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, id=0, name="NVIDIA H100", smCount=132, cuDevice=0)
    builder.domain("a", 1)
    builder.domain("b", 2)
    builder.range("outer", 100, 900, domainId=1)
    builder.range("outer", 200, 600, domainId=1)  # inside a range of its own name
    builder.range("across", 150, 700, domainId=2, eventType=60)
    builder.range("across", 500, 950, domainId=2, eventType=60)  # overlaps the one before
    builder.range("elsewhere", 120, 950, domainId=1, eventType=60, endGlobalTid=global_tid(7, 9))
    builder.range("open", 650, None)
    builder.range("other thread", 100, 900, tid=8)
    starts = (110, 210, 300, 510, 620, 660, 880, 940)
    for number, start in enumerate(starts):
        builder.call(start, start + 8, number)
        name = f"kernel_{number % 3}"
        builder.kernel(name, start + 50, start + 60 + 7 * number, number, grid=(number + 1, 2, 3))
    builder.call(400, 405, 50, tid=8)
    builder.kernel("kernel_0", 1000, 1033, 50)
    builder.kernel("kernel_1", 1100, 1150, 99)  # nothing launched it
    return builder.write(path)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Path of a trace by name, unpacked or made once."""
    folder = tmp_path_factory.mktemp("traces")

    def find(name: str) -> Path:
        path: Path = folder / f"{name.removesuffix('.sqlite.gz')}.sqlite".replace(" ", "_")
        if path.exists():
            return path
        if name == "knotted":
            return knotted_trace(path)
        if name in MADE:
            if not MAKE_TRACE.exists():
                pytest.skip("no synthetic trace generator here")
            subprocess.run(
                [sys.executable, str(MAKE_TRACE), str(path), *MADE[name]], check=True, capture_output=True
            )
            return path
        for place in (TESTS / "data" / "traces", SHARED / "traces"):
            if (place / name).exists():
                with gzip.open(place / name) as packed, path.open("wb") as out:
                    shutil.copyfileobj(packed, out)
                return path
        pytest.skip(f"{name} is not in this checkout")

    return find


def by_nsys(report: str, path: Path) -> list[dict[str, str]]:
    """The rows of nsys's report; none where nsys has no data for it."""
    nsys = find_nsys()
    if nsys is None:
        pytest.skip("no nsys here")
    options = ["-q", "-r", report, "--format", "csv", "--output", "-", "--force-export", "false"]
    done = subprocess.run(
        [nsys, "stats", *options, path], capture_output=True, text=True, timeout=120, check=True
    )
    if "internal error" in done.stderr:
        pytest.skip("nsys itself fails on this trace")
    return list(csv.DictReader(io.StringIO("\n".join(filter(None, done.stdout.splitlines())))))


def by_attnprof(report: str, path: Path) -> list[dict[str, str]]:
    done = attnprof("report", str(path), "--report", report, "--format", "csv")
    if done.code == 3:
        return []
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.out)))


def plain(row: dict[str, str]) -> dict[str, Any]:
    """Numbers as numbers; what is unknown, which nsys spells None, as None."""

    def value(text: str) -> Any:
        if text in ("", "None"):
            return None
        try:
            return float(text)
        except ValueError:
            return text

    return {key: value(text) for key, text in row.items()}


@pytest.mark.nsys
@pytest.mark.parametrize("report", NAMES)
@pytest.mark.parametrize("name", ["knotted", *MADE, *REAL])
def test_every_row_and_column_is_that_of_nsys(name: str, report: str, traces: Any) -> None:
    if (name, report) == (REAL[-1], "nvtxgpuproj"):
        pytest.skip("takes nsys a minute, and nsys loses parents there: see the hierarchy's test")
    theirs = [plain(row) for row in by_nsys(report, traces(name))]
    ours = [plain(row) for row in by_attnprof(report, traces(name))]
    assert [list(row) for row in ours[:1]] == [list(row) for row in theirs[:1]]
    ties = report in ("gputrace", "gpukernsum", "nvtxkernsum")  # nsys leaves their order open

    def key(row: dict[str, Any]) -> str:
        return repr(row)

    assert (sorted(ours, key=key) if ties else ours) == (sorted(theirs, key=key) if ties else theirs)
    leading = {"gputrace": "Start (ns)", "gpukernsum": "Total Time (ns)", "nvtxkernsum": "NVTX Range"}
    if ties:
        assert [row[leading[report]] for row in ours] == [row[leading[report]] for row in theirs]


def test_the_reports_cover_what_makes_them_hard(traces: Any) -> None:
    rows = by_attnprof("nvtx_kern_sum", traces("knotted"))
    nested = next(row for row in rows if row["NVTX Range"] == "a:outer" and row["Kernel Name"] == "kernel_1")
    assert int(nested["Kern Inst"]) < 3 + 1 < 3 + int(nested["NVTX Inst"])
    assert {row["NVTX Range"] for row in rows} == {"", "a:outer", "b:across", "open", "other thread"}
    assert "elsewhere" not in {row["Name"] for row in by_attnprof("nvtx_gpu_proj_trace", traces("knotted"))}


def test_parents_are_the_tightest_ranges_in_exact_time(traces: Any) -> None:
    """nsys compares single-precision times here and loses a quarter of the parents; plain SQL does not."""
    path = traces(REAL[-1])
    rows = by_attnprof("nvtx_gpu_proj_trace", path)
    assert len(rows) == 9621
    db = sqlite3.connect(path)
    db.execute("CREATE TEMP TABLE r AS SELECT rowid AS id, start, end, globalTid AS tid FROM NVTX_EVENTS")
    db.execute("CREATE INDEX temp.by_time ON r (tid, start)")
    tightest = """SELECT p.id FROM r c JOIN r p ON p.tid = c.tid AND p.start <= c.start AND p.end >= c.end
        AND p.id <> c.id WHERE c.id = ? ORDER BY p.end - p.start LIMIT 1"""
    for row in rows[:: len(rows) // 60]:
        found = db.execute(tightest, (int(row["RangeId"]),)).fetchone()
        assert (row["ParentId"] or None) == (str(found[0]) if found else None)
        assert row["RangeStack"].count(":") == int(row["Lvl"]) + 1
        assert row["RangeStack"].endswith(f":{row['RangeId']}")


@pytest.mark.parametrize(("old", "new"), NAMES.items())
def test_old_and_new_names_are_the_same_report(old: str, new: str, traces: Any) -> None:
    assert by_attnprof(old, traces("knotted")) == by_attnprof(new, traces("knotted"))


def test_all_formats_hold_the_same_rows(traces: Any, tmp_path: Path) -> None:
    path = str(traces("knotted"))
    rows = by_attnprof("gputrace", Path(path))
    objects = json.loads(attnprof("report", path, "-r", "gputrace", "--format", "json").out)
    assert [str(row["Start (ns)"]) for row in objects] == [row["Start (ns)"] for row in rows]
    assert objects[0]["Bytes (MB)"] is None
    done = attnprof(
        "report", path, "-r", "gputrace,nvtxkernsum", "--format", "csv", "-o", str(tmp_path / "it")
    )
    assert done.code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["it_cuda_gpu_trace.csv", "it_nvtx_kern_sum.csv"]
    assert list(csv.DictReader((tmp_path / "it_cuda_gpu_trace.csv").open())) == rows
    both = attnprof("report", path, "-r", "gputrace,nvtxkernsum")
    assert "cuda_gpu_trace: 10 rows" in both.out
    assert all(len(line) <= 100 for line in both.out.splitlines())
    markdown = attnprof("report", path, "-r", "nvtxgpuproj", "--format", "md").out
    assert "| a:outer |" in markdown


def test_a_long_report_shows_its_beginning_and_says_how_to_get_the_rest(traces: Any) -> None:
    done = attnprof("report", str(traces(REAL[1])), "-r", "gputrace")
    assert "50 of 2,048 rows" in done.out
    assert "all 2,048 rows: --format csv" in done.err


def test_a_torch_trace_has_the_reports_without_what_torch_does_not_record() -> None:
    path = TESTS / "data" / "traces" / "torch_h100_bert-small_pytorch_flash.json.gz"
    rows = by_attnprof("cuda_gpu_trace", path)
    assert {row["Reg/Trd"] for row in rows} == {""}
    assert sum(row["GrdX"] != "" for row in rows) == 60
    (step,) = by_attnprof("nvtx_gpu_proj_trace", path)
    assert (step["Name"], step["NumGPUOps"]) == ("ProfilerStep#6", "61")


def test_an_unknown_report_names_the_known_ones(traces: Any) -> None:
    done = attnprof("report", str(traces("knotted")), "--report", "osrt_sum")
    assert done.code == 2
    assert "nvtx_gpu_proj_trace" in done.err


def test_an_imported_run_has_the_reports_too(traces: Any) -> None:
    path = traces("knotted")
    assert attnprof("import", str(path), "-o", "it").code == 0
    for report in NAMES:
        assert by_attnprof(report, Path("it")) == by_attnprof(report, path)
