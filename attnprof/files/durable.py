"""What outlives a power cut, a killed process and a signal: syncs, a swap of two names, signals that wait."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AT_FDCWD, _RENAME_NOREPLACE, _RENAME_EXCHANGE = -100, 1, 2  # Linux: fcntl.h, linux/fs.h


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
    return _renameat2(one, other, _RENAME_EXCHANGE) == 0


def rename_to_free_name(one: Path, other: Path) -> None:
    """Renames; raises FileExistsError where there is something of that name, a link or a folder too."""
    number = _renameat2(one, other, _RENAME_NOREPLACE)
    if number in (errno.ENOSYS, errno.EINVAL):  # the file system cannot: what stands there is looked at
        if os.path.lexists(other):
            number = errno.EEXIST
        else:
            one.rename(other)
            return
    if number:
        raise OSError(number, os.strerror(number), str(other))


def _renameat2(one: Path, other: Path, flag: int) -> int:
    """0, or the number of the error."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return errno.ENOSYS
    done: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flag)
    return ctypes.get_errno() if done else 0


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
