"""Secrets planted in environment, command line, NVTX names and paths, and where they are found again."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from attnprof.machine.find_nsys import find_nsys
from attnprof.runs import run_folders
from attnprof.runs.run_builder import new_run
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof
from tests.support.generated_run import decode_call, generated_run, record_of
from tests.support.graph_trace import H100_FIELDS
from tests.support.secrets import Secret, secrets

NSYS = pytest.mark.skipif(find_nsys() is None, reason="Nsight Systems is not installed")
RECORDERS = [pytest.param("nsys", marks=[NSYS, pytest.mark.nsys]), "torch"]
PROGRAM = """
import json, sys, torch
from pathlib import Path
from attnprof.instrument.ranges import NvtxRanges
names = json.loads(Path(sys.argv[1]).read_text())
query = torch.zeros(1, 2, 4, 8)
for name in names:
    if sys.argv[2] == "nsys":
        own = NvtxRanges("program").channel(name)
        own.push(0)
    with torch.profiler.record_function(name):
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    if sys.argv[2] == "nsys":
        own.pop()
raise SystemExit(0)
"""
PYARROW = find_spec("pyarrow") is not None
FORMATS = ("table", "json", "csv", "md")


def contents(path: Path) -> bytes:
    """Every byte of a file or of all files under a folder, also what gzip packs."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    read = [file.read_bytes() for file in files]
    return b"\n".join([*read, *(gzip.decompress(raw) for raw in read if raw.startswith(b"\x1f\x8b"))])


def leaked(written: bytes, planted: list[Secret]) -> list[str]:
    """The kinds of secrets found in some bytes, as UTF-8 or UTF-16."""
    return [
        secret.kind
        for secret in planted
        if secret.needle.encode() in written or secret.needle.encode("utf-16-le") in written
    ]


def everything_written(run: str, folder: Path, *, brief: bool = False) -> Iterator[tuple[str, bytes]]:
    """(command, what it wrote) of each command that says something of a run; ``brief``: of its ranges."""
    if brief:
        yield from exported(run, folder, ("perfetto", "sqlite"))
        return
    commands = [(name, run, "--format", form) for name in ("report", "check") for form in FORMATS]
    commands += [("report", run, "--format", "csv", "--table", table) for table in ("splits", "verdicts")]
    commands += [("diff", run, run, "--format", form) for form in FORMATS]
    commands += [("runs", "--format", form) for form in FORMATS]
    commands += [("explain", "--run", run, "--call", "0", "--format", form) for form in ("json", "md")]
    for command in commands:
        done = attnprof(*command)
        assert done.code in (0, 3), done.err
        assert done.out, command
        yield " ".join(command), (done.out + done.err).encode()
    page = folder / "report.html"
    assert attnprof("report", run, "--html", str(page)).code == 0
    yield "report --html", contents(page)
    yield from exported(run, folder, ("perfetto", "csv", "sqlite", *(["parquet"] if PYARROW else [])))


