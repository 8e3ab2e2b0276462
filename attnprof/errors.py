"""The one error type that reaches a user, and its few children."""

from __future__ import annotations

from attnprof.safety.printable import printable

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_CANNOT_TELL = 3

_LONGEST = 2000  # characters of a message


class AttnprofError(Exception):
    """An expected failure: what and where (``message``, one line), what to do (``hint``), the exit code."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, *, hint: str = "", exit_code: int | None = None) -> None:
        told = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
        self.message = printable(told.replace("\n", " "))  # it may quote a file, or a library with lines
        super().__init__(self.message)
        self.hint = printable(hint)
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(AttnprofError):
    """The command line or an argument is wrong."""


class ConfigError(UsageError):
    """A configuration file is wrong."""


class TraceError(AttnprofError):
    """A trace cannot be read: missing, empty, truncated, or another format."""


class RunError(AttnprofError):
    """A run folder is missing, incomplete, in the way, or from another version."""


class CaptureError(AttnprofError):
    """A recorder did not leave a usable trace."""


class CannotTellError(AttnprofError):
    """The trace lacks what the question needs."""

    exit_code = EXIT_CANNOT_TELL
