"""attnprof run as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnprof.machine.find_nsys import find_nsys


def attnprof(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from attnprof.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def runs() -> Path:
    return Path(os.environ["ATTNPROF_RUNS"])


def left_over() -> list[str]:
    return [path.name for path in runs().iterdir()] if runs().exists() else []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["--batch", "-1"], "--batch must be at least 1"),
        (["--model", "nothing"], "no model 'nothing'"),
        (["--gpu", "gtx-9"], "unknown GPU 'gtx-9'"),
        (["--version", "0.1"], "is not modelled"),
        (["--capture", "perf"], "--capture perf is none of"),
        (["--nsys", "/no/such/nsys"], "/no/such/nsys was not found"),
        (["--max-new-tokens", "4", "--", "python", "x.py"], "an option of the built-in workload"),
        (["--", "python", "no-such.py"], "no such file: no-such.py"),
        (["--", "no-such-program"], "cannot run no-such-program"),
    ],
)
def test_a_wrong_command_line_is_one_message_and_exit_code_2_and_leaves_nothing(arguments, message):
    done = attnprof("run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert left_over() == []


def test_a_programs_exit_code_is_passed_through_and_its_run_is_marked_failed():
    done = attnprof("run", "--capture", "none", "-o", "three", "--", "python", "-c", "raise SystemExit(3)")
    assert done.returncode == 3
    assert json.loads((runs() / "three" / "run.json").read_text())["status"] == "failed"
    assert left_over() == ["three"]
    assert "next: attnprof report three" in done.stdout


def test_an_existing_run_is_refused_untouched_and_replaced_when_forced():
    program = ["--capture", "none", "-o", "one", "--", "python", "-c", "print('ran')"]
    assert attnprof("run", *program).returncode == 0
    before = (runs() / "one" / "run.json").read_text()
    refused = attnprof("run", *program)
    assert refused.returncode == 2
    assert "--force-overwrite" in refused.stderr
    assert "ran" not in refused.stdout
    assert (runs() / "one" / "run.json").read_text() == before
    assert attnprof("run", "-f", *program).returncode == 0
    assert left_over() == ["one"]


def test_a_dry_run_prints_the_commands_and_makes_nothing():
    done = attnprof("run", "--max-new-tokens", "512", "--dry-run")
    assert done.returncode == 0
    assert '"max_new_tokens": 512' in done.stdout
    if find_nsys() is not None:
        assert "--trace=cuda,nvtx,osrt --cuda-graph-trace=node" in done.stdout
    assert left_over() == []


def test_nothing_is_drawn_where_the_output_is_no_terminal():
    done = attnprof("run", "--capture", "none", "--", "python", "-c", "print('ran')")
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_folder_and_no_process(number, tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text("import time; print('up', flush=True); time.sleep(98762)")
    process = subprocess.Popen(
        [sys.executable, "-c", "from attnprof.cli import main; main()", "run", "--", "python", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}" in said
    assert left_over() == []
    time.sleep(0.1)
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "stat,args"], capture_output=True, text=True, check=True
    ).stdout
    assert not [line for line in listed.splitlines() if str(script) in line and not line.startswith("Z")]
