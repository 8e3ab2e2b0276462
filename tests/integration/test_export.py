"""attnprof export: what other programs get, and what never leaves the machine."""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from attnprof import load
from attnprof.runs import run_folders
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof
from tests.support.generated_run import generated_run
from tests.support.graph_trace import H100_FIELDS
from tests.support.secrets import secrets

SECRETS = {secret.kind: secret.text for secret in secrets("export")}
TOKENS = [SECRETS[kind] for kind in ("hugging-face", "github-classic", "openai", "json-web-token")]
ENVIRONMENT = SECRETS["aws-secret"]


def leaky_trace(path: Path) -> Path:
    """A trace with secrets where they were found in real ones, and in a range's name."""
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, cuDevice=0, **H100_FIELDS)
    builder.string(f"PATH=/usr/bin\x00{ENVIRONMENT}\x00HF_TOKEN={TOKENS[0]}")  # as nsys keeps an environment
    builder.add("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=ENVIRONMENT)
    builder.range(f"fetch https://user:{TOKENS[1]}@example.com/model", 100, 900)
    builder.range(f"login Bearer {TOKENS[2]}", 200, 800, inline=True)
    builder.call(300, 310, 1)
    builder.kernel(f"kernel_{TOKENS[3]}", 400, 500, 1)
    return builder.write(path)


def everything_under(path: Path) -> bytes:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return b"".join(gzip.decompress(f.read_bytes()) if f.suffix == ".gz" else f.read_bytes() for f in files)


@pytest.mark.parametrize("to", ["perfetto", "csv", "sqlite", "parquet"])
def test_no_planted_secret_is_carried_over(tmp_path: Path, to: str) -> None:
    if to == "parquet":
        pytest.importorskip("pyarrow")
    assert attnprof("import", str(leaky_trace(tmp_path / "leaky.sqlite")), "-o", "leaky").code == 0
    folder = run_folders.run_folder("leaky")
    config = json.loads((folder / run_folders.RUN_JSON).read_text())
    command = ["env", "WANDB=0123456789secretvalue", "python", f"--api-key={TOKENS[2]}"]
    config["capture"] = {"command": command}
    config["workload"] = {"error": f"401 for {TOKENS[0]}", "model": {"name": f"{Path.home()}/models/qwen"}}
    (folder / run_folders.RUN_JSON).write_text(json.dumps(config))
    for target in ("leaky", str(tmp_path / "leaky.sqlite")):
        out = tmp_path / f"out-{to}-{Path(target).suffix}"
        done = attnprof("export", target, "--to", to, "-o", str(out))
        assert done.code == 0, done.err
        written = everything_under(out)
        assert len(written) > 300
        for secret in (*TOKENS, ENVIRONMENT.partition("=")[2], "secretvalue", str(tmp_path)):
            assert secret.encode() not in written


def test_a_run_folder_holds_nothing_of_the_recorded_environment(tmp_path: Path) -> None:
    assert attnprof("import", str(leaky_trace(tmp_path / "leaky.sqlite")), "-o", "leaky").code == 0
    kept = everything_under(run_folders.run_folder("leaky"))
    assert ENVIRONMENT.partition("=")[2].encode() not in kept
    assert TOKENS[0].encode() not in kept


def perfetto(run: str, *options: str) -> list[dict[str, Any]]:
    done = attnprof("export", run, "--to", "perfetto", "-o", "-", *options)
    assert done.code == 0, done.err
    events: list[dict[str, Any]] = json.loads(done.out)["traceEvents"]
    return events


def test_perfetto_gets_every_kernel_range_and_change_of_splits(tmp_path: Path) -> None:
    generated_run(tmp_path, range(120, 140))
    run = load("generated")
    events = perfetto("generated")
    slices = [event for event in events if event["ph"] == "X"]
    trace = run.trace
    assert len(slices) == len(trace.kernels) + len(trace.ranges)
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {event["pid"] for event in slices} == set(processes)
    assert {(event["pid"], event["tid"]) for event in slices} == set(named)
    assert sum("stream" in name for name in named.values()) == 1
    (gpu,) = [pid for pid, name in processes.items() if name == "GPU 0 NVIDIA H100 80GB HBM3"]
    kernels = [event for event in slices if event["pid"] == gpu]
    flash = next(event for event in kernels if event["name"] == "flash_fwd_splitkv_kernel")
    assert flash["args"]["grid"] == "1x2x4"
    assert (flash["args"]["phase"], flash["args"]["step"], flash["args"]["layer"]) == ("decode", 10, 0)
    counter = [event for event in events if event["ph"] == "C"]
    assert [event["args"]["num_splits"] for event in counter] == [1, 2]
    assert counter[1]["ts"] == flash["ts"]
    assert min(event["ts"] for event in slices) == 0.0


def test_slices_of_one_track_nest_as_the_format_demands(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.domain("a", 1)
    builder.domain("b", 2)
    for start, end, domain in ((100, 500, 1), (300, 700, 2), (310, 320, 1), (600, 900, 1), (650, 800, 2)):
        builder.range("r", start, end, domainId=domain)
    builder.call(310, 315, 1)
    builder.kernel("k", 1000, 1100, 1)
    events = perfetto(str(builder.write(tmp_path / "t.sqlite")))
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert sorted(len(spans) for spans in tracks.values()) == [1, 1, 1, 3]
    for spans in tracks.values():
        open_until: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


def test_only_the_steps_asked_for_are_exported(tmp_path: Path) -> None:
    generated_run(tmp_path, range(120, 140))
    events = perfetto("generated", "--steps", "3:4")
    steps = {event["args"]["step"] for event in events if event["ph"] == "X" and "step" in event["args"]}
    assert steps == {3, 4}
    missing = attnprof("export", "generated", "--steps", "90")
    assert (missing.code, "no steps 90 to 90" in missing.err) == (2, True)


def test_tables_hold_what_the_data_frames_hold(tmp_path: Path) -> None:
    generated_run(tmp_path, range(120, 140))
    run = load("generated")
    frames = {"kernels": run.kernels, "ranges": run.ranges, "calls": run.calls}
    out = tmp_path / "tables"
    assert attnprof("export", "generated", "--to", "csv", "-o", str(out)).code == 0
    database = tmp_path / "run.db"
    assert attnprof("export", "generated", "--to", "sqlite", "-o", str(database)).code == 0
    db = sqlite3.connect(database)
    for name, frame in frames.items():
        rows = list(csv.DictReader((out / f"{name}.csv").open()))
        assert list(rows[0]) == list(frame.columns)
        assert len(rows) == len(frame) == db.execute(f"select count(*) from {name}").fetchone()[0]
    rows = list(csv.DictReader((out / "calls.csv").open()))
    assert [row["verdict"] for row in rows] == run.calls["verdict"].tolist()


def test_parquet_keeps_numbers_as_numbers(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    generated_run(tmp_path, range(120, 140))
    out = tmp_path / "tables"
    assert attnprof("export", "generated", "--to", "parquet", "-o", str(out)).code == 0
    calls = pd.read_parquet(out / "calls.parquet")
    assert calls["seqlen_k"].tolist() == load("generated").calls["seqlen_k"].tolist()
    kernels = pd.read_parquet(out / "kernels.parquet")
    assert kernels["duration_ns"].dtype.kind == "i"


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    generated_run(tmp_path, range(120, 124))
    out = tmp_path / "run.json"
    out.write_text("precious")
    refused = attnprof("export", "generated", "-o", str(out))
    assert (refused.code, out.read_text()) == (2, "precious")
    assert attnprof("export", "generated", "-o", str(out), "-f").code == 0
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    assert attnprof("export", "generated", "--to", "csv", "-o", str(folder), "-f").code == 2
    assert (folder / "thesis.tex").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_run_without_kernels_exports_its_ranges(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.range("only", 100, 200)
    events = perfetto(str(builder.write(tmp_path / "t.sqlite")))
    assert [event["name"] for event in events if event["ph"] == "X"] == ["only"]
