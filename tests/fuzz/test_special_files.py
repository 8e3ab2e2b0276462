"""What is no ordinary file, stands in no ordinary place or has no ordinary name."""

from __future__ import annotations

import ctypes
import gzip
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from attnprof.errors import AttnprofError, TraceError
from attnprof.machine.find_nsys import find_nsys
from attnprof.runs.run import load
from tests.fuzz.damage_bytes import ANY, damaged
from tests.fuzz.dice import Dice
from tests.fuzz.harness import memory, state
from tests.fuzz.subjects import built_trace, read_files
from tests.fuzz.uses import command
from tests.support.command import Done

_DROP_CAPABILITY, _MAY_WRITE_ANYWHERE, _MAY_READ_ANYWHERE = 24, 1, 2  # Linux: prctl.h, capability.h


def _as_anybody() -> None:
    """Permissions count for root too."""
    for capability in (_MAY_WRITE_ANYWHERE, _MAY_READ_ANYWHERE):
        ctypes.CDLL(None).prctl(_DROP_CAPABILITY, capability, 0, 0, 0)


def in_a_process(*arguments: str | Path, cwd: Path, shell: str = "", **variables: str) -> Done:
    """attnprof as a shell starts it, without the right to read and write everything."""
    line = [sys.executable, "-m", "attnprof", *map(str, arguments)]
    if shell:
        line = ["sh", "-c", shell + ' && exec "$@"', "sh", *line]
    done = subprocess.run(
        line,
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=_as_anybody,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _below_a_file(path: Path) -> None:
    path.write_bytes(b"")


NO_FILES: tuple[Callable[[Path], None], ...] = (
    _fifo,
    _loop,
    _dangling,
    _socket,
    _device,
    _below_a_file,
    Path.mkdir,
)


@pytest.mark.parametrize("ending", [".sqlite", ".json.gz", ".nsys-rep", ".qdstrm"])
@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__.strip("_"))
def test_what_is_no_file_is_refused_in_one_error(
    tmp_path: Path, make: Callable[[Path], None], ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path(f"t{ending}")
    make(path)
    before = state(tmp_path)
    for name in ("check", "import", "report"):
        done = command(name, path, codes=(2,))
        assert str(path) in done.err
    assert state(tmp_path) == before


def test_what_is_no_file_among_ranks_is_one_rank_that_is_named(tmp_path: Path) -> None:
    built_trace(tmp_path / "rank0.sqlite")
    _loop(tmp_path / "rank1.sqlite")
    done = command("report", tmp_path, codes=(0,))
    assert "rank1" in done.out + done.err


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdin", "/", "", ".", "\0", "x" * 5000, "a/" * 3000])
def test_names_of_nothing_are_refused_in_one_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for what in ("check", "import", "report"):
        command(what, name, codes=(2,))


def test_a_link_is_followed_and_neither_it_nor_its_target_changes(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    built_trace(tmp_path / "there" / "t.sqlite")
    link = tmp_path / "t.sqlite"
    link.symlink_to(tmp_path / "there" / "t.sqlite")
    before = state(tmp_path)
    command("check", link, codes=(3,))  # its calls have no arguments
    assert state(tmp_path) == before


STEMS = ("\x1b[2J\x1b[31m", "a\nverdict    OK", "\udcff\udcfe", "'; rm -rf ~ #", "%s <b>")


@pytest.mark.parametrize("name", [f"{stem}.sqlite" for stem in STEMS])
def test_the_name_of_a_file_is_only_a_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = built_trace(tmp_path / "t.sqlite").rename(Path(name))
    for arguments in (
        ("report", path),
        ("check", path, "--format", "json"),
        ("report", path, "--html", "page.html"),
    ):
        command(*arguments, codes=(0, 3))
    command("import", path, codes=(0,))
    command("runs", codes=(0,))
    command("report", codes=(0,))
    for to in ("sqlite", "perfetto"):
        command("export", path, "--to", to, "-o", to, codes=(0,))


def test_a_run_folder_may_hold_anything_under_its_names(tmp_path: Path) -> None:
    command("import", built_trace(tmp_path / "t.sqlite"), "-o", "it", codes=(0,))
    folder = tmp_path / "attnprof-runs" / "it"
    for name in sorted(read_files(folder)):
        kept = folder / name
        content = kept.read_bytes()
        for make in (_fifo, _loop, _dangling, _device, _below_a_file):
            kept.unlink(missing_ok=True)
            make(kept)
            for what in ("report", "check"):
                command(what, "it", codes=(0, 1, 2, 3))
            command("runs", codes=(0,))
            kept.unlink(missing_ok=True)
        kept.write_bytes(content)
    command("report", "it", codes=(0,))


def test_a_trace_in_a_folder_that_nobody_may_write_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    built_trace(folder / "t.sqlite").chmod(0o444)
    folder.chmod(0o555)
    done = in_a_process("check", folder / "t.sqlite", cwd=tmp_path)
    assert (done.code, done.err) == (3, "")  # its calls have no arguments
    done = in_a_process("import", folder / "t.sqlite", cwd=tmp_path, ATTNPROF_RUNS=str(folder / "runs"))
    assert (done.code, "Traceback" in done.err, "error: " in done.err) == (2, False, True)
    folder.chmod(0o755)
    (folder / "t.sqlite").chmod(0)
    done = in_a_process("check", folder / "t.sqlite", cwd=tmp_path)
    assert (done.code, "cannot be read: Permission denied" in done.err) == (2, True)


def test_in_a_folder_that_has_vanished_commands_work_or_say_so(tmp_path: Path) -> None:
    path = built_trace(tmp_path / "t.sqlite")
    gone = tmp_path / "gone"
    for arguments in (("check", path), ("runs",), ("report", "t.sqlite"), ("predict", "--seqlen-k", "128")):
        gone.mkdir()
        done = in_a_process(*arguments, cwd=gone, shell=f"rmdir '{gone}'", ATTNPROF_RUNS="attnprof-runs")
        assert done.code in (0, 2, 3), done.err
        assert "Traceback" not in done.err


def test_without_a_folder_for_temporary_files_a_packed_trace_is_one_error(tmp_path: Path) -> None:
    packed = tmp_path / "t.sqlite.gz"
    packed.write_bytes(gzip.compress(built_trace(tmp_path / "t.sqlite").read_bytes()))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    done = in_a_process("check", packed, cwd=locked, TMPDIR=str(locked), TEMP="", TMP="")
    assert done.code in (3, 2)  # Python falls back to /tmp where it can
    assert "Traceback" not in done.err


@pytest.mark.parametrize("name", ["a.sqlite.gz", "b.json.gz", "c.json.gz"])
def test_a_gzip_bomb_is_refused_in_bounded_memory(tmp_path: Path, name: str) -> None:
    whole = built_trace(tmp_path / "t.sqlite").read_bytes()
    heads = {"a": whole[:100], "b": b'{"traceEvents": [', "c": b'{"a": "'}
    path = tmp_path / name
    path.write_bytes(gzip.compress(heads[name[0]]) + gzip.compress(b" " * (1 << 20)) * 1_000)
    before = memory("VmRSS")
    with pytest.raises(TraceError):
        _ = load(path).trace
    assert memory("VmRSS") - before < 100e6


def test_bombs_within_bombs_are_no_trace(tmp_path: Path) -> None:
    content = bytes(1 << 20)
    for _ in range(4):
        content = gzip.compress(content)
    (tmp_path / "t.json.gz").write_bytes(content)
    with pytest.raises(AttnprofError):
        _ = load(tmp_path / "t.json.gz").trace


@pytest.mark.nsys
def test_a_damaged_report_ends_in_a_result_or_in_what_nsys_says(tmp_path: Path) -> None:
    nsys = find_nsys()
    if nsys is None:
        pytest.skip("no nsys here")
    program = "import nvtx, time; nvtx.push_range('decode'); time.sleep(1); nvtx.pop_range()"
    options = ["--trace=nvtx", "--sample=none", "--cpuctxsw=none", "-o", tmp_path / "whole"]
    command = [nsys, "profile", *options, sys.executable, "-c", program]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    whole = (tmp_path / "whole.nsys-rep").read_bytes()
    for number in range(6):
        path = tmp_path / f"t{number}.{('nsys-rep', 'qdstrm')[number % 3 == 0]}"
        path.write_bytes(damaged(Dice(f"report {number}"), ANY, whole))
        with suppress(TraceError):
            load(path).check()
        assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "whole.nsys-rep"])
        path.unlink()
