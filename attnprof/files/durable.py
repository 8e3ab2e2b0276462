"""What a run folder asks of the file system: durable writes, locks, a swap of two names, honest errors."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnprof.errors import AttnprofError, RunError, UsageError

_FULL = {
    errno.ENOSPC: "no space is left on its disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file has reached the size limit (ulimit -f)",
}
_FULL_SAID = os.strerror(errno.ENOSPC)
_ELSEWHERE = "ATTNPROF_RUNS names a folder elsewhere"
_MAKE_ROOM = f"make room (attnprof runs --remove NAME removes a run); {_ELSEWHERE}"
_FILLED = 1 << 18  # bytes: a program that met the end of the disk may have given some back
_NEARLY_FULL = 1 << 26
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: fcntl.h, linux/fs.h


def sync(path: Path) -> None:
    """Returns when a file, or a folder with all that is in it, would survive a power cut."""
    if path.is_dir():
        for entry in path.iterdir():
            if not entry.is_symlink():
                sync(entry)
    sync_entry(path)


def sync_entry(path: Path) -> None:
    """The same for one file, or for the names in one folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swaps two names at one moment; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0


def lock(descriptor: int, operation: int, *, wait_s: float = 0.0) -> bool:
    """Takes a flock; False where another holds it for ``wait_s`` seconds.

    True without a lock where the file system has none: there, the names alone keep runs apart.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return True
        else:
            return True


@contextmanager
def held(folder: Path, operation: int = fcntl.LOCK_EX, *, wait_s: float = 10.0) -> Iterator[None]:
    """Holds a folder of runs, to begin, name, remove or list some of them; only ever for moments.

    Raises RunError where another holds it for ``wait_s`` seconds; listing does without then.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not lock(descriptor, operation, wait_s=wait_s) and operation == fcntl.LOCK_EX:
            raise RunError(
                f"another attnprof has held {folder} for {wait_s:.0f} s",
                hint="end it if it is stopped, then try again",
            )
        yield
    finally:
        os.close(descriptor)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end a program wait until the block is done."""
    if threading.current_thread() is not threading.main_thread():  # it alone hears them
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda heard, _: came.append(heard)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def writing(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """A full disk, or ``folder`` removed while it is written, becomes one RunError that names ``shown``."""
    try:
        yield
    except Exception as error:
        told = _told(folder, shown or folder, error)
        if told is None:
            raise
        raise told from error


def _told(folder: Path, shown: Path, error: Exception) -> RunError | None:
    """The error that says what is wrong with the disk; None for every other error."""
    if isinstance(error, AttnprofError):
        if isinstance(error, UsageError):
            return None
        if not folder.exists():
            return _removed(shown)
        if _free(folder) < _FILLED or _FULL_SAID in error.message or "disk is full" in error.message:
            return _no_space(folder, shown, errno.ENOSPC, f" ({error.message})")
        if _free(folder) < _NEARLY_FULL:
            message = f"{error.message}; {shown} has only {_bytes(_free(folder))} left, which may be why"
            return RunError(message, hint=_MAKE_ROOM, exit_code=error.exit_code)
        return None
    if type(error).__module__ == "sqlite3":
        if "is full" in str(error):
            return _no_space(folder, shown, errno.ENOSPC)
        return RunError(f"cannot write in {shown}: {error}", hint=f"check the disk; {_ELSEWHERE}")
    if not isinstance(error, OSError):
        return None
    if error.errno in _FULL:
        return _no_space(folder, shown, error.errno)
    return None if folder.exists() else _removed(shown)


def _removed(shown: Path) -> RunError:
    return RunError(f"{shown} was removed while it was being written", hint="run the command again")


def _no_space(folder: Path, shown: Path, number: int, cause: str = "") -> RunError:
    written = _bytes(sum(_size(Path(top) / name) for top, _, names in os.walk(folder) for name in names))
    return RunError(
        f"cannot write in {shown}: {_FULL[number]}{cause}; {_bytes(_free(folder))} are free, and the run"
        f" needs more than these and the {written} written so far",
        hint=_MAKE_ROOM,
    )


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def _free(folder: Path) -> int:
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return 0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.lstat().st_size
    return 0
