"""The page of what was run, the verdict of a release, and the constraints file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.compat import constraints, matrix
from tests.compat.environments import ENVIRONMENTS
from tests.compat.matrix import Result

GOOD = Result(
    "constrained", "2026-01-02", "3.11", 20, 1, 60, {"torch": "2.15.0"}, ["click==8.5.1", "torch==2.15.0"]
)
BAD = replace(GOOD, name="newest", failures=[("test_a", "assert 1 == 2")], installed=["click==9.0"])


def keep(monkeypatch: pytest.MonkeyPatch, *results: Result) -> None:
    by_name = {result.name: result for result in results}
    monkeypatch.setattr(matrix, "load", by_name.get)


def test_the_page_has_a_row_for_each_environment_and_each_was_run_on_a_day() -> None:
    rows = matrix.rows_of(matrix.PAGE.read_text(encoding="utf-8"))
    assert [name for name in rows if name != "environment"] == [one.name for one in ENVIRONMENTS]
    for name in ("lowest", "constrained", "newest", "reading"):
        assert "| passed | 20" in rows[name]


def test_a_failure_of_the_newest_alone_is_told_and_stops_nothing(monkeypatch, capsys) -> None:
    keep(monkeypatch, GOOD, BAD)
    assert matrix.verdict(["constrained", "newest"]) == 0
    said = capsys.readouterr().out
    assert "== The newest versions of everything fail" in said
    assert "test_a: assert 1 == 2" in said
    assert "changed upstream: click 8.5.1 -> 9.0" in said


def test_a_failure_of_what_is_released_stops_it_and_so_does_an_environment_that_was_not_built(
    monkeypatch, capsys
) -> None:
    keep(monkeypatch, replace(BAD, name="constrained"), replace(GOOD, name="newest"))
    assert matrix.verdict(["constrained", "newest"]) == 1
    assert matrix.verdict(["newest", "lowest"]) == 1
    assert "lowest: was not run" in capsys.readouterr().out


def test_rows_that_were_not_run_again_stay_and_failures_are_listed(monkeypatch) -> None:
    keep(monkeypatch, GOOD)
    monkeypatch.setattr(matrix, "has_python", lambda version: version != "3.14")
    results = {"constrained": GOOD, "newest": BAD}
    text = matrix.page([results.get(one.name) for one in ENVIRONMENTS], {"lowest": "| lowest | as before |"})
    assert "| lowest | as before |" in text
    assert "| newest | 1 of 21 failed | 2026-01-02 | 3.11 | 2.15.0 | none |" in text
    assert "## What fails under newest\n\n- `test_a`: assert 1 == 2\n" in text
    assert "unlike the constrained one: click 8.5.1 -> 9.0." in text
    assert "| Python 3.14 | not run: no Python 3.14 on the machine |" in text
    assert "| Python 3.12 | not run |" in text


def test_the_constraints_leave_a_torch_that_is_there_and_name_no_host() -> None:
    text = constraints.TARGET.read_text(encoding="utf-8")
    assert "://" not in text
    assert "index-url" not in text
    lines = text.splitlines()
    assert any(line.startswith("torch<=") for line in lines)
    assert not [line for line in lines if line.startswith(("torch==", "nvidia-", "triton", "cuda-", "pip=="))]
    resolved = ["torch==2.15.0 ; python_full_version >= '3.11'", "nvidia-nvtx==13.0", "numpy==2.0"]
    assert constraints.kept(resolved) == ["torch<=2.15.0 ; python_full_version >= '3.11'", "numpy==2.0"]


def test_the_command_of_the_readme_is_the_one_that_is_constrained() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert readme.count("pip install -c constraints.txt '.[") == 2
