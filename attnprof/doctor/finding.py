"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from attnprof.errors import EXIT_CHECK_FAILED, EXIT_OK


class Level(str, Enum):
    """OK; WARN: works, less well than it could; FAIL: what is asked of it will not work, or not be true."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """``what`` was looked at, ``found`` is what is there, ``fix`` what to do about it ("" where it is OK)."""

    level: Level
    what: str
    found: str
    fix: str = ""


def ok(what: str, found: str) -> Finding:
    return Finding(Level.OK, what, found)


def warn(what: str, found: str, fix: str) -> Finding:
    return Finding(Level.WARN, what, found, fix)


def fail(what: str, found: str, fix: str) -> Finding:
    return Finding(Level.FAIL, what, found, fix)


def exit_code(findings: Iterable[Finding], *, strict: bool) -> int:
    """1 where something fails, or under ``strict`` where something is worth a warning."""
    bad = {Level.FAIL, Level.WARN} if strict else {Level.FAIL}
    return EXIT_CHECK_FAILED if any(finding.level in bad for finding in findings) else EXIT_OK
