"""stdin, stdout and stderr of a command: closed ones opened, full ones given up, in one line."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any


def open_all() -> None:
    """Of 0, 1 and 2 none stays closed: the next file that is opened would take its place, and our words.

    What is written to a stdout that was closed is an error; a closed stderr swallows it.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)  # the lowest that is free, which is this one
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


class ReaderGoneError(Exception):
    """Who read our output went away. No OSError: libraries take one of these for theirs to answer."""


def drop(stream: Any) -> None:
    """What is still to be written to a stream goes nowhere; Python would try again at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say(line: str) -> None:
    """One line on stderr, if there is anybody to read it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        drop(sys.stderr)


# Of a library that handles a failed allocation badly, Python says SystemError.
OF_THE_SYSTEM = (OSError, ImportError, MemoryError, SystemError)


def why_not(error: Exception) -> str:
    """An error of the system, or of an installation, in one line."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, ImportError):
        return f"a library cannot be loaded: {error}"
    if isinstance(error, SystemError):
        return f"Python, or a library's own code, broke off, as where memory runs out: {error}"
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    if error.filename is None:
        return f"{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"cannot write {os.fsdecode(error.filename)}: {error.strerror}"
    return f"{os.fsdecode(error.filename)}: {error.strerror}"
