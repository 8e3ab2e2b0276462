"""What came of each environment, and docs/compatibility.md, which is made of it alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from tests.compat.environments import ENVIRONMENTS, Environment

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = ROOT / ".nox" / "compat"
SHOWN = ("torch", "transformers", "numpy", "pandas", "matplotlib", "typer", "click", "rich", "sqlite-utils")
_HEAD = """# Compatibility

Made by `nox`, which builds each environment and runs `tests/compat` in it: real programs, recorded and read
again. A row is what was seen on its day; one that could not be run says why. Versions between two rows were
not run.

"""


@dataclass(frozen=True)
class Result:
    """Of one environment. ``versions`` of SHOWN that are installed; ``failures`` are (test, first line)."""

    name: str
    day: str
    python: str
    passed: int
    skipped: int
    seconds: int
    versions: dict[str, str]
    installed: list[str]
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        return (
            f"{len(self.failures)} of {self.passed + len(self.failures)} failed"
            if self.failures
            else "passed"
        )


def report_path(name: str) -> Path:
    """Where pytest's report of an environment goes; an older one is removed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name.replace(' ', '-')}.xml"
    path.unlink(missing_ok=True)
    return path


def record(environment: Environment, freeze: str, report: Path, *, seconds: float) -> int:
    """Keeps the result of one environment; returns how many tests failed."""
    cases = list(ET.parse(report).iter("testcase"))
    failures = [(case.get("name", "?"), first_line(bad)) for case in cases for bad in case if is_failure(bad)]
    skipped = sum(case.find("skipped") is not None for case in cases)
    installed = [line for line in freeze.splitlines() if "==" in line]
    versions = dict(line.split("==", 1) for line in installed)
    result = Result(
        environment.name,
        date.today().isoformat(),
        environment.python,
        len(cases) - skipped - len({name for name, _ in failures}),
        skipped,
        round(seconds),
        {name: versions[name] for name in SHOWN if name in versions},
        sorted(installed),
        failures,
    )
    report.with_suffix(".json").write_text(json.dumps(asdict(result)))
    return len(failures)


def is_failure(element: ET.Element) -> bool:
    return element.tag in ("failure", "error")


def first_line(failure: ET.Element) -> str:
    """What a failure says, in one line."""
    return next(iter((failure.get("message") or failure.text or "?").splitlines()), "?")[:200]


def load(name: str) -> Result | None:
    """The kept result of an environment; None where it was not run."""
    path = RESULTS / f"{name.replace(' ', '-')}.json"
    return Result(**json.loads(path.read_text())) if path.exists() else None


def write_page() -> None:
    """Writes the page. A row of an environment that was not run here stays as it was."""
    before = rows_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    PAGE.write_text(page([load(one.name) for one in ENVIRONMENTS], before), encoding="utf-8")


def rows_of(text: str) -> dict[str, str]:
    """The rows of a page by their environment."""
    return {match[1]: match[0] for match in re.finditer(r"^\| ([^|]+?) \| .*\|$", text, re.MULTILINE)}


def page(results: Iterable[Result | None], before: dict[str, str]) -> str:
    """The text of docs/compatibility.md."""
    titles = ("environment", "result", "day", "Python", *SHOWN)
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    failing = list[Result]()
    for environment, result in zip(ENVIRONMENTS, results, strict=True):
        if result is None:
            there = has_python(environment.python)
            why = "not run" if there else f"not run: no Python {environment.python} on the machine"
            unknown = [environment.name, why, "", environment.python, *[""] * len(SHOWN)]
            lines.append(before.get(environment.name, f"| {' | '.join(unknown)} |"))
            continue
        versions = [result.versions.get(name, "none") for name in SHOWN]
        lines.append(f"| {' | '.join([result.name, result.outcome, result.day, result.python, *versions])} |")
        failing += [result] if result.failures else []
    parts = [_HEAD, "\n".join(lines), "\n"]
    for result in failing:
        parts.append(f"\n## What fails under {result.name}\n\n")
        parts += [f"- `{test}`: {line}\n" for test, line in result.failures]
        if result.name == "newest" and (constrained := load("constrained")):
            parts.append(
                f"\nIt has, unlike the constrained one: {', '.join(differences(constrained, result))}.\n"
            )
    return "".join(parts)


def has_python(version: str) -> bool:
    """Whether uv finds an interpreter of this version; it is not asked to fetch one."""
    command = ["uv", "python", "find", "--no-python-downloads", version]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def differences(old: Result, new: Result) -> list[str]:
    """What another version of a package is installed of, as "name old -> new"."""
    before, after = (dict(line.split("==", 1) for line in one.installed) for one in (old, new))
    return [
        f"{name} {before.get(name, 'none')} -> {after[name]}"
        for name in after
        if before.get(name) != after[name]
    ]


def verdict(names: Iterable[str]) -> int:
    """Prints what came of these environments; 1 where one failed that a release must pass.

    A failure of the newest alone stops nothing: what changed upstream is printed under a heading of its own.
    """
    results = {name: load(name) for name in names}
    code = 0
    for name, result in results.items():
        if result is None:
            print(f"{name}: was not run")
            code = 1
        elif name != "newest":
            print(f"{name}: {result.outcome} ({result.passed} tests, {result.seconds} s)")
            code |= bool(result.failures)
    newest, constrained = results.get("newest"), results.get("constrained")
    if newest is not None and newest.failures:
        print("\n== The newest versions of everything fail; the constrained ones are what is released")
        print("\n".join(f"{test}: {line}" for test, line in newest.failures))
        if constrained is not None:
            print(
                "changed upstream:", ", ".join(differences(constrained, newest)) or "nothing that is pinned"
            )
    elif newest is not None:
        print(f"newest: {newest.outcome} ({newest.passed} tests, {newest.seconds} s)")
    return code


if __name__ == "__main__":
    sys.exit(verdict(sys.argv[1:]))
