"""Real traces of every recorder version, counted against plain SQL, plain JSON and nsys's own reports."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest

from attnprof.machine.find_nsys import find_nsys
from attnprof.trace.open_trace import open_trace
from attnprof.trace.range_names import DECODE, PREFILL
from attnprof.trace.timeline import build_timeline
from attnprof.trace.whole_graphs import without_whole_graphs
from tests.conftest import SHARED, TESTS

OURS = sorted((TESTS / "data" / "traces").glob("*.gz"))
FOUND = {path.name: path for path in [*sorted((SHARED / "traces").glob("*.gz")), *OURS]}
NSYS = [path for path in FOUND.values() if path.name.startswith("nsys")]
TORCH = [path for path in FOUND.values() if path.name.startswith("torch")]
MAKE_TRACE = SHARED / "bench" / "make_trace.py"

needs_make_trace = pytest.mark.skipif(not MAKE_TRACE.exists(), reason="no synthetic trace generator here")


def trace_file(name):
    if name not in FOUND:
        pytest.skip(f"{name} is not at hand")
    return FOUND[name]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Unpacks a gzipped trace once."""
    folder = tmp_path_factory.mktemp("traces")

    def unpack(path):
        plain = folder / path.name.removesuffix(".gz")
        if not plain.exists():
            with gzip.open(path) as packed, plain.open("wb") as out:
                shutil.copyfileobj(packed, out)
        return plain

    return unpack


