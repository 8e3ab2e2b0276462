"""Findings as a terminal shows them, and as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from attnprof.doctor.finding import Finding, Level
from attnprof.report.console import BOLD, GREEN, RED, YELLOW, Console
from attnprof.report.tables import Column, Table

_INDENT = 20  # level, what was looked at
_STYLES = {Level.OK: (GREEN,), Level.WARN: (YELLOW,), Level.FAIL: (BOLD, RED)}


def print_finding(finding: Finding, console: Console) -> None:
    """One finding, and how to mend it, wrapped under its text."""
    lines = [finding.found, *([f"fix: {finding.fix}"] if finding.fix else [])]
    width = console.width - _INDENT
    wrapped = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ") or [""]]
    level = console.styled(f"{finding.level.value:<6}", *_STYLES[finding.level])
    console.out(f"{level}{finding.what:<{_INDENT - 6}}{wrapped[0]}")
    for line in wrapped[1:]:
        console.out(" " * _INDENT + line)


def verdict(findings: Sequence[Finding]) -> str:
    """One line on all of them."""
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    warnings = f"{count[Level.WARN]} warning{'' if count[Level.WARN] == 1 else 's'}"
    if count[Level.FAIL]:
        failures = f"{count[Level.FAIL]} failure{'' if count[Level.FAIL] == 1 else 's'}"
        return f"NOT usable as it is: {failures}, {warnings}"
    return f"usable, {warnings}" if count[Level.WARN] else "usable, nothing to mend"


def findings_table(findings: Sequence[Finding]) -> Table:
    """A row per finding."""
    columns = (Column("level"), Column("what"), Column("found"), Column("fix"))
    return Table("doctor", columns, [(f.level.value, f.what, f.found, f.fix) for f in findings])
