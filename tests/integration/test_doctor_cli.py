"""attnprof doctor as it is typed: its real capture, its output and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof
from tests.support.generated_run import generated_run

HAS_NSYS = shutil.which("nsys") is not None


@pytest.mark.nsys
@pytest.mark.skipif(not HAS_NSYS, reason="needs nsys")
def test_a_range_arrives_in_a_real_capture() -> None:
    done = attnprof("doctor", "--format", "json")
    found = {row["what"]: row for row in json.loads(done.out)}
    assert found["capture"]["level"] == "OK", found["capture"]
    assert found["ranges"]["level"] == "OK", found["ranges"]
    assert done.code == 0


def test_each_line_says_how_to_mend_what_is_not_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPROF_NSYS", "/nowhere/nsys")
    done = attnprof("doctor")
    assert done.code == 1
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(
        "fix: " in " ".join(lines[i : i + 4]) for i, line in enumerate(lines) if line[:4] in ("WARN", "FAIL")
    )
    assert "NOT usable as it is: 1 failure" in done.out


def test_strict_fails_on_warnings(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.kernel("void flash::flash_fwd_kernel<T>(P)", 30, 40, 1)
    path = str(builder.write(tmp_path / "t.sqlite"))
    assert attnprof("doctor", path).code == 0
    assert attnprof("doctor", path, "--strict").code == 1


def test_a_good_run_passes_strictly_and_the_next_command_is_named(tmp_path: Path) -> None:
    generated_run(tmp_path, range(120, 125), prefill=64)
    done = attnprof("doctor", "generated", "--strict")
    assert done.code == 0, done.out
    assert "usable, nothing to mend" in done.out
    assert done.out.splitlines()[-1].endswith("attnprof report generated")


def test_the_doctor_does_not_import_torch() -> None:
    script = (
        "import sys, contextlib, io\n"
        "from functools import partial\n"
        "from attnprof.commands.trial_capture import try_capture\n"
        "from attnprof.doctor.machine import examine_machine\n"
        "list(examine_machine('/nowhere/nsys', try_capture=partial(try_capture, limit_s=20)))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
