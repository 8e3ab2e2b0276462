"""Output that finds no room ends in one error."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.generated_run import calls_only_run

FULL = Path("/dev/full")


def attnprof(*arguments: str, stdout: int = subprocess.PIPE, limit: int | None = None) -> tuple[int, str]:
    """(exit code, stderr) of a command, no file of which may grow past ``limit`` bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    done = subprocess.run(
        [sys.executable, "-m", "attnprof", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=limited,
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("report", "one"), ("runs",), ("sweep", "--seqlen-k", "1:512")])
def test_a_full_output_is_one_error(arguments):
    calls_only_run("one", range(100, 104))
    descriptor = os.open(FULL, os.O_WRONLY)
    code, said = attnprof(*arguments, stdout=descriptor)
    os.close(descriptor)
    assert (code, said) == (2, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("to", ["perfetto", "sqlite", "csv"])
def test_an_export_without_room_is_one_error_and_leaves_nothing(to, tmp_path):
    calls_only_run("one", range(100, 104))
    target = tmp_path / "exported"
    code, said = attnprof("export", "one", "--to", to, "-o", str(target), limit=10)
    assert code == 2
    assert said.startswith(f"error: cannot write {target}: ")
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attnprof-runs"]
