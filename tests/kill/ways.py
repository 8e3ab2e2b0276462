"""The ways in which a command is stopped: signals, a disk that fills up, and the folder of runs removed."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SIGNALS = ("SIGKILL", "SIGINT", "SIGTERM", "SIGHUP")
FULL, REMOVED, HALTED = "disk full", "runs removed", "SIGSTOP"
WAYS = (*SIGNALS, FULL, REMOVED, HALTED)
_HALTED_S = 0.5  # then it goes on
_DISK_BYTES = 32 << 20


@dataclass
class Scene:
    """Where one command is stopped: ``runs`` is its folder, ``limit`` is called in it before it begins, and
    ``strike`` when its time has come."""

    runs: Path
    limit: Callable[[], None] | None = None
    strike: Callable[[subprocess.Popen[bytes]], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Ground:
    """The folders that the commands are stopped in: one for signals, one on a disk of its own, if there is
    one. Without the right to mount, a limit on the size of a file stands for the full disk."""

    folder: Path
    disk: Path | None

    @property
    def full_by(self) -> str:
        return "tmpfs" if self.disk else "RLIMIT_FSIZE"

    @contextmanager
    def scene(self, way: str, rng: random.Random, needed: int) -> Iterator[Scene]:
        """The scene of one stop; ``needed`` is what the command would write, in bytes."""
        if way == FULL and self.disk:
            with _ballast(self.disk, rng.randrange(needed)):
                yield Scene(self.disk / "attnprof-runs")
        elif way == FULL:
            most = rng.randrange(needed)
            yield Scene(
                self.folder / "attnprof-runs",
                limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY)),
            )
        elif way == REMOVED:
            runs = self.folder / "removed"
            yield Scene(runs, strike=lambda _: _remove(runs))
            _remove(runs)
        elif way == HALTED:
            yield Scene(self.folder / "attnprof-runs", strike=_halt)
        else:
            number = signal.Signals[way]
            yield Scene(self.folder / "attnprof-runs", strike=lambda process: process.send_signal(number))


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """A ground in ``folder``, with a small disk where one can be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "none", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield Ground(folder, disk if mounted else None)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def _ballast(disk: Path, free: int) -> Iterator[None]:
    """Leaves ``free`` bytes on the disk, until the block ends."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        available = shutil.disk_usage(disk).free
        os.posix_fallocate(file.fileno(), 0, max(1, available - free))
    try:
        yield
    finally:
        ballast.unlink()


def _halt(process: subprocess.Popen[bytes]) -> None:
    """Stops a command and lets it go on: it ends as if nothing had been."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(_HALTED_S)
    process.send_signal(signal.SIGCONT)


def _remove(folder: Path) -> None:
    """Until nothing is left, though a command may still be writing in it."""
    while folder.exists():
        with suppress(OSError):
            shutil.rmtree(folder)
        time.sleep(0.001)
