"""The documentation: made from the code where it can be, else typed in and compared."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.commands import explain, report, sweep
from attnprof.errors import EXIT_CANNOT_TELL, EXIT_CHECK_FAILED, EXIT_OK, EXIT_USAGE
from docs.build import TARGET, page
from tests.support.command import attnprof
from tests.support.generated_run import calls_only_run

ROOT = Path(__file__).resolve().parents[2]
H100_TRACE = "tests/data/traces/torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
_TIME = re.compile(r"\d+(\.\d+)? (ns|µs|ms|s)\b")


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """(command, lines shown) of each console block."""
    found = re.findall(r"^```console\n\$ (.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    return [(command, shown.splitlines()) for command, shown in found]


def same(line: str) -> str:
    """A line less what differs from run to run: times, and the spaces that follow from them."""
    return " ".join(_TIME.sub("TIME", line).split())


def test_the_commands_page_is_current():
    assert TARGET.read_text(encoding="utf-8") == page(), "run: python docs/build.py"


@pytest.mark.parametrize("command", [report.report, sweep.sweep, explain.explain])
def test_the_commands_page_has_each_commands_examples(command):
    examples = [
        line.strip() for line in command.__doc__.partition("Examples:")[2].splitlines() if line.strip()
    ]
    assert examples
    assert set(examples) <= set(page().splitlines())


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (EXIT_OK, ("predict", "--seqlen-k", "4096")),
        (EXIT_CHECK_FAILED, ("check", str(ROOT / H100_TRACE), "--expect", "splitkv")),
        (EXIT_USAGE, ("predict", "--gpu", "h9000", "--seqlen-k", "1")),
        (EXIT_CANNOT_TELL, ("check", "without-a-gpu")),
    ],
)
def test_the_examples_of_the_exit_codes_end_with_them(code, arguments):
    calls_only_run("without-a-gpu", range(100, 102))
    assert attnprof(*arguments).code == code
    assert f"\n| {code} |" in (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")


def test_the_tutorial_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTNPROF_RUNS")
    monkeypatch.chdir(tmp_path)
    for name in ("tests", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = blocks(TUTORIAL)
    assert len(commands) == TUTORIAL.count("```console")
    for command, shown in commands:
        program, *arguments = shlex.split(command)
        assert program == "attnprof"
        if arguments[0] == "run":
            arguments[1:1] = ["--capture", "none"]  # the trace of a run without a GPU adds times alone
        done = subprocess.run(
            [sys.executable, "-c", "from attnprof.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed = iter(map(same, (done.stdout + done.stderr).splitlines()))
        for line in shown:
            # "in" takes the iterator forward: the lines must come in this order.
            assert line == "…" or same(line) in printed, f"{command} does not print: {line}"


def test_links_between_the_pages_lead_somewhere():
    for page_of_docs in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page_of_docs.read_text(encoding="utf-8")):
            assert (page_of_docs.parent / link).exists(), f"{page_of_docs.name}: {link}"
