"""The gates of a comparison for continuous integration: JUnit's XML and GitHub's annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from attnprof.report.diff import Gate, dispatch_sentences, to_document
from attnprof.safety.printable import printable
from attnprof.safety.redact import redact

if TYPE_CHECKING:
    from attnprof.analysis.diff import Comparison

_LEVELS = {True: "notice", False: "error", None: "warning"}


def to_junit(comparison: Comparison, gates: Sequence[Gate]) -> str:
    """A test suite with a case per gate: failed, or an error where the runs cannot tell."""
    failures = sum(gate.passed is False for gate in gates)
    errors = sum(gate.passed is None for gate in gates)
    name = quoteattr(_text(f"attnprof diff: {comparison.b} against {comparison.a}"))
    said = escape(_text("\n".join(f"{label}: {one}" for label, one in dispatch_sentences(comparison))))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name={name} tests="{len(gates)}" failures="{failures}" errors="{errors}" skipped="0">',
    ]
    for gate in gates:
        why = quoteattr(_text(gate.why))
        lines.append(f'  <testcase classname="attnprof" name={quoteattr(f"gate {gate.name}")}>')
        if gate.passed is False:
            lines.append(f'    <failure type="gate" message={why}>{said}</failure>')
        elif gate.passed is None:
            lines.append(f'    <error type="cannot tell" message={why}>{said}</error>')
        else:
            lines.append(f"    <system-out>{escape(_text(gate.why))}</system-out>")
        lines.append("  </testcase>")
    return "\n".join([*lines, "</testsuite>", ""])


def to_github(comparison: Comparison, gates: Sequence[Gate]) -> str:
    """A workflow command per gate, which GitHub shows as an annotation, then the comparison in Markdown."""
    lines = [
        f"::{_LEVELS[gate.passed]} title=attnprof gate {gate.name}::{_command(_text(gate.why))}"
        for gate in gates
    ]
    return "\n".join([*lines, to_document(comparison, gates)])


def _text(text: str) -> str:
    return "\n".join(printable(redact(line)) for line in text.split("\n"))


def _command(text: str) -> str:
    """As a workflow command takes it: no line of it begins another."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