def exported(run: str, folder: Path, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(command, what it wrote) of exports."""
    for form in formats:
        out = folder / f"exported-{form}"
        done = attnprof("export", run, "--to", form, "-o", str(out))
        assert done.code == 0, done.err
        yield f"export --to {form}", contents(out) + done.err.encode()


def test_there_are_at_least_twenty_kinds_and_each_place_has_its_own() -> None:
    assert len({secret.kind for secret in secrets("a")}) >= 20
    assert not {secret.needle for secret in secrets("a")} & {secret.needle for secret in secrets("b")}


@pytest.mark.parametrize("recorder", RECORDERS)
def test_no_planted_secret_reaches_a_run_folder_or_what_is_written_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: str
) -> None:
    places = {
        place: secrets(f"{recorder} {place}") for place in ("environment", "command", "ranges", "paths")
    }
    in_paths = [secret for secret in places["paths"] if secret.fits_a_path]
    for number, secret in enumerate(places["environment"]):
        monkeypatch.setenv(f"PLANTED_{number}", secret.text)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    folder = tmp_path.joinpath(*(secret.text for secret in in_paths[3:]))
    folder.mkdir(parents=True)
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path.joinpath(*(s.text for s in in_paths[:3])) / "runs"))
    names = folder / "names.json"
    names.write_text(json.dumps([f"load {secret.text} now" for secret in places["ranges"]]))
    program = folder / "program.py"
    program.write_text(PROGRAM)

    typed = [f"--option-{n}={s.text}" if n % 2 else s.text for n, s in enumerate(places["command"])]
    done = attnprof(
        *("run", "--capture", recorder, "-o", "planted", "--", "python", str(program)),
        *(str(names), recorder, *typed),
    )
    assert done.code == 0, done.err

    run = run_folders.run_folder("planted")
    kept = contents(run)
    assert leaked(kept, places["environment"] + places["command"]) == []
    assert len(leaked(kept, places["ranges"])) == len(places["ranges"])  # or there is nothing to leave out
    capture = json.loads((run / run_folders.RUN_JSON).read_text())["capture"]
    assert capture["environment"]["NVIDIA_TF32_OVERRIDE"] == "0"
    planted = [secret for place in places.values() for secret in place]
    for command, written in everything_written("planted", tmp_path, brief=recorder == "nsys"):
        assert leaked(written, planted) == [], command


@NSYS
@pytest.mark.nsys
def test_nsys_records_the_environments_that_a_run_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = secrets("report")
    for number, secret in enumerate(planted):
        monkeypatch.setenv(f"PLANTED_{number}", secret.text)
    done = attnprof("run", "--capture", "nsys", "--keep-report", "-o", "kept", "--", "sleep", "0.5")
    assert done.code == 0, done.err
    assert "trace.nsys-rep holds the environments" in done.err
    report = run_folders.run_folder("kept") / "trace.nsys-rep"
    assert len(leaked(report.read_bytes(), planted)) == len(planted)
    assert report.stat().st_mode & 0o077 == 0
    report.unlink()
    assert leaked(contents(run_folders.run_folder("kept")), planted) == []


def test_no_secret_in_a_trace_from_elsewhere_is_shown_or_carried_over(tmp_path: Path) -> None:
    """In names of kernels, ranges and domains, and in environments as nsys exports them."""
    names, kernels, environment = secrets("names"), secrets("kernels"), secrets("environment")
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, cuDevice=0, **H100_FIELDS)
    builder.domain(names[0].text, 1)
    for number, (name, kernel) in enumerate(zip(names, kernels, strict=True)):
        at = 1000 * number
        builder.range(f"{name.text}", at, at + 900, inline=bool(number % 2), domainId=number % 2)
        builder.call(at + 100, at + 110, number)
        builder.kernel(f"void my_kernel<{kernel.text}>(int)", at + 200, at + 300, number)
    for secret in environment:
        builder.add("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=f"X={secret.text}")
        builder.string(f"PATH=/usr/bin\0X={secret.text}")
    path = builder.write(tmp_path / "trace.sqlite")
    assert attnprof("import", str(path), "-o", "elsewhere").code == 0
    assert leaked(contents(run_folders.run_folder("elsewhere")), environment) == []
    planted = names + kernels + environment
    for run in ("elsewhere", str(path)):
        for report in ("cuda_gpu_kern_sum", "cuda_gpu_trace", "nvtx_gpu_proj_trace", "nvtx_kern_sum"):
            for form in FORMATS:
                done = attnprof("report", run, "--report", report, "--format", form)
                assert done.code == 0, done.err
                assert leaked((done.out + done.err).encode(), planted) == [], (run, report, form)
        for form in FORMATS:
            done = attnprof("report", run, "--format", form)
            assert leaked((done.out + done.err).encode(), planted) == [], (run, form)
        page = tmp_path / "page.html"
        assert attnprof("report", run, "--html", str(page)).code == 0
        assert leaked(page.read_bytes(), planted) == []
        figure = tmp_path / "figure.svg"
        assert attnprof("report", run, "--plot", str(figure), "--figure", "phases").code == 0
        assert leaked(figure.read_bytes(), planted) == []
        for form in ("perfetto", "csv", "sqlite"):
            out = tmp_path / f"{Path(run).stem}-{form}"
            assert attnprof("export", run, "--to", form, "-o", str(out)).code == 0
            assert leaked(contents(out), planted) == [], form


def test_secrets_in_a_runs_configuration_are_neither_shown_nor_exported(tmp_path: Path) -> None:
    planted = secrets("configuration")
    notes = [f"401 for {secret.text}" for secret in planted]
    generated_run(
        tmp_path,
        range(1, 5),
        config={
            "command": ["attnprof", "run", *(secret.text for secret in planted)],
            "capture": {"recorder": "nsys", "version": planted[0].text, "notes": notes, "command": notes},
            "workload": {"error": notes[0], "versions": {"torch": None}, "model": {"name": planted[1].text}},
        },
    )
    for command, written in everything_written("generated", tmp_path):
        assert leaked(written, planted) == [], command


@pytest.mark.parametrize("figure", ["splits", "step", "phases", "share"])
def test_a_secret_in_a_runs_name_is_in_no_figure(tmp_path: Path, figure: str) -> None:
    planted = [secret for secret in secrets("name") if re.fullmatch(r"[\w\-]+", secret.text)][:5]
    for secret in planted:
        out = tmp_path / f"{figure}.svg"
        (tmp_path / secret.needle).mkdir()
        generated_run(tmp_path / secret.needle, range(1, 5), name=secret.text)
        done = attnprof("report", secret.text, "--plot", str(out), "--figure", figure)
        assert done.code == 0, done.err
        assert leaked(out.read_bytes(), [secret]) == []


def test_what_was_removed_from_an_export_is_not_in_its_free_pages(tmp_path: Path) -> None:
    from attnprof.capture.environment import copy_without_environments

    planted = secrets("pages")
    raw = tmp_path / "raw.sqlite"
    db = sqlite3.connect(raw)
    db.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
    blocks = [(f"HOME=/home/me\0X={secret.text}" + "y" * 5000,) for secret in planted]
    db.executemany("INSERT INTO StringIds(value) VALUES (?)", blocks)
    db.commit()
    db.close()
    copy_without_environments(raw, tmp_path / "clean.sqlite")
    assert leaked((tmp_path / "clean.sqlite").read_bytes(), planted) == []


def test_a_recording_that_was_killed_leaves_no_environment_in_the_run_that_is_made_of_it() -> None:
    planted = secrets("killed")
    with new_run("killed") as builder:
        made = builder.folder / ".nsys-abc"
        made.mkdir()
        for name in ("trace.nsys-rep", "trace.sqlite"):
            (made / name).write_text("".join(secret.text for secret in planted))
        (builder.folder / run_folders.CALLS_JSONL).write_text(
            json.dumps(record_of(0, 0, 0, decode_call(25))) + "\n"
        )
        builder.kept = True
    (left,) = run_folders.runs_root().glob(".killed.*")
    assert len(leaked(contents(left), planted)) == len(planted)
    done = attnprof("runs", "--resume", "killed")
    assert done.code == 0, done.err
    assert leaked(contents(run_folders.run_folder("killed")), planted) == []
