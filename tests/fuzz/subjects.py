"""What is damaged: traces of every format, run folders, files of calls and configuration."""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.runs.run import load
from tests.conftest import TESTS
from tests.support.build_trace import TraceBuilder
from tests.support.generated_run import LAYER_KERNELS, calls_only_run, generated_run
from tests.support.graph_trace import replayed

TRACES = TESTS / "data" / "traces"
GOLDEN_CALLS = TESTS / "data" / "golden" / "fa2_edges_2.8.3.jsonl.gz"
RUNS = "attnprof-runs"
CONFIG = 'gpu = "a100"\nlibrary = "flash_attn"\nversion = "2.8.3"\nruns = "attnprof-runs"\n'

Kind = Literal["sqlite", "torch", "parquet", "report", "run", "left", "calls", "config"]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Subject:
    """Files by their paths below one folder; ``target`` is the path that a user would give to attnprof."""

    name: str
    kind: Kind
    files: Files
    target: str


def subjects() -> list[Subject]:
    """Everything that is damaged, in a fixed order; Parquet only where pyarrow is."""
    found = [_packed(name) for name in _REAL]
    found += [_file("built.sqlite", "sqlite", _content(built_trace))]
    found += [_file("replayed.sqlite", "sqlite", _content(_graph_trace))]
    exported = found[1].files[found[1].target]
    parquet = _parquet(exported)
    if parquet:
        found.append(Subject("parquet", "parquet", parquet, "parquet"))
    found += [_file(f"report{ending}", "report", exported) for ending in (".nsys-rep", ".qdstrm")]
    found += _runs()
    found.append(Subject("leftovers", "left", _LEFT, RUNS))
    lines = gzip.decompress(GOLDEN_CALLS.read_bytes()).splitlines(keepends=True)
    found.append(_file("calls.jsonl", "calls", b"".join(lines[:: len(lines) // 60])))
    found.append(_file("attnprof.toml", "config", CONFIG.encode()))
    return found


_WORKLOAD = {
    "workload": "generate", "model": {"name": "it", "num_layers": 2, "num_heads": 28, "num_heads_k": 4},
    "attn_implementation": "sdpa", "device": "cuda", "batch": 1, "prompt_tokens": 117, "max_new_tokens": 24,
    "versions": {"torch": "2.6.0", "flash_attn": "2.8.3"}, "status": "complete", "prompt_lengths": [117],
}  # fmt: skip
_CAPTURE = {"recorder": "nsys", "version": "2024.2", "notes": ["one range was lost"]}
_BUILDING = {
    "pid": 1, "host": "nowhere", "began": "2026-01-01T00:00:00+00:00", "force": False,
    "source": "/gone.sqlite", "config": {"kind": "import", "predict": {"gpu": None}}, "nsys": None,
}  # fmt: skip
_RECORDED = {"recorded": {"config": {"kind": "run"}, "status": "complete", "trace": "trace.sqlite"}}
_LEFT: Files = {
    f"{RUNS}/.import.partial-1-a1b2/building.jsonl": f"{json.dumps(_BUILDING)}\n".encode(),
    f"{RUNS}/.run.partial-1-c3d4/building.jsonl": "\n".join(map(json.dumps, (_BUILDING, _RECORDED))).encode(),
    f"{RUNS}/.cut.partial-77/workload.json": json.dumps({**_WORKLOAD, "num_calls": 3}).encode(),
    f"{RUNS}/.cut.partial-77/calls.jsonl": b'{"seq": 0}\n{"seq"',
    f"{RUNS}/whole/run.json": json.dumps({"schema": 1, "status": "complete", "name": "whole"}).encode(),
}

_REAL = (
    "nsys2022.4_nvtx_only_python.sqlite.gz",
    "nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz",
    "nsys2025.5_rtx3060_cuda_graph_trace.sqlite.gz",
    "nsys2025.1_rtx5060ti_runtime_only_nokernels.sqlite.gz",
    "torch_h100_bert-small_pytorch_flash.json.gz",
    "torch_mi300x_sglang_qwen3-8b_decode.json.gz",
)


def built_trace(path: Path) -> Path:
    """A decode of twenty steps with attnprof's ranges, launches and a FlashAttention kernel."""
    builder = TraceBuilder()
    builder.domain("attnprof", 1)
    builder.add("TARGET_INFO_GPU", vmId=1, id=0, name="H100", smCount=132, computeMajor=9, computeMinor=0)
    builder.add("DIAGNOSTIC_EVENT", text="CUDA events might have been lost")
    launches = [_in_nsys_spelling(keys) for keys in (100, 1000)]
    for step in range(20):
        start = 1000 * (step + 1)
        builder.call(start + 10, start + 20, step + 1)
        for number, (name, grid) in enumerate(launches[step > 12]):
            began = start + 30 + 30 * number
            builder.kernel(name, began, began + 20, step + 1, grid=grid, block=(128, 1, 1))
        builder.range("attn", start + 5, start + 100, domainId=1, int64Value=step)
        builder.range("decode", start, start + 200, domainId=1, int64Value=step + 1)
        builder.range(f"request {step}", start + 50, start + 1500, eventType=60)
    return builder.write(path)


def _in_nsys_spelling(keys: int) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and grids of what flash_attn launches for one query over so many keys."""
    call = AttentionCall("flash_attn", "fwd", 1, 1, keys, 28, 4, 128, causal=True)
    spelled = []
    for launch in predict(call, gpu_by_name("h100")).launches:
        name = re.sub(r"\b(true|false)\b", lambda flag: f"(bool){int(flag[0] == 'true')}", launch.kernel)
        name = re.sub(r"(?<=[<, ])(\d+)(?=[,>])", r"(int)\1", name).replace("> >", ">>")
        spelled.append((name, launch.grid))
    return spelled


def _graph_trace(path: Path) -> Path:
    return replayed(path, prompt=1000, captured_for=1, steps=12)


def _packed(name: str) -> Subject:
    content = gzip.decompress((TRACES / name).read_bytes())
    plain = name.removesuffix(".gz")
    return (
        _file(plain, "sqlite", content)
        if plain.endswith(".sqlite")
        else _file(plain, "torch", _fewer(content))
    )


def _fewer(content: bytes) -> bytes:
    """A torch trace without most of the events that are not read: the others take the damage."""
    document = json.loads(content)
    kept = [
        event
        for number, event in enumerate(document["traceEvents"])
        if number % 20 == 0
        or event.get("cat") not in ("python_function", "cpu_op", "ac2g", "fwdbwd", "overhead")
        or "attention" in event.get("name", "")
    ]
    return json.dumps({**document, "traceEvents": kept}).encode()


def _file(name: str, kind: Kind, content: bytes) -> Subject:
    return Subject(name, kind, {name: content}, name)


def _content(make: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder) / "t.sqlite").read_bytes()


def _parquet(export: bytes) -> Files:
    """The same tables as Parquet; nothing without pyarrow."""
    from tests.support.parquet import as_parquet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.sqlite"
        path.write_bytes(export)
        try:
            return read_files(as_parquet(path, Path(folder) / "parquet"), "parquet/")
        except ImportError:
            return {}


def _runs() -> list[Subject]:
    """Runs as three commands leave them; what tells one making from the next is taken out."""
    from attnprof.runs.ingest import import_trace

    found = []
    with _empty_folder() as here:
        config = {"workload": _WORKLOAD, "capture": _CAPTURE, "command": ["attnprof", "run", "-o", "it"]}
        generated_run(
            here, range(118, 142), prefill=117, others=LAYER_KERNELS[:2], name="generated", config=config
        )
        calls_only_run("calls", range(120, 140))
        torch = TRACES / "torch_h100_bert-small_pytorch_flash.json.gz"
        trace = Path("torch.json.gz")
        trace.write_bytes(torch.read_bytes())
        import_trace(trace, name="imported")
        for name in ("generated", "calls", "imported"):
            folder = here / RUNS / name
            _settle(folder)
            found.append(
                Subject(f"run {name}", "run", read_files(folder, f"{RUNS}/{name}/"), f"{RUNS}/{name}")
            )
    return found


@contextmanager
def _empty_folder() -> Iterator[Path]:
    """A folder that is the current one, where runs are made; its path stands in none of them."""
    before, runs = Path.cwd(), os.environ.get("ATTNPROF_RUNS")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["ATTNPROF_RUNS"] = RUNS
        try:
            yield Path()
        finally:
            os.chdir(before)
            del os.environ["ATTNPROF_RUNS"]
            if runs is not None:
                os.environ["ATTNPROF_RUNS"] = runs


def _settle(folder: Path) -> None:
    """Replaces the moment at which the run was made."""
    path, moment = folder / "run.json", "2026-01-01T00:00:00+00:00"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "created": moment}, indent=1), encoding="utf-8")
    _ = load(folder).database  # a user has asked for it


def read_files(folder: Path, prefix: str = "") -> Files:
    """Every regular file below a folder, by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {f"{prefix}{path.relative_to(folder)}": path.read_bytes() for path in paths}


def tables(content: bytes) -> dict[str, int]:
    """Name to root page of the tables of an SQLite file; nothing where it is too damaged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.sqlite"
        path.write_bytes(content)
        with closing(sqlite3.connect(path)) as db:
            try:
                return dict(db.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
            except (sqlite3.Error, UnicodeError):
                return {}
