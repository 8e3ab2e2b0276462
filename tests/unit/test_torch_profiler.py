"""torch.profiler's buffer of GPU activity: large enough, and recognised where it was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof import load
from attnprof.check.check_run import Verdict
from tests.support.command import attnprof
from tests.support.torch_trace import decode_run

LENGTHS = [100, 128, 129, 256, 300, 512, 640, 1000]

PROGRAM = """
import sys, torch
from attnprof.instrument.torch_profiler import large_gpu_buffer
with large_gpu_buffer():
    profiler = torch.profiler.profile()
    profiler.__enter__()
profiler.__exit__(None, None, None)
"""


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path / "runs"))


def kineto_says(**environment: str) -> str:
    """What Kineto logs of its own configuration."""
    settings = {**os.environ, "KINETO_LOG_LEVEL": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=settings, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout + done.stderr


def test_kineto_is_given_a_buffer_of_two_gigabytes():
    assert "Max GPU buffer size: 2047MB" in kineto_says()


def test_a_configuration_of_the_user_is_left_alone(tmp_path):
    config = tmp_path / "kineto.conf"
    config.write_text("ACTIVITIES_MAX_GPU_BUFFER_SIZE_MB = 300\n")
    assert "Max GPU buffer size: 300MB" in kineto_says(KINETO_CONFIG=str(config))


def test_calls_after_the_buffer_was_full_are_not_observed_and_check_cannot_tell(tmp_path):
    run = decode_run(tmp_path, LENGTHS, recorded_until=5)
    verdicts = [call.verdict for call in load(run).check().calls]
    assert verdicts == [Verdict.MATCH] * 5 + [Verdict.NOT_OBSERVED] * 3
    done = attnprof("check", str(run))
    assert done.code == 3
    assert "buffer was full: it recorded no kernel from call 5 on" in done.out + done.err


def test_a_kernel_missing_from_a_whole_trace_is_still_missing(tmp_path, monkeypatch):
    for number, lost in enumerate((2, len(LENGTHS) - 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("ATTNPROF_RUNS", str(folder / "runs"))
        calls = load(decode_run(folder, LENGTHS, without=lost)).check().calls
        assert [call.seq for call in calls if call.verdict is Verdict.MISSING] == [lost]
        assert sum(call.verdict is Verdict.MATCH for call in calls) == len(LENGTHS) - 1