def counted(db, table, columns="count(*)", where="1"):
    """A row of aggregates by plain SQL; zeros where there is no such table."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return (0,) * (columns.count(",") + 1)
    return tuple(v or 0 for v in db.execute(f"SELECT {columns} FROM {table} WHERE {where}").fetchone())


@pytest.mark.parametrize("path", NSYS, ids=lambda p: p.name)
def test_nsys_tables_count_as_plain_sql_does(path, unpacked):
    trace = without_whole_graphs(open_trace(path))
    db = sqlite3.connect(unpacked(path))
    spent = "count(*), sum(end - start), sum(correlationId)"
    for table, rows in (
        ("CUPTI_ACTIVITY_KIND_KERNEL", trace.kernels),
        ("CUPTI_ACTIVITY_KIND_RUNTIME", trace.api_calls),
    ):
        ours = (len(rows), int((rows.end - rows.start).sum()), int(rows.correlation.sum()))
        assert ours == counted(db, table, spent)
    k = trace.kernels
    dims = counted(db, "CUPTI_ACTIVITY_KIND_KERNEL", "sum(gridX), sum(gridY), sum(gridZ), sum(blockX)")
    assert (*k.grid.sum(0).tolist(), int(k.block[:, 0].sum())) == dims
    r = trace.ranges
    ours = (len(r), int((r.end - r.start).sum()), len(np.unique(r.thread)))
    kinds = "eventType IN (59, 60)"
    assert ours == counted(db, "NVTX_EVENTS", "count(*), sum(end - start), count(DISTINCT globalTid)", kinds)
    copies = sum(counted(db, f"CUPTI_ACTIVITY_KIND_{kind}")[0] for kind in ("MEMCPY", "MEMSET"))
    assert len(trace.copies) == copies
    assert trace.info.whole_graph_launches == counted(db, "CUPTI_ACTIVITY_KIND_GRAPH_TRACE")[0]


@pytest.mark.parametrize("path", NSYS, ids=lambda p: p.name)
def test_nsys_names_and_launches_are_those_of_plain_sql(path, unpacked):
    trace = without_whole_graphs(open_trace(path))
    timeline = build_timeline(trace)
    db = sqlite3.connect(unpacked(path))
    if not len(trace.kernels):
        assert len(timeline.launch) == 0
        return
    ours = sorted(
        (int(start), trace.strings[name], call_start)
        for start, name, call_start in zip(
            trace.kernels.start,
            trace.kernels.name,
            [int(trace.api_calls.start[i]) if i >= 0 else None for i in timeline.launch],
            strict=True,
        )
    )
    join = """SELECT k.start, s.value, r.start FROM CUPTI_ACTIVITY_KIND_KERNEL k
        JOIN StringIds s ON s.id = k.demangledName
        LEFT JOIN CUPTI_ACTIVITY_KIND_RUNTIME r ON r.correlationId = k.correlationId
        AND r.globalTid >> 24 = k.globalPid >> 24"""
    key = lambda row: (row[0], row[1], row[2] or 0)  # noqa: E731
    assert sorted(ours, key=key) == sorted(db.execute(join), key=key)


@pytest.mark.parametrize("path", NSYS, ids=lambda p: p.name)
def test_nothing_of_the_recorded_environment_reaches_a_trace(path, unpacked):
    trace = open_trace(path)
    db = sqlite3.connect(unpacked(path))
    kept = repr(trace.info)
    if counted(db, "META_DATA_CAPTURE")[0]:
        rows = db.execute("SELECT value FROM META_DATA_CAPTURE WHERE name LIKE '%ENVIRONMENT%'")
        assert not [value for (value,) in rows if value and len(value) > 12 and value in kept]


@pytest.mark.parametrize("path", TORCH, ids=lambda p: p.name)
def test_torch_tables_count_as_plain_json_does(path):
    trace = open_trace(path)
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        document = json.load(file, parse_float=Decimal)
    of = {"kernel": [], "call": [], "range": [], "copy": []}
    kinds = {"kernel": "kernel", "cuda_runtime": "call", "cuda_driver": "call", "user_annotation": "range"}
    kinds |= {"gpu_memcpy": "copy", "gpu_memset": "copy"}
    for event in document["traceEvents"]:
        if event.get("cat") in kinds and event["ph"] == "X":
            of[kinds[event["cat"]]].append(event)
        elif event.get("cat") == "cpu_op" and event["name"].startswith(("## Call Comp", "Torch-Compiled")):
            of["range"].append(event)  # a run of one of torch.compile's graphs
    tables = {"kernel": trace.kernels, "call": trace.api_calls, "range": trace.ranges, "copy": trace.copies}
    for kind, table in tables.items():
        assert len(table) == len(of[kind])
        assert int((table.end - table.start).sum()) == int(sum(1000 * Decimal(e["dur"]) for e in of[kind]))
        assert sorted(table.start.tolist()) == sorted(int(1000 * Decimal(e["ts"])) for e in of[kind])
    grids = sorted(tuple(e["args"].get("grid") or (0, 0, 0)) for e in of["kernel"])
    assert sorted(map(tuple, trace.kernels.grid.tolist())) == grids
    sms = [d["numSms"] for d in document.get("deviceProperties", ())]
    assert [d.num_sms for d in trace.info.devices] == sms
    launched = {e["args"]["correlation"] for e in of["call"]}
    unknown = sum(e["args"]["correlation"] not in launched for e in of["kernel"])
    assert int((build_timeline(trace).launch < 0).sum()) == unknown


@pytest.mark.parametrize("stem", ["rtx3090_gemm_nonvtx", "nvtx_only_python"])
def test_three_exports_of_one_report_give_one_timeline(stem):
    traces = [open_trace(trace_file(f"nsys{v}_{stem}.sqlite.gz")) for v in ("2022.4", "2023.4", "2024.2")]
    if stem == "nvtx_only_python":
        del traces[0]  # another capture of the same program
    first, *others = (build_timeline(t) for t in traces)
    for other in others:
        for table in ("kernels", "api_calls", "ranges"):
            a, b = getattr(first.trace, table), getattr(other.trace, table)
            assert np.array_equal(a.start, b.start)
            assert np.array_equal(a.end, b.end)
            named = [[t.trace.strings[i] for i in getattr(t.trace, table).name] for t in (first, other)]
            assert named[0] == named[1]
        for column in ("launch", "range", "phase", "step", "layer", "parent", "level"):
            assert np.array_equal(getattr(first, column), getattr(other, column))


def test_two_processes_with_the_same_ids_are_kept_apart():
    timeline = build_timeline(open_trace(trace_file("nsys2026.2_h100x2_flash_fwd_nccl_slice.sqlite.gz")))
    assert int((timeline.launch >= 0).sum()) == 3986
    assert any("24 of 4,010 kernels have no launching call" in note for note in timeline.notes)
    trace = timeline.trace
    launched = timeline.launch >= 0
    assert np.array_equal(trace.api_calls.pid[timeline.launch[launched]], trace.kernels.pid[launched])
    flash = [i for i, n in enumerate(trace.kernels.name) if "flash_fwd_kernel" in trace.strings[n]]
    assert sorted({tuple(grid) for grid in trace.kernels.grid[flash].tolist()}) == [(122, 1, 12), (244, 1, 6)]
    named = [trace.strings[trace.ranges.name[i]] for i in timeline.range[flash].tolist() if i >= 0]
    assert named
    assert all("flash_attention" in name or "flash_attn" in name for name in named)


def test_layers_of_the_simulated_generation_count_exactly():
    timeline = build_timeline(open_trace(trace_file("nsys2024.6_rtx4060ti_layer_ranges.sqlite.gz")))
    assert timeline.launch.min() >= 0
    assert np.bincount(timeline.layer).tolist() == [192] * 8


def test_kernels_that_start_after_their_range_has_ended_still_belong_to_it():
    timeline = build_timeline(open_trace(trace_file("nsys2025.1_rtx3070ti_cs336_fwd_bwd.sqlite.gz")))
    trace = timeline.trace
    forward = np.array([i >= 0 and trace.strings[trace.ranges.name[i]] == "Forward" for i in timeline.range])
    late = trace.kernels.start[forward] > trace.ranges.end[timeline.range[forward]]
    assert (int(forward.sum()), int(late.sum())) == (10380, 1326)


def test_a_trace_without_kernels_says_so():
    info = open_trace(trace_file("nsys2025.1_rtx5060ti_runtime_only_nokernels.sqlite.gz")).info
    assert any("nsys recorded no CUDA kernel" in note for note in info.notes)
    assert (info.devices[0].num_sms, info.devices[0].sm_major) == (36, 12)


def test_graph_replay_kernels_share_one_launch():
    timeline = build_timeline(open_trace(trace_file("torch_mi300x_sglang_qwen3-8b_decode.json.gz")))
    assert (timeline.phase == DECODE).all()
    assert len(np.unique(timeline.launch)) < 15


def test_the_l40_decode_step_shows_its_splits():
    trace = open_trace(trace_file("torch_l40_llama2-7b_cudagraph_decode_fa2_splitkv.json.gz"))
    grids = {"flash_fwd_splitkv_kernel<": [], "flash_fwd_splitkv_combine_kernel<": []}
    for name, grid in zip(trace.kernels.name, trace.kernels.grid.tolist(), strict=True):
        for kernel in grids:
            if kernel in trace.strings[name]:
                grids[kernel].append(grid)
    assert list(grids.values()) == [[[1, 2, 32]] * 32, [[8, 1, 1]] * 32]


def make_trace(folder, *options):
    path, truth = folder / "made.sqlite", folder / "truth.json"
    command = [sys.executable, str(MAKE_TRACE), str(path), "--truth", str(truth), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path, json.loads(truth.read_text())["ranks"]


VARIANTS = {
    "plain": [],
    "domain": ["--domain", "serving", "--inline-text"],
    "two processes": ["--processes", "2"],
    "graph": ["--cuda-graph"],
    "chrome": ["--chrome"],
}


@needs_make_trace
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_generators_truth_is_found_again(tmp_path, variant):
    options = [*VARIANTS[variant], "--steps", "40"]
    chrome = tmp_path / "made.json.gz"
    if variant == "chrome":
        options.insert(1, str(chrome))
    path, ranks = make_trace(tmp_path, *options)
    timeline = build_timeline(open_trace(chrome if variant == "chrome" else path))
    trace = timeline.trace
    k, spent = trace.kernels, trace.kernels.end - trace.kernels.start
    for rank in ranks:
        mine = k.pid == rank["pid"]
        assert int(mine.sum()) == rank["kernels"]
        assert int(spent[mine].sum()) == rank["kernel_ns"]
        assert int(spent[mine & (timeline.phase == PREFILL)].sum()) == rank["prefill_kernel_ns"]
        assert int(spent[mine & (timeline.phase == DECODE)].sum()) == rank["decode_kernel_ns"]
        assert set(k.device[mine].tolist()) == {rank["device"]}
        assert (int(k.start[mine].min()), int(k.end[mine].max())) == (
            rank["first_kernel_ns"],
            rank["last_kernel_end_ns"],
        )
        flash = mine & np.array([n.startswith("void flash::") for n in trace.strings])[k.name]
        assert (int(flash.sum()), int(spent[flash].sum())) == (
            rank["attention_kernels"],
            rank["attention_kernel_ns"],
        )
        split = flash & np.array(["splitkv_kernel" in n for n in trace.strings])[k.name]
        splits = [1] * rank["steps"]
        for step, grid in zip(timeline.step[split].tolist(), k.grid[split].tolist(), strict=True):
            splits[step] = grid[1]
        assert splits == rank["splits_per_step"]
        if variant != "graph":  # a replayed step has no ranges inside
            layers = [
                int(spent[mine & (timeline.layer == i)].sum()) for i in range(len(rank["layer_kernel_ns"]))
            ]
            assert layers == rank["layer_kernel_ns"]
    if variant != "chrome":
        assert len(trace.api_calls) == sum(rank["api_calls"] for rank in ranks)
        assert len(trace.ranges) == sum(rank["nvtx_ranges"] for rank in ranks)


def nsys_stats(report, path):
    """Rows of one of nsys's own reports; nsys writes beside the file, so it gets a copy to itself."""
    nsys = find_nsys()
    if nsys is None:
        pytest.skip("no nsys here")
    command = [
        nsys,
        "stats",
        "-r",
        report,
        "--format",
        "csv",
        "--output",
        "-",
        "--force-export",
        "false",
        path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if "," in line and "(ns)" in line)
    return list(csv.DictReader(io.StringIO("\n".join(line for line in lines[first:] if line))))


