"""What a command starts ends with it, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnprof.machine.process_guard import MARK, guarded
from attnprof.runs.run_folders import runs_root
from attnprof.runs.unfinished_folders import is_running

SCRIPT = """
import subprocess, sys
from attnprof.runs.run_builder import new_run
from attnprof.machine.process_guard import guarded
with new_run("one"), guarded():
    listens = subprocess.Popen(["sleep", "1000"])
    deaf = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 1000; sleep 1000"], start_new_session=True)
    print(listens.pid, deaf.pid, flush=True)
    listens.wait()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_killed_command_has_started_is_ended_in_whatever_session():
    command = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    pids = [int(pid) for pid in command.stdout.readline().split()]
    (folder,) = runs_root().iterdir()
    command.send_signal(signal.SIGKILL)
    command.wait()
    assert not is_running(folder), "the guard holds the lock of the folder"
    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_still_runs_at_the_end_is_left_alone():
    with guarded():
        process = subprocess.Popen(["sleep", "1000"])
        assert MARK in os.environ
    assert MARK not in os.environ
    assert alive(process.pid)
    process.kill()
    process.wait()


def test_an_error_in_the_block_passes_and_the_guard_ends():
    before = children()

    def fails() -> None:
        with guarded():
            assert len(children()) == len(before) + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert children() == before


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_nobody_waits_for_the_guard_to_close_its_output():
    script = """
import os, subprocess
from attnprof.machine.process_guard import guarded
guard = guarded()
guard.__enter__()
subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("said", flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"said\n", b"")
