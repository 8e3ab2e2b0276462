"""Programs of every kind under ``attnprof run``: they behave as alone, and their calls are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def recorded(tmp_path: Path, text: str, *program: str, name: str = "run") -> tuple[Any, list[dict]]:
    """What the command gave, and the calls of its run, for a Python text run by ``program``."""
    script = tmp_path / "program.py"
    script.write_text(ATTEND + text)
    command = program or (sys.executable,)
    done = attnprof("run", "--capture", "none", "-o", name, "--", *command, script, cwd=tmp_path)
    return done, calls(tmp_path, name)


def calls(tmp_path: Path, name: str = "run") -> list[dict]:
    path = tmp_path / "attnprof-runs" / name / "calls.jsonl"
    return [record.fields for record in read_records(path)]


def lengths(found: list[dict]) -> list[int | None]:
    return [call["q"][2] if "q" in call else None for call in found]


ODD = """
attend()
attend(scale=float('nan'))
for odd in ({'scale': torch.tensor(0.5)}, {'is_causal': 'x'}, {'dropout_p': float('nan')}):
    try:
        attend(5, **odd)
    except Exception as error:
        print(type(error).__name__)
attend(6)
"""


@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)]
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
