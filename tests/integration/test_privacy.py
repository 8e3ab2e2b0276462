"""What others on the machine can see of a run: its files by their modes, and no open port."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from attnprof import load
from attnprof.capture.process import MARK
from attnprof.machine.find_nsys import find_nsys
from tests.support.command import attnprof
from tests.support.generated_run import generated_run

NSYS = pytest.mark.skipif(find_nsys() is None, reason="Nsight Systems is not installed")
RECORDERS = ["none", pytest.param("nsys", marks=[NSYS, pytest.mark.nsys])]
ATTNPROF = [sys.executable, "-m", "attnprof"]
PROGRAM = "import pathlib, time; pathlib.Path('of-the-program').touch(); time.sleep(0.5)"
LISTENS = "0A"  # of /proc/net/tcp


def modes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in [folder, *folder.rglob("*")]:
        yield str(path.relative_to(folder.parent)), stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o077, 0o022, 0o002], ids="{:04o}".format)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("recorder", RECORDERS)
def test_no_file_has_a_mode_that_the_umask_forbids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: str, mask: int
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("ATTNPROF_RUNS", "runs")
    for command in (
        ("run", "--capture", recorder, "-o", "masked", "--", "python", "-c", PROGRAM),
        ("report", "masked", "--html", "page.html"),
        ("export", "masked", "--to", "csv", "-o", "exported"),
        ("export", "masked", "--to", "perfetto", "-o", "exported.json"),
    ):
        done = attnprof(*command)
        assert done.code == 0, done.err
    assert load("masked").database.exists()
    made = dict(modes(here))
    files = {"page.html", "exported/run.json", "exported.json", "of-the-program"}
    files |= {f"runs/masked/{name}" for name in ("run.json", "attnprof.db", "trace.npz", "calls.jsonl")}
    assert {f"here/{name}" for name in files} < made.keys()
    assert {name: f"{mode:04o}" for name, mode in made.items() if mode & mask} == {}
    assert made["here/of-the-program"] == 0o666 & ~mask


def sockets_of(pid: int) -> set[str]:
    """The inodes of all sockets that a process holds."""
    found = set()
    with suppress(OSError):  # it may end meanwhile
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                found.add(target.removeprefix("socket:[").removesuffix("]"))
    return found


def listening() -> dict[str, str]:
    """Address by inode of every TCP socket that listens and every UDP socket that is bound."""
    found = {}
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        table = Path("/proc/net") / kind
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == LISTENS or kind.startswith("udp"):
                found[fields[9]] = f"{kind} {fields[1]}"
    return found


def family(root: int) -> dict[int, str]:
    """The process, all it has started and all of its recordings, which still live, with their programs."""
    parents, names, known = {}, {}, {root}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                pid = int(entry.name)
                parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[pid] = (entry / "exe").readlink().name
                if f"{MARK}={root}-".encode() in (entry / "environ").read_bytes():  # recorders leave it
                    known.add(pid)
    more = known
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - known
        known |= more
    return {pid: names.get(pid, "") for pid in known}


def open_ports(command: list[str], folder: Path) -> set[tuple[str, str]]:
    """(program, address) of whatever listens in the family of a command, looked at until it ends."""
    seen = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder) as process:
        while process.poll() is None:
            ports = listening()
            for pid, name in family(process.pid).items():
                seen |= {(name, ports[inode]) for inode in sockets_of(pid) & ports.keys()}
            time.sleep(0.05)
        assert process.stdout is not None
        output = process.stdout.read()
    assert process.returncode == 0, output
    return seen


def test_the_watch_sees_a_port(tmp_path: Path) -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); time.sleep(0.5)"
    assert open_ports([sys.executable, "-c", program], tmp_path)


def test_no_command_opens_a_port(tmp_path: Path) -> None:
    generated_run(tmp_path, range(1, 4))
    traces = tmp_path / "traces"
    traces.mkdir()
    for rank in range(2):
        os.link(tmp_path / "trace.sqlite", traces / f"rank{rank}.sqlite")
    for arguments in (
        ["run", "--capture", "none", "-o", "plain", "--", "python", "-c", PROGRAM],
        ["import", "trace.sqlite"],
        ["report", "generated", "--html", "page.html"],
        ["report", "traces", "--workers", "2"],
    ):
        assert open_ports([*ATTNPROF, *arguments], tmp_path) == set(), arguments


@NSYS
@pytest.mark.nsys
def test_only_nsys_itself_opens_ports_while_it_records(tmp_path: Path) -> None:
    command = [*ATTNPROF, "run", "--capture", "nsys", "-o", "recorded", "--", "python", "-c", PROGRAM]
    assert {name for name, _ in open_ports(command, tmp_path)} <= {"nsys"}
