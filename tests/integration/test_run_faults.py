"""Programs and recorders that end as they should not: what is said of them, and what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.capture import recording
from attnprof.capture.other_processes import OtherProcesses
from attnprof.capture.recording import CaptureOptions, CaptureResult, record
from attnprof.capture.trace_facts import count_ranges
from attnprof.errors import CaptureError
from attnprof.machine.find_nsys import find_nsys
from attnprof.workloads.spec import parse_program
from tests.support.fake_nsys import fake_nsys

NSYS = pytest.mark.skipif(find_nsys() is None, reason="Nsight Systems is not installed")

ATTEND = """
import ctypes, os, signal, sys, time, torch
torch.set_num_threads(1)
def attend(calls, length=4):
    q = torch.zeros(1, 2, length, 8)
    for _ in range(calls):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
attend(3)
"""


def capture(folder: Path, text: str, *, recorder: str = "none", grace_s: float = 60.0) -> CaptureResult:
    folder.mkdir()
    script = folder.with_name("program.py")
    script.write_text(text)
    program, notes = parse_program([sys.executable, str(script)])
    return record(CaptureOptions(program, recorder=recorder, notes=notes, grace_s=grace_s), folder)


def calls(folder: Path) -> list[int]:
    """The length of each recorded call's queries."""
    return [json.loads(line)["q"][2] for line in (folder / "calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was ended by SIGKILL in or after attention call 2"),
        ("os._exit(5)", 5, "ended with exit code 5 in or after attention call 2"),
    ],
)
def test_a_program_that_dies_keeps_its_calls_and_its_exit_code(tmp_path, ending, code, error):
    result = capture(tmp_path / "run", ATTEND + ending)
    assert (result.exit_code, result.status) == (code, "failed")
    assert result.workload["error"] == f"the program {error}"
    assert result.workload["num_calls"] == 3
    assert calls(tmp_path / "run") == [4, 4, 4]
    assert "its 3 attention calls up to there are kept" in result.notes


def test_a_program_that_replaces_itself_is_said_to_and_keeps_the_calls_before(tmp_path, capfd):
    result = capture(tmp_path / "run", ATTEND + f"os.execv({sys.executable!r}, ['python', '-c', 'print(6)'])")
    assert (result.exit_code, calls(tmp_path / "run")) == (0, [4, 4, 4])
    (note,) = result.notes
    assert note == f"the program replaced itself by {sys.executable} (exec), which recorded no attention call"
    assert capfd.readouterr().out == "6\n"


def test_the_calls_of_what_a_program_became_are_kept_too(tmp_path):
    again = (
        "import torch; q = torch.zeros(1, 2, 6, 8); torch.nn.functional.scaled_dot_product_attention(q, q, q)"
    )
    result = capture(tmp_path / "run", ATTEND + f"os.execv({sys.executable!r}, ['python', '-c', {again!r}])")
    assert (result.exit_code, calls(tmp_path / "run")) == (0, [4, 4, 4, 6])
    assert result.notes == (f"the program replaced itself by {sys.executable} (exec)",)
    main, became = result.workload["processes"]
    assert (main["calls"], became["calls"], became["first_seq"]) == (3, 1, 3)


def test_a_forked_process_writes_nothing_over_the_programs_own_calls_and_has_its_own(tmp_path):
    text = (
        ATTEND
        + "if os.fork() == 0:\n    attend(2, 9)\n    sys.exit(7)\nos.wait()\nattend(1, 5)\nsys.exit(3)\n"
    )
    result = capture(tmp_path / "run", text)
    assert result.exit_code == result.workload["exit_code"] == 3
    assert calls(tmp_path / "run") == [4, 4, 4, 5, 9, 9]
    assert [one["calls"] for one in result.workload["processes"]] == [4, 2]


def test_a_forked_process_that_has_no_place_for_its_calls_goes_on_and_is_counted(tmp_path):
    text = (
        ATTEND
        + "import shutil\nshutil.rmtree(os.environ['ATTNPROF_RECORD'].split('|')[2])\n"
        + "if os.fork() == 0:\n    attend(2, 9)\n    sys.exit(0)\nassert os.wait()[1] == 0\nattend(1, 5)\n"
    )
    result = capture(tmp_path / "run", text)
    assert (result.exit_code, calls(tmp_path / "run")) == (0, [4, 4, 4, 5])
    assert (
        "attention calls of processes that the program forked are not recorded (processes: 1)" in result.notes
    )


