"""Seldom met around a command: clocks that jump, other people's folders, files in the making, floods."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import pytest

from attnprof.runs import run_folders
from tests.fuzz.hostile import MARKUP, TERMINAL
from tests.fuzz.subjects import built_trace
from tests.fuzz.test_special_files import in_a_process
from tests.fuzz.uses import check_page
from tests.support.command import attnprof
from tests.support.generated_run import calls_only_run

COMMAND = [sys.executable, "-m", "attnprof"]
RUN = [*COMMAND, "run", "--capture", "none", "-o", "it"]
CLOCK = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
ATTEND = (
    "import time, torch\n"
    "q = torch.zeros(1, 2, 4, 8)\n"
    "for _ in range(3): torch.nn.functional.scaled_dot_product_attention(q, q, q)\n"
)


def ours(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(CLOCK is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("jump", ["-30y", "+30y", "-3d", "@1970-01-01 00:00:00"])
def test_a_clock_that_jumps_changes_no_run_and_ends_no_wait(jump: str, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    program = ATTEND + f"open({str(clock)!r}, 'w').write({jump!r} + chr(10))\ntime.sleep(0.3)\n"
    faked = {"LD_PRELOAD": str(CLOCK), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    began = time.monotonic()
    done = ours([*RUN, "--", "python", "-c", program], cwd=tmp_path, env={**os.environ, **faked})
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert time.monotonic() - began < 120
    folder = tmp_path / "attnprof-runs" / "it"
    assert run_folders.read_run(folder).status == "complete"
    assert json.loads((folder / "workload.json").read_text())["num_calls"] == 3
    for arguments in (
        ["report", "it"],
        ["runs"],
        ["import", str(built_trace(tmp_path / "t.sqlite")), "-o", "two"],
    ):
        clock.write_text("+40y\n")
        (tmp_path / "t.sqlite").touch()
        done = ours([*COMMAND, *arguments], cwd=tmp_path, env={**os.environ, **faked})
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o711, 0o744])
def test_another_users_run_is_read_or_told_of_and_hides_no_other(mode: int, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can make another user's folder")
    calls_only_run("theirs", range(120, 124))
    time.sleep(0.01)
    calls_only_run("mine", range(120, 124))
    theirs = tmp_path / "attnprof-runs" / "theirs"
    for path in (*theirs.iterdir(), theirs):
        os.chown(path, 65534, 65534)
        path.chmod(mode if path is theirs else 0o644)
    before = sorted((path.name, path.lstat().st_mtime_ns) for path in theirs.iterdir())
    listed = in_a_process("runs", cwd=tmp_path)
    assert (listed.code, "mine" in listed.out, "Traceback" in listed.err) == (0, True, False), listed.err
    report = in_a_process("report", "theirs", cwd=tmp_path)
    assert (report.code, report.err.count("error: ")) == ((0, 0) if mode == 0o755 else (2, 1)), report.err
    removed = in_a_process("runs", "--remove", "theirs", cwd=tmp_path)
    assert "Traceback" not in removed.err
    if removed.code == 2:
        again = theirs if theirs.exists() else next(theirs.parent.glob(".theirs*"))
        kept = sorted((path.name, path.lstat().st_mtime_ns) for path in again.iterdir())
        assert mode == 0o744 or kept == before or "not all of" in removed.err


def test_a_trace_that_is_being_written_gives_a_result_or_one_error(tmp_path: Path) -> None:
    whole = built_trace(tmp_path / "whole.sqlite").read_bytes()
    event = '{"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": %d, "dur": 1, "args": {}},'
    text = ('{"traceEvents": [' + "".join(event % number for number in range(40_000))).encode()
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            for name, content in (("t.sqlite", whole), ("t.json", text)):
                with (tmp_path / name).open("wb") as out:
                    for at in range(0, len(content), 1 + len(content) // 9):
                        out.write(content[at : at + 1 + len(content) // 9])
                        out.flush()
                        time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.2)
        codes = set()
        for number in range(24):
            name = ("t.sqlite", "t.json")[number % 2]
            done = attnprof(("check", "report", "import")[number % 3], str(tmp_path / name))
            codes.add(done.code)
            assert (done.code == 2) == (done.err.count("error: ") == 1), done.err
    finally:
        ended.set()
        writer.join()
    assert codes <= {0, 2, 3}


def test_a_gigabyte_of_a_programs_output_passes_through_in_little_memory(tmp_path: Path) -> None:
    program = "import sys\nblock = b'x' * (1 << 20)\nfor _ in range(1024): sys.stdout.buffer.write(block)\n"
    script = tmp_path / "flood.py"
    script.write_text(program)
    counted = subprocess.Popen(["wc", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    timed = [sys.executable, "-c", _PEAK, *RUN, "--", "python", str(script)]
    done = subprocess.run(
        timed, cwd=tmp_path, stdout=counted.stdin, stderr=subprocess.PIPE, text=True, check=False
    )
    assert counted.stdin is not None
    assert counted.stdout is not None
    counted.stdin.close()
    passed = int(counted.stdout.read())
    counted.wait()
    assert done.returncode == 0, done.stderr
    assert 1 << 30 <= passed < (1 << 30) + 10_000
    assert int(done.stderr.splitlines()[-1]) < 1_500_000, "kilobytes at the peak of attnprof or its program"
    assert run_folders.read_run(tmp_path / "attnprof-runs" / "it").status == "complete"
    assert sum(path.stat().st_size for path in (tmp_path / "attnprof-runs" / "it").iterdir()) < 1 << 20


_PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def test_a_run_inside_a_run_makes_two_runs_and_passes_the_inner_ones_code_on(tmp_path: Path) -> None:
    script = tmp_path / "attend.py"
    script.write_text(ATTEND + "import sys; sys.exit(3)\n")
    inner = [*COMMAND, "run", "--capture", "none", "-o", "inner", "--", "python", str(script)]
    done = ours([*RUN, "--", *inner], cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
    runs = tmp_path / "attnprof-runs"
    assert {entry.name for entry in runs.iterdir()} == {"it", "inner"}
    assert json.loads((runs / "inner" / "workload.json").read_text())["num_calls"] == 3
    assert run_folders.read_run(runs / "inner").status == run_folders.read_run(runs / "it").status == "failed"


def test_a_run_inside_a_run_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    inner = [
        *COMMAND,
        "run",
        "--capture",
        "none",
        "-o",
        "inner",
        "--",
        "python",
        "-c",
        "import time; time.sleep(60)",
    ]
    outer = subprocess.Popen(
        [*RUN, "--", *inner], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "attnprof-runs").glob(".inner.*/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(outer.pid, signal.SIGINT)
    _, said = outer.communicate(timeout=60)
    assert "Traceback (most recent call last)" not in said.replace("KeyboardInterrupt", ""), said
    assert outer.returncode == 130, said
    mark = str(tmp_path).encode()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (left := _processes(mark)):
        time.sleep(0.1)
    assert left == []


def _processes(mark: bytes) -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append((path.parent / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def test_a_program_of_another_pythons_environment_keeps_its_own_libraries_and_says_what_is_missing(
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    venv.create(other, with_pip=False)
    site = next((other / "lib").glob("python*/site-packages"))
    (site / "only_there.py").write_text("HERE = 'of the other'\n")
    program = "import only_there, sys; print(only_there.HERE, sys.prefix)"
    done = ours([*RUN, "--", str(other / "bin" / "python"), "-c", program], cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert f"of the other {other}" in done.stdout
    assert "attention call" in done.stderr, done.stderr
    script = tmp_path / "tool"
    script.write_text(f"#!{other}/bin/python\n{program}\n")
    script.chmod(0o755)
    done = ours([*RUN, "-f", "--", str(script)], cwd=tmp_path)
    assert (done.returncode, f"of the other {other}" in done.stdout) == (0, True), done.stderr
    assert "attention call" in done.stderr, done.stderr


HOSTILE = [text for text in (*MARKUP, *TERMINAL) if "\ud83d" not in text and "\udfff" not in text]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_run_json_is_only_text_in_the_page(text: str, tmp_path: Path) -> None:
    calls_only_run("it", range(120, 124))
    path = tmp_path / "attnprof-runs" / "it" / "run.json"

    def spoiled(value: object) -> object:
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        return text if isinstance(value, str) else value

    config = json.loads(path.read_text())
    known = {key: config[key] for key in ("schema", "status", "kind") if key in config}
    workload = {
        **config.get("workload", {}),
        "model": {"name": text, "num_layers": 2},
        "error": text,
        "versions": {text: text},
    }
    capture = {"recorder": text, "version": text, "notes": [text, text], "interrupted": text}
    for changed in (
        {**spoiled(config), **known},  # type: ignore[dict-item]
        {**config, "workload": workload, "capture": capture, "command": [text, text]},
    ):
        path.write_text(json.dumps(changed))
        page = tmp_path / "page.html"
        page.unlink(missing_ok=True)
        done = attnprof("report", "it", "--html", str(page))
        assert (done.code == 2) == (done.err.count("error: ") == 1), done.err
        if page.exists():
            check_page(page.read_text(encoding="utf-8"))
        assert done.code in (0, 2, 3)


def test_a_file_where_the_folder_of_runs_should_be_is_one_error(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "attnprof-runs", ignore_errors=True)
    (tmp_path / "attnprof-runs").write_text("not a folder")
    for arguments in (["runs"], ["import", str(built_trace(tmp_path / "t.sqlite"))], ["report"]):
        done = ours([*COMMAND, *arguments], cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 2)