@pytest.mark.nsys
@pytest.mark.parametrize("name", ["nsys2022.4_rtx3090_gemm_nonvtx.sqlite.gz", "made"])
def test_kernel_counts_and_times_equal_those_of_nsys_stats(name, unpacked, tmp_path):
    if name == "made":
        if not MAKE_TRACE.exists():
            pytest.skip("no synthetic trace generator here")
        path, _ = make_trace(tmp_path, "--steps", "30")
    else:
        path = unpacked(trace_file(name))
    trace = open_trace(path)
    ours: dict[str, list[int]] = {}
    for text, spent in zip(trace.kernels.name, trace.kernels.end - trace.kernels.start, strict=True):
        total = ours.setdefault(trace.strings[text], [0, 0])
        total[0] += 1
        total[1] += int(spent)
    theirs: dict[str, list[int]] = {}
    for row in nsys_stats("gpukernsum", path):
        total = theirs.setdefault(row["Name"], [0, 0])
        total[0] += int(row["Instances"])
        total[1] += int(row["Total Time (ns)"])
    assert ours == theirs


@pytest.mark.nsys
@needs_make_trace
def test_the_projection_equals_nvtxgpuproj_row_by_row(tmp_path):
    path, _ = make_trace(tmp_path, "--kernels", "3000", "--domain", "serving")
    timeline = build_timeline(open_trace(path))
    ranges, p = timeline.trace.ranges, timeline.projection()
    columns = (p.start, p.end - p.start, ranges.start, ranges.end - ranges.start, p.num_ops, timeline.level)
    numbers = np.stack(columns, axis=1)[p.num_ops > 0].tolist()
    named = [f"serving:{timeline.trace.strings[i]}" for i in ranges.name[p.num_ops > 0]]
    ours = sorted((name, *row) for name, row in zip(named, numbers, strict=True))
    titles = ("Projected Start (ns)", "Projected Duration (ns)", "Orig Start (ns)", "Orig Duration (ns)")
    theirs = sorted(
        (row["Name"], *(int(row[title]) for title in titles), int(row["NumGPUOps"]), int(row["Lvl"]))
        for row in nsys_stats("nvtxgpuproj", path)
    )
    assert len(ours) > 400
    assert ours == theirs


@pytest.mark.nsys
def test_a_report_is_exported_elsewhere_and_its_folder_stays_as_it_was(tmp_path):
    nsys = find_nsys()
    if nsys is None:
        pytest.skip("no nsys here")
    program = """if True:
        import time
        from attnprof.instrument.ranges import NvtxRanges
        decode = NvtxRanges().channel("decode")
        for i in range(5):
            decode.push(i)
            decode.pop()
        time.sleep(0.5)"""
    options = ["--trace=nvtx", "--sample=none", "--cpuctxsw=none", "-o", tmp_path / "run"]
    command = [nsys, "profile", *options, sys.executable, "-c", program]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    folder = tmp_path / "only"
    folder.mkdir()
    report = folder / "run.nsys-rep"
    shutil.copy(tmp_path / "run.nsys-rep", report)
    before = report.read_bytes()
    trace = open_trace(report)
    assert (trace.ranges.payload.tolist(), trace.info.path) == ([0, 1, 2, 3, 4], str(report))
    assert [p.name for p in folder.iterdir()] == ["run.nsys-rep"]
    assert report.read_bytes() == before


def test_the_traces_that_ship_stay_small():
    assert sum(path.stat().st_size for path in OURS) < 3_000_000
