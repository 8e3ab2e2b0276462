"""The lock of a run folder and of the folder of runs: who makes, names or removes a run holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attnprof.errors import RunError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL}


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
def held(folder: Path, operation: int = fcntl.LOCK_EX, *, wait_s: float = 30.0) -> Iterator[None]:
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