def test_other_processes_that_load_torch_are_told_from_forks_and_helpers(tmp_path):
    library = tmp_path / "libtorch_python.so"  # what gives such a process away is the library in its memory
    library.write_bytes(bytes(4096))
    loads = (
        f"import mmap; f = open({str(library)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
    )
    waits = "print('up', flush=True); import time; time.sleep(60)"
    script = tmp_path / "worker.py"
    script.write_text(loads + waits)
    pid_file = tmp_path / "child.pid"
    text = f"""
import os, subprocess, sys
{loads}
others = [subprocess.Popen([sys.executable, {str(script)!r}], stdout=subprocess.PIPE),
          subprocess.Popen([sys.executable, "-c", {waits!r}], stdout=subprocess.PIPE)]
for other in others:
    other.stdout.readline()
if os.fork() == 0:
    {waits.replace("; ", chr(10) + "    ")}
sys.stdin.read()
for other in others:
    other.kill()
"""
    program = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        pid_file.write_text(str(program.pid))
        others = OtherProcesses(tmp_path)
        others.look()
        (said,) = others.told()
        shown = f"{sys.executable} {script}"[:50]
        assert said.startswith(f"another process of the program loaded torch ({shown}")
    finally:
        assert program.stdin is not None
        program.stdin.close()
        program.wait(10)
        subprocess.run(["pkill", "-P", str(program.pid)], check=False)


NEVER_STARTS = 'echo "Network is unreachable"; exit 1'


def test_an_nsys_that_does_not_start_is_done_without_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "find_nsys", lambda explicit=None: fake_nsys(tmp_path, NEVER_STARTS))
    result = capture(tmp_path / "run", ATTEND, recorder="auto")
    assert (result.recorder, result.status, calls(tmp_path / "run")) == ("none", "complete", [4, 4, 4])
    assert result.notes[0] == (
        "nsys did not start the program: nsys's processes talk over the loopback interface, and there is"
        " none here; without a GPU, attention calls are recorded and there is no trace"
    )


def test_an_nsys_that_was_asked_for_and_does_not_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "find_nsys", lambda explicit=None: fake_nsys(tmp_path, NEVER_STARTS))
    with pytest.raises(CaptureError, match="nsys did not start the program"):
        capture(tmp_path / "run", ATTEND, recorder="nsys")


@NSYS
@pytest.mark.nsys
def test_a_crash_under_nsys_keeps_calls_and_exit_code_and_says_whether_ranges_were_lost(tmp_path):
    result = capture(tmp_path / "run", ATTEND + "ctypes.string_at(0)", recorder="nsys")
    assert (result.exit_code, calls(tmp_path / "run")) == (139, [4, 4, 4])
    assert result.workload["error"] == "the program was ended by SIGSEGV in or after attention call 2"
    assert result.trace is not None
    arrived = count_ranges(result.trace, "attn")
    lost = "nsys lost the ranges of a program that did not come to its end"
    if arrived:
        lost = (
            f"the program did not come to its end, and {arrived} of 3 recorded attention calls have a range:"
            " the others were still open, or nsys lost them"
        )
    assert [note for note in result.notes if "range" in note] == ([] if arrived == 3 else [lost])


# The recorded program is a child of nsys-launcher, a child of "nsys profile"; an agent is nobody's.
FAMILY = """
import os, pathlib, signal, sys, time
def parent(pid): return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
launcher = os.getppid()
nsys = parent(launcher)
def agent():
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        if f"-{nsys} --shm-name".encode() in entry.read_bytes().replace(b"\\0", b" "):
            return int(entry.parent.name)
"""


@NSYS
@pytest.mark.nsys
@pytest.mark.kills_nsys
@pytest.mark.parametrize("victim", ["nsys", "agent()"])
def test_an_nsys_that_is_killed_leaves_the_program_its_calls_and_no_process(tmp_path, victim):
    text = f"{FAMILY}\nos.kill({victim}, signal.SIGKILL)\ntime.sleep(1.5)\nsys.exit(3)"
    result = capture(tmp_path / "run", text, recorder="nsys")
    assert (result.exit_code, result.status) == (3, "failed")
    assert any("before the program, which went on without it" in note for note in result.all_notes)
    if result.failure is not None:
        assert "nsys left no report" in result.failure.message
        assert result.failure.hint
    folder = str(tmp_path).encode()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if _reads(p, folder)]


def _reads(path: Path, text: bytes) -> bool:
    try:
        return text in path.read_bytes()
    except OSError:
        return False


@NSYS
@pytest.mark.nsys
@pytest.mark.kills_nsys
def test_an_nsys_that_missed_the_end_of_its_program_is_made_to_write_its_report(tmp_path):
    text = f"{FAMILY}\nos.kill(launcher, signal.SIGKILL)\nsys.exit(3)"
    result = capture(tmp_path / "run", text, recorder="nsys", grace_s=3.0)
    assert (result.exit_code, result.failure) == (3, None)
    assert result.trace is not None
    assert any("it wrote its report when asked to stop" in note for note in result.notes)
