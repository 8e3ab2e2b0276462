"""Programs of every kind under ``attnprof run``: they behave as alone, and their calls are kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from attnprof.calls.records import read_records

ATTEND = """
import atexit, os, signal, sys, torch
torch.set_num_threads(1)
def attend(length=4, **options):
    q = torch.zeros(1, 2, length, 8)
    return torch.nn.functional.scaled_dot_product_attention(q, q, q, **options)
"""


def attnprof(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``attnprof ARGUMENTS`` in a process of its own, with its runs in ``cwd``."""
    return subprocess.run(
        [sys.executable, "-m", "attnprof", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "ATTNPROF_RUNS": str(cwd / "attnprof-runs"), **environment},
        timeout=120,
    )


def recorded(
    tmp_path: Path, text: str, *program: str, arguments: Sequence[str] = (), **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    """What the command gave, and the calls of its run, for a Python text run by ``program``."""
    script = tmp_path / "program.py"
    script.write_text(ATTEND + text)
    command = (*(program or (sys.executable,)), script, *arguments)
    done = attnprof("run", "--capture", "none", "-o", "run", "--", *command, cwd=tmp_path, **environment)
    return done, calls(tmp_path)


def calls(tmp_path: Path) -> list[dict]:
    path = tmp_path / "attnprof-runs" / "run" / "calls.jsonl"
    return [record.fields for record in read_records(path)]


def processes(tmp_path: Path) -> list[dict]:
    """As run.json lists them."""
    config = json.loads((tmp_path / "attnprof-runs" / "run" / "run.json").read_text())
    return config["workload"].get("processes", [])


def by_process(found: list[dict]) -> dict[int, list[int | None]]:
    """The lengths of each process's calls."""
    numbers = sorted({call.get("process", 0) for call in found})
    return {n: lengths([call for call in found if call.get("process", 0) == n]) for n in numbers}


def lengths(found: list[dict]) -> list[int | None]:
    return [call["q"][2] if "q" in call else None for call in found]


ODD = """
attend()
attend(scale=float('nan'))
for odd in ({'scale': torch.tensor(0.5)}, {'is_causal': 'x'}, {'dropout_p': float('nan')}):
    try:
        attend(5, **odd)
    except Exception as error:
        print(type(error).__name__, flush=True)
attend(6)
"""


@pytest.mark.parametrize(
    ("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)]
)
def test_odd_calls_are_kept_with_all_others_and_the_exit_code_is_passed_on(tmp_path, ending, code):
    done, found = recorded(tmp_path, ODD + ending)
    assert done.returncode == code, done.stderr
    assert lengths(found) == [4, 4, 5, None, None, 6]
    assert found[3]["not_described"] == "is_causal is a str"
    assert "TypeError" in done.stdout
    report = attnprof("report", "run", cwd=tmp_path)
    assert report.returncode == 0
    assert "not described: is_causal is a str" in " ".join(report.stdout.split())
    checked = json.loads(attnprof("check", "run", "--format", "json", cwd=tmp_path).stdout)
    assert [row["verdict"] for row in checked["calls"]].count("not modelled") == 2


def test_calls_made_at_exit_and_by_threads_that_end_after_the_program_are_kept(tmp_path):
    text = """
import concurrent.futures, threading, time
atexit.register(lambda: (attend(9), print("at exit")))
concurrent.futures.ThreadPoolExecutor(1).submit(attend, 5).result()
def late():
    time.sleep(0.3)
    attend(7)
threading.Thread(target=late).start()
sys.exit(4)
"""
    alone = tmp_path / "alone.py"
    alone.write_text(ATTEND + text)
    expected = subprocess.run([sys.executable, alone], capture_output=True, text=True, check=False)
    done, found = recorded(tmp_path, text)
    assert lengths(found) == [5, 7, 9]
    assert (done.returncode, expected.returncode) == (4, 4)
    assert expected.stdout in done.stdout


# Programs that start Python

BIN = Path(sys.executable).parent
ATTEND_ARGUMENT = "attend(int(sys.argv[1]))"


def in_path(**environment: str) -> dict[str, str]:
    return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environment}


def run_alone(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same command without attnprof."""
    there = os.environ | in_path(**environment)
    return subprocess.run(command, cwd=cwd, env=there, capture_output=True, text=True, check=False)


def test_pytest_is_recorded(tmp_path):
    text = "def test_it():\n    attend(5)\ndef test_wrong():\n    attend(6)\n    assert 0\n"
    (tmp_path / "test_it.py").write_text(ATTEND + text)
    command = ("pytest", "-q", "-p", "no:cacheprovider", "test_it.py")
    alone = subprocess.run(
        command, cwd=tmp_path, env=os.environ | in_path(), capture_output=True, check=False
    )
    done = attnprof("run", "--capture", "none", "-o", "run", "--", *command, cwd=tmp_path, **in_path())
    assert (done.returncode, alone.returncode) == (1, 1)
    assert "1 failed, 1 passed" in done.stdout
    assert lengths(calls(tmp_path)) == [5, 6]
    assert "could not be recorded" not in done.stderr


def test_a_shell_script_that_starts_python_twice_and_becomes_it_is_recorded(tmp_path):
    script = tmp_path / "script.sh"
    script.write_text('python "$1" 5; python "$1" 6 && exec python "$1" 7\n')
    done, found = recorded(tmp_path, ATTEND_ARGUMENT, "sh", str(script), **in_path())
    assert done.returncode == 0, done.stderr
    assert by_process(found) == {0: [5], 1: [6], 2: [7]}
    assert [call["seq"] for call in found] == [0, 1, 2]
    listed = processes(tmp_path)
    assert [one["calls"] for one in listed] == [1, 1, 1]
    assert len({one["pid"] for one in listed}) == 3
    assert [one["command"].split()[-1] for one in listed] == ["5", "6", "7"]


CHILDREN = """
import multiprocessing, subprocess
def work(length):
    attend(length)
    attend(length)
if __name__ == "__main__":
    attend(3)
    for kind, length in (("spawn", 7), ("fork", 8)):
        process = multiprocessing.get_context(kind).Process(target=work, args=(length,))
        process.start()
        process.join()
    if os.fork() == 0:
        attend(9)
        sys.exit(0)
    os.wait()
    if os.fork() == 0:
        work(10)
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    chain = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True)"
    subprocess.run([sys.executable, "-c", chain, __file__ + ".child"], check=True)
    attend(4)
"""


def test_children_of_every_kind_record_themselves(tmp_path):
    (tmp_path / "program.py.child").write_text(ATTEND + "attend(11)")
    done, found = recorded(tmp_path, CHILDREN)
    assert done.returncode == 0, done.stderr
    assert by_process(found) == {0: [3, 4], 1: [7, 7], 2: [8, 8], 3: [9], 4: [10, 10], 5: [11]}
    assert [call["seq"] for call in found] == list(range(len(found)))
    labels = [one["label"] for one in processes(tmp_path)]
    assert labels[:3] == ["main", "SpawnProcess-1", "ForkProcess-2"]
    assert "not recorded" not in done.stderr
    assert not list((tmp_path / "attnprof-runs" / "run").glob(".*"))
    report = json.loads(attnprof("report", "run", "--format", "json", cwd=tmp_path).stdout)
    assert [one["calls"] for one in report["processes"]] == [2, 2, 2, 1, 2, 1]
    assert [(row["processes"], row["seqlen_k"]) for row in report["splits"]] == [
        ("0", "3–4"), ("1", "7"), ("2", "8"), ("3", "9"), ("4", "10"), ("5", "11"),
    ]  # fmt: skip
    rows = json.loads(attnprof("check", "run", "--format", "json", cwd=tmp_path).stdout)["calls"]
    assert [row["process"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 4, 4, 5]
    shown = attnprof("report", "run", cwd=tmp_path).stdout
    assert "6 processes" in shown
    assert "SpawnProcess-1" in shown


RANKS = """
import torch.distributed
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
attend(20 + rank)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
sys.exit(3 if rank and "fail" in sys.argv else 0)
"""


@pytest.mark.parametrize("arguments", [[], ["fail"]])
def test_ranks_of_torchrun_are_shown_by_rank(tmp_path, arguments):
    torchrun = ("torchrun", "--standalone", "--nproc-per-node", "2")
    done, found = recorded(tmp_path, RANKS, *torchrun, arguments=arguments, **in_path(OMP_NUM_THREADS="1"))
    assert done.returncode == len(arguments), done.stderr
    assert by_process(found) == {0: [20], 1: [21]}
    assert [(one["label"], one["rank"]) for one in processes(tmp_path)] == [("rank 0", 0), ("rank 1", 1)]


@pytest.mark.skipif(shutil.which("accelerate", path=str(BIN)) is None, reason="accelerate is not installed")
def test_accelerate_launch_is_recorded(tmp_path):
    launch = ("accelerate", "launch", "--cpu", "--num_processes", "1", "--num_machines", "1")
    done, found = recorded(tmp_path, "attend(5)", *launch, **in_path())
    assert done.returncode == 0, done.stderr
    assert lengths(found) == [5]


# Pythons that keep others out


@pytest.mark.parametrize("flags", ["-I", "-uS"])
def test_pythons_flags_are_the_programs_own_and_its_calls_are_recorded(tmp_path, flags):
    import torch

    places = f"import sys; sys.path.append({str(Path(torch.__file__).parents[1])!r})\n"
    script = tmp_path / "flagged.py"
    script.write_text(places + ATTEND + "attend(5)\nprint(sys.flags, sys.argv[1:], sys.path[:1])")
    command = (sys.executable, flags, script, "-x")
    alone = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    done = attnprof("run", "--capture", "none", "-o", "run", "--", *command, cwd=tmp_path)
    assert done.stdout.startswith(alone.stdout)
    assert lengths(calls(tmp_path)) == [5]


def test_a_child_that_keeps_attnprof_out_runs_as_alone_and_is_said(tmp_path):
    text = """
import subprocess, time
if len(sys.argv) > 1:
    attend(9)
    time.sleep(2.5)
    sys.exit(5)
print(subprocess.run([sys.executable, "-I", __file__, "again"]).returncode)
attend(4)
"""
    done, found = recorded(tmp_path, text)
    assert "5" in done.stdout.split()
    assert lengths(found) == [4]
    assert "could not be recorded, since -I keeps attnprof out" in done.stderr


@pytest.mark.parametrize("minor", [8, 10, 13])
def test_a_program_of_another_python_runs_as_alone(tmp_path, minor):
    python = another_python(minor)
    (tmp_path / "torch.py").write_text("found = 1\n")  # any module of the name is looked for
    script = tmp_path / "other.py"
    script.write_text(
        "import sys\nsys.stderr.write('said\\n')\n"
        "print(sys.version_info[:2], sys.path[1:], list(sys.modules))\n"
        "import torch\nprint(torch.found)\nsys.exit(7)\n"
    )
    alone = subprocess.run([python, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    done = attnprof("run", "--capture", "none", "-o", "run", "--", python, script, cwd=tmp_path)
    assert alone.returncode == done.returncode == 7
    assert done.stdout.splitlines()[0] == alone.stdout.splitlines()[0]
    assert "said" in done.stderr
    assert "Traceback" not in done.stderr
    assert ("is older than 3.10" in done.stderr) == (minor < 10)


def another_python(minor: int) -> str:
    """A Python 3.MINOR that is not this one's environment; skips where there is none."""
    named = shutil.which(f"python3.{minor}")
    versions = Path(sys.base_prefix).parent.glob(f"3.{minor}.*/bin/python3.{minor}")
    found = [str(path) for path in versions] + ([named] if named else [])
    found = [one for one in found if Path(one).parent != BIN]
    if not found or subprocess.run([found[0], "-c", "1"], check=False).returncode:
        pytest.skip(f"there is no Python 3.{minor}")
    return found[0]


# Others' ways to be read at every start, and what it costs


def test_somebody_elses_sitecustomize_is_read_as_ever(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "sitecustomize.py").write_text("import builtins; builtins.read = __file__\n")
    script = tmp_path / "program.sh"
    script.write_text(
        'python -c "import sitecustomize, sys; print(read, sitecustomize.__file__, sys.path)"\n'
    )
    path = {"PYTHONPATH": str(tmp_path / "theirs")}
    alone = subprocess.run(
        ["sh", script], env=os.environ | in_path(**path), capture_output=True, text=True, check=True
    )
    done = attnprof(
        "run", "--capture", "none", "-o", "run", "--", "sh", script, cwd=tmp_path, **in_path(**path)
    )
    assert str(tmp_path / "theirs") in alone.stdout
    assert done.stdout.startswith(alone.stdout)


def test_a_process_without_torch_imports_nothing_of_attnprof(tmp_path):
    script = tmp_path / "program.sh"
    script.write_text('python -c "import sys, json; print(sorted(sys.modules))"\n')
    alone = subprocess.run(
        ["sh", script], env=os.environ | in_path(), capture_output=True, text=True, check=True
    )
    done = attnprof("run", "--capture", "none", "-o", "run", "--", "sh", script, cwd=tmp_path, **in_path())
    assert done.stdout.startswith(alone.stdout)
    assert "'json'" in alone.stdout


# Endings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_a_script_and_the_pythons_below_it(tmp_path, number):
    (tmp_path / "child.py").write_text(
        ATTEND + "import time\nattend(5)\nopen('begun', 'w').close()\ntime.sleep(60)\n"
    )
    script = tmp_path / "script.sh"
    script.write_text("python child.py\n")
    running = subprocess.Popen(
        [sys.executable, "-m", "attnprof", "run", "--capture", "none", "-o", "run", "--", "sh", script],
        cwd=tmp_path,
        env=os.environ | in_path(ATTNPROF_RUNS=str(tmp_path / "attnprof-runs")),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + number, said
    assert lengths(calls(tmp_path)) == [5]
    assert (
        json.loads((tmp_path / "attnprof-runs" / "run" / "run.json").read_text())["status"] == "interrupted"
    )


ODD_CALLS = """
for odd in ({'scale': float('nan')}, {'scale': torch.tensor(0.5)}, {'is_causal': 'x'}):
    try:
        attend(5, **odd)
    except (TypeError, ValueError):
        pass
attend(6)
"""


@pytest.mark.parametrize(
    ("text", "kept"),
    [("attend(5)\n", [5]), (ODD_CALLS, [5, 5, None, 6])],
    ids=["a call", "calls that cannot be described"],
)
def test_what_other_processes_recorded_outlives_attnprof_itself(tmp_path, text, kept):
    (tmp_path / "child.py").write_text(
        ATTEND + text + "import time\nopen('begun', 'w').close()\ntime.sleep(60)\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "attnprof", "run", "--capture", "none", "-o", "run", "--", "sh", "-c",
         "python child.py"],
        cwd=tmp_path,
        env=os.environ | in_path(ATTNPROF_RUNS=str(tmp_path / "attnprof-runs")),
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.kill()
    running.wait()
    left = attnprof("runs", cwd=tmp_path)
    assert f"{len(kept)} attention calls" in left.stderr
    resumed = attnprof("runs", "run", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert lengths(calls(tmp_path)) == kept
