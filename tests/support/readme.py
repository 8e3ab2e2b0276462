"""The README's console blocks: what is typed, what is shown, and rewriting the latter.

python -m tests.support.readme   runs every command and writes what it printed into README.md
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import TESTS
from tests.support.command import attnprof

README = TESTS.parent / "README.md"
_BLOCK = re.compile(r"```console\n\$ attnprof (?P<command>[^\n]*)\n(?P<output>.*?)```", re.DOTALL)
_CUT = re.compile(r"\nnote |\nSettings that differ")  # what follows says nothing new, or only times
SHORT = ("run", "--max-new-tokens", "64", "-o", "short")
LONG = ("run", "--max-new-tokens", "512")


@dataclass(frozen=True)
class Block:
    """One command and what the README says it prints."""

    command: str
    output: str


def blocks() -> list[Block]:
    """The console blocks in order."""
    return [Block(match["command"], match["output"]) for match in _BLOCK.finditer(README.read_text())]


def output_of(command: str) -> str:
    """What a command prints, run in the repository's folder."""
    before = Path.cwd()
    os.chdir(README.parent)
    try:
        return attnprof(*shlex.split(command)).out
    finally:
        os.chdir(before)


def comparable(output: str) -> list[str]:
    """Lines without what differs between machines: times, the recorder, spacing and rules."""
    lines = []
    for line in output.splitlines():
        if re.match(r"(recorded|note|next)\b", line) or re.fullmatch(r"[─\s]*", line):
            continue
        line = re.sub(r"\d[\d.,]* (ns|µs|ms|s)\b", "TIME", line)
        line = " ".join(line.split())
        lines.append(re.sub(r"^((?:prefill|decode)(?: [\d,]+){3} TIME) [\d.,]+$", r"\1 RATE", line))
    return lines


def rewrite() -> None:
    """Puts today's output into every block."""

    def fresh(match: re.Match[str]) -> str:
        shown = _CUT.split(output_of(match["command"]), maxsplit=1)[0].rstrip() + "\n"
        return f"```console\n$ attnprof {match['command']}\n{shown}```"

    README.write_text(_BLOCK.sub(fresh, README.read_text()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTNPROF_RUNS"] = folder
        assert attnprof(*SHORT).code == attnprof(*LONG).code == 0
        rewrite()
