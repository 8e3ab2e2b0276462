"""What a full disk, or a run folder that goes away, means to who is writing in it."""

from __future__ import annotations

import errno
import os
import shutil
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
