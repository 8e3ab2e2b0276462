"""What a user names is written whole or not at all, and nothing of his is lost."""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from attnprof.errors import UsageError
from attnprof.files import durable, output
from attnprof.files.output import writing_file, writing_folder, writing_named
from attnprof.runs import run_folders
from tests.support.command import attnprof
from tests.support.generated_run import generated_run

NAMES = ("a.csv", "b.csv")


def write(path: Path, text: str, *, force: bool = False) -> None:
    with writing_file(path, force=force) as out:
        out.write(text.encode())


def write_folder(path: Path, text: str, *, force: bool = False) -> None:
    with writing_folder(path, NAMES, force=force) as folder:
        for name in NAMES:
            (folder / name).write_text(text)


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture(params=["exchange", "plain"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With renameat2 and hard links, and on a file system that has neither."""
    if request.param == "plain":

        def no_link(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr(durable, "_renameat2", lambda one, other, flag: 22)
        monkeypatch.setattr(os, "link", no_link)


@pytest.mark.usefixtures("system")
def test_a_file_is_made_and_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, "one")
    with pytest.raises(UsageError, match="exists already"):
        write(path, "two")
    assert path.read_text() == "one"
    path.chmod(0o640)
    write(path, "three", force=True)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("three", 0o640)
    assert left(tmp_path) == ["out"]


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("force", [True, False])
def test_what_fails_on_the_way_leaves_the_old_file_and_nothing_new(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "out"
    if force:
        path.write_text("old")
    for error, expected in ((OSError(28, "No space left on device"), UsageError), (KeyError(), KeyError)):
        with pytest.raises(expected), writing_file(path, force=force) as out:  # noqa: PT012
            out.write(b"half")
            raise error
    assert left(tmp_path) == (["out"] if force else [])
    assert not force or path.read_text() == "old"


Writer = Callable[..., AbstractContextManager[Any]]


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("old", [True, False])
def test_of_two_who_write_one_name_the_first_to_end_wins_and_the_other_says_so(
    tmp_path: Path, old: bool
) -> None:
    path = tmp_path / "out"
    if old:
        path.write_text("old")
    with (  # noqa: PT012
        pytest.raises(UsageError, match="written by another meanwhile"),
        writing_file(path, force=old) as slow,
    ):
        slow.write(b"slow")
        write(path, "fast", force=old)
    assert (path.read_text(), left(tmp_path)) == ("fast", ["out"])


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("old", [True, False])
def test_of_two_who_write_one_folder_the_first_to_end_wins(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "out"
    if old:
        write_folder(path, "old")
    with (  # noqa: PT012
        pytest.raises(UsageError, match="written by another meanwhile"),
        writing_folder(path, NAMES, force=old) as slow,
    ):
        for name in NAMES:
            (slow / name).write_text("slow")
        write_folder(path, "fast", force=old)
    assert [(path / name).read_text() for name in NAMES] == ["fast", "fast"]
    assert left(tmp_path) == ["out"]


@pytest.mark.usefixtures("system")
def test_a_file_changed_by_its_owner_meanwhile_is_left_to_him(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(UsageError, match="meanwhile"), writing_file(path, force=True) as out:  # noqa: PT012
        out.write(b"new")
        path.write_text("his own words")
    assert (path.read_text(), left(tmp_path)) == ("his own words", ["out"])


def special(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with closing(socket.socket(socket.AF_UNIX)) as one:
            one.bind(str(path))
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes device nodes")
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder"])
def test_what_is_no_regular_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("out")
    special(path, kind)
    before = path.lstat()
    with pytest.raises(UsageError, match="it is not replaced"):
        write(path, "x", force=True)
    if kind != "folder":
        with pytest.raises(UsageError, match="it is not replaced"):
            write_folder(path, "x", force=True)
    assert path.lstat().st_ino == before.st_ino
    assert left(tmp_path) == ["out"]


@pytest.mark.parametrize("dangling", [True, False])
def test_a_planted_link_is_not_followed(tmp_path: Path, dangling: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out"
    if not dangling:
        victim.write_text("precious")
    path.symlink_to(victim)
    for force in (True, False):
        with pytest.raises(UsageError, match="out is a link"):
            write(path, "x", force=force)
    assert victim.exists() != dangling
    assert dangling or victim.read_text() == "precious"
    assert path.is_symlink()


def test_the_name_on_the_way_cannot_be_foreseen(tmp_path: Path) -> None:
    seen = set()
    for number in range(20):
        with writing_named(tmp_path / f"{number}", force=False) as unnamed:
            seen.add(unnamed.name)
            assert unnamed.parent == tmp_path
            assert unnamed.stat().st_size == 0
    assert len({name[10:20] for name in seen}) == 20


def test_a_name_that_is_guessed_all_the_same_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.secrets, "token_hex", lambda _: "guessed")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".attnprof-guessed.part").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match="File exists"):
        write(tmp_path / "out", "x")
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a\0b", "none/out", "x" * 300])
def test_what_cannot_be_a_name_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for way in (write, write_folder):
        with pytest.raises(UsageError):
            way(Path(name), "x", force=True)
    assert left(tmp_path) == []


@pytest.mark.usefixtures("system")
def test_a_folder_is_replaced_where_it_holds_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_folder(path, "one")
    with pytest.raises(UsageError, match="exists already"):
        write_folder(path, "two")
    write_folder(path, "three", force=True)
    assert [(path / name).read_text() for name in NAMES] == ["three", "three"]
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", "four", force=True)
    assert left(tmp_path / "empty") == [*NAMES]
    assert left(tmp_path) == ["empty", "out"]


def strange_folders(path: Path) -> dict[str, Callable[[], object]]:
    return {
        "another file": lambda: [write_folder(path, "old"), (path / "run.sh").write_text("precious")],
        "a folder of a table's name": lambda: (path / "a.csv").mkdir(parents=True),
        "one of the files alone": lambda: [path.mkdir(), (path / "a.csv").write_text("precious")],
        "a link": lambda: [write_folder(path, "old"), (path / "a.csv").unlink(),
                           (path / "a.csv").symlink_to(path / "b.csv")],
    }  # fmt: skip


@pytest.mark.parametrize("kind", strange_folders(Path()))
def test_a_folder_that_was_not_made_so_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    strange_folders(path)[kind]()
    before = {entry.name: entry.lstat().st_ino for entry in path.iterdir()}
    with pytest.raises(UsageError, match="it is not replaced"):
        write_folder(path, "new", force=True)
    assert {entry.name: entry.lstat().st_ino for entry in path.iterdir()} == before
    assert left(tmp_path) == ["out"]


def test_what_comes_into_the_folder_at_the_last_moment_stays_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, swap = tmp_path / "out", output.exchange
    write_folder(path, "old")

    def late(one: Path, other: Path) -> bool:
        times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        (path / "thesis.tex").write_text("precious")
        os.utime(path, ns=times)
        return swap(one, other)

    monkeypatch.setattr(output, "exchange", late)
    monkeypatch.setattr(output, "_same", lambda one, other: True)
    write_folder(path, "new", force=True)
    assert (path / "thesis.tex").read_text() == "precious"
    assert [(path / name).read_text() for name in NAMES] == ["new", "new"]
    assert left(tmp_path) == ["out"]


# The commands


@pytest.fixture
def run(tmp_path: Path) -> Path:
    generated_run(tmp_path, range(120, 124))
    return tmp_path / "trace.sqlite"


def other_names(trace: Path) -> list[Path]:
    hard = trace.with_name("hard.html")
    os.link(trace, hard)
    return [trace, hard, trace.parent / "." / ".." / trace.parent.name / trace.name]


@pytest.mark.parametrize("to", ["perfetto", "sqlite", "csv"])
def test_an_export_never_replaces_its_trace(run: Path, to: str) -> None:
    before = run.read_bytes()
    for name in other_names(run):
        done = attnprof("export", str(run), "--to", to, "-o", str(name), "-f")
        assert (done.code, "not replaced" in done.err) == (2, True), done.err
    assert run.read_bytes() == before


def test_a_report_never_replaces_its_trace(run: Path) -> None:
    before = run.read_bytes()
    for name in other_names(run):
        done = attnprof("report", str(run), "--html", str(name))
        assert (done.code, "is what is read" in done.err) == (2, True), done.err
    picture = run.with_name("splits.png")
    os.link(run, picture)
    assert attnprof("report", str(run), "--plot", str(picture)).code == 2
    stem = run.with_name("nsys")
    os.link(run, run.with_name("nsys_cuda_gpu_kern_sum.csv"))
    done = attnprof("report", str(run), "-r", "cuda_gpu_kern_sum", "--format", "csv", "-o", str(stem))
    assert (done.code, "is what is read" in done.err) == (2, True), done.err
    assert run.read_bytes() == before


def test_nothing_replaces_a_file_of_the_run_it_is_of(run: Path) -> None:
    folder = run_folders.run_folder("generated")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name in before:
        for to in ("perfetto", "sqlite"):
            assert attnprof("export", "generated", "--to", to, "-o", str(folder / name), "-f").code == 2
        assert attnprof("report", "generated", "--html", str(folder / name)).code == 2
    assert attnprof("export", "generated", "--to", "csv", "-o", str(folder), "-f").code == 2
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_an_imported_run_spares_the_file_it_came_from(run: Path) -> None:
    assert attnprof("import", str(run), "-o", "mine").code == 0
    before = run.read_bytes()
    assert attnprof("export", "mine", "--to", "sqlite", "-o", str(run), "-f").code == 2
    assert run.read_bytes() == before


def test_an_export_of_tables_spares_what_is_not_its_own(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "kernels").mkdir(parents=True)
    (mine / "kernels" / "a.cu").write_text("precious")
    (mine / "run.sh").write_text("precious")
    done = attnprof("export", str(run), "--to", "csv", "-o", str(mine), "-f")
    assert (done.code, "holds other files (kernels)" in done.err) == (2, True)
    assert [(mine / name).read_text() for name in ("kernels/a.cu", "run.sh")] == ["precious"] * 2
    assert attnprof("export", str(run), "--to", "csv", "-o", str(tmp_path / "tables")).code == 0
    assert attnprof("export", str(run), "--to", "csv", "-o", str(tmp_path / "tables"), "-f").code == 0
    other = attnprof("export", str(run), "--to", "parquet", "-o", str(tmp_path / "tables"), "-f")
    assert other.code == 2


def limited(*arguments: str, size: int) -> tuple[int, str]:
    """(exit code, stderr) of a command, no file of which may grow past ``size`` bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "attnprof", *arguments], capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)),
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("export", "generated", "-f", "-o"), "old.json.gz"),
        (("export", "generated", "--to", "sqlite", "-f", "-o"), "old.db"),
        (("export", "generated", "--to", "csv", "-f", "-o"), "old"),
        (("report", "generated", "--html"), "old.html"),
        (("report", "generated", "--plot"), "old.png"),
        (("explain", "--seqlen-k", "4096", "--plot"), "old.png"),
        (("sweep", "--seqlen-k", "1:4096", "--plot"), "old.png"),
    ],
)
def test_a_full_disk_leaves_what_was_there(
    run: Path, tmp_path: Path, options: tuple[str, ...], name: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    target = place / name
    assert attnprof(*options, str(target)).code == 0
    files = [target] if target.is_file() else sorted(target.iterdir())
    before = [file.read_bytes() for file in files]
    code, said = limited(*options, str(target), size=200)
    assert (code, f"cannot write {target}: " in said, "Traceback" in said) == (2, True, False), said
    assert [file.read_bytes() for file in files] == before
    fresh = place / f"new-{name}"
    assert limited(*options, str(fresh), size=200)[0] == 2
    assert left(place) == [name]


@pytest.mark.parametrize("to", ["perfetto", "sqlite", "csv"])
def test_of_several_exports_at_once_to_one_name_one_is_there_whole(
    run: Path, tmp_path: Path, to: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    target = place / ("out.json.gz" if to == "perfetto" else "out")
    command = [sys.executable, "-m", "attnprof", "export", str(run), "--to", to, "-o", str(target)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate()[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 2, 2]
    lost = [said for process, said in zip(started, told, strict=True) if process.returncode]
    assert all("exists already" in said or "by another meanwhile" in said for said in lost)
    assert left(place) == [target.name]
    if to == "perfetto":
        assert json.loads(gzip.decompress(target.read_bytes()))["traceEvents"]
    elif to == "sqlite":
        with closing(sqlite3.connect(target)) as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    else:
        assert left(target) == [
            *("cache_steps.csv", "calls.csv", "kernels.csv", "modules.csv", "ranges.csv", "run.json"),
        ]
