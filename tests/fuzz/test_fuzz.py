"""A seeded part of python -m tests.fuzz."""

from __future__ import annotations

from pathlib import Path

from attnprof.errors import AttnprofError
from tests.fuzz.harness import fuzz
from tests.support.command import attnprof


def test_two_hundred_damaged_traces_end_in_a_result_or_one_error(tmp_path: Path) -> None:
    outcome = fuzz(200, seed=1, folder=tmp_path)
    assert outcome.broken == []
    assert outcome.ends["result"] > 20
    assert outcome.ends["TraceError"] > 20


def test_special_files_are_refused_without_reading_them(tmp_path: Path) -> None:
    import os

    fifo = tmp_path / "pipe.sqlite"
    os.mkfifo(fifo)
    loop = tmp_path / "loop.sqlite"
    loop.symlink_to(loop)
    gone = tmp_path / "gone.json"
    gone.symlink_to(tmp_path / "nowhere")
    for path in (Path("/dev/null"), fifo, loop, gone, tmp_path):
        for command in ("check", "import"):
            done = attnprof(command, str(path))
            assert done.code == 2, path
            assert done.err.startswith("error: "), path
            assert "Traceback" not in done.err


def test_a_gzip_bomb_is_refused_or_read_in_bounded_memory(tmp_path: Path) -> None:
    import gzip
    import resource

    bomb = tmp_path / "bomb.sqlite.gz"
    with gzip.open(bomb, "wb", 9) as file:
        file.write(b"SQLite format 3\0")
        for _ in range(256):
            file.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = attnprof("check", str(bomb))
    assert done.code == 2
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    )  # KiB; the bomb unpacks to 256 MiB


def test_the_error_type_carries_one_line_and_a_hint() -> None:
    error = AttnprofError("what and where", hint="what to do")
    assert (error.message, error.hint, error.exit_code) == ("what and where", "what to do", 2)
