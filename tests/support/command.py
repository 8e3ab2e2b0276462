"""Running attnprof's command line inside the test process."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from attnprof import cli


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


def attnprof(*arguments: str) -> Done:
    """``attnprof ARGUMENTS`` as a shell would run it, without a terminal."""
    return run_with(io.StringIO(), io.StringIO(), *arguments)


def run_with(out: io.StringIO, err: io.StringIO, *arguments: str) -> Done:
    """The same with these streams."""
    with (
        mock.patch.object(sys, "argv", ["attnprof", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return Done(code, out.getvalue(), err.getvalue())
