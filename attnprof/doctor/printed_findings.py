"""Findings as a terminal shows them, and as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnprof.doctor.finding import Finding, Level
from attnprof.report.tables import Column, Table

if TYPE_CHECKING:
    from rich.console import Console

_INDENT = 20  # level, what was looked at
_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def print_finding(finding: Finding, console: Console) -> None:
    """One finding, and how to mend it, wrapped under its text."""
    from rich.text import Text

    lines = [finding.found, *([f"fix: {finding.fix}"] if finding.fix else [])]
    width = console.width - _INDENT
    wrapped = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ") or [""]]
    head = Text(f"{finding.level.value:<6}", style=_STYLES[finding.level])
    head.append(f"{finding.what:<{_INDENT - 6}}", style="not bold default").append(
        wrapped[0], style="not bold default"
    )
    console.print(head, overflow="ignore", no_wrap=True)
    for line in wrapped[1:]:
        console.print(Text(" " * _INDENT + line), overflow="ignore", no_wrap=True)


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
