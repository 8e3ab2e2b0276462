"""Baselines by name, and the gates of a comparison in JUnit's and GitHub's forms."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from attnprof.runs.run_folders import runs_root
from tests.support.command import attnprof
from tests.support.generated_run import calls_only_run


@pytest.fixture
def runs() -> None:
    calls_only_run("before", range(120, 124))
    calls_only_run("same", range(120, 124))
    calls_only_run("after", range(127, 131))  # from 129 keys on in two splits


def test_a_baseline_stands_for_a_run(runs: None) -> None:
    done = attnprof("baseline", "set", "main", "before")
    assert done.code == 0
    assert "main is before" in done.out
    assert "attnprof diff NEW_RUN --against main" in done.out
    assert attnprof("diff", "--against", "main", "same", "--gate-dispatch").code == 0
    assert attnprof("diff", "--against", "main", "after", "--gate-dispatch").code == 1
    newest = attnprof("diff", "--against", "main", "--format", "json")
    assert json.loads(newest.out)["a"] == "before"
    assert json.loads(newest.out)["b"] == "after"


def test_a_name_can_be_moved_listed_and_removed(runs: None) -> None:
    attnprof("baseline", "set", "main", "before")
    attnprof("baseline", "set", "main", "after")
    listed = json.loads(attnprof("baseline", "list", "--format", "json").out)
    assert [(one["name"], one["run"]) for one in listed] == [("main", "after")]
    assert attnprof("baseline", "remove", "main").code == 0
    assert "no baselines" in attnprof("baseline", "list").out
    done = attnprof("diff", "--against", "main")
    assert done.code == 2
    assert "no baseline called main" in done.err
    assert attnprof("report", "after").code == 0


def test_a_trace_is_kept_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.hybrid_trace import full, hybrid_trace

    hybrid_trace(tmp_path / "t.json", [full])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTNPROF_RUNS", str(tmp_path / "runs"))
    assert attnprof("baseline", "set", "trace", "t.json").code == 0
    found = json.loads((tmp_path / "runs" / "baselines.json").read_text())
    assert found["baselines"]["trace"]["run"] == str(tmp_path / "t.json")
    assert attnprof("runs").code == 0


@pytest.mark.parametrize("name", ["", "../x", "a b", "-x", "x" * 65])
def test_a_name_that_is_no_name_is_refused(runs: None, name: str) -> None:
    done = attnprof("baseline", "set", "--", name, "before")
    assert done.code == 2
    assert not (runs_root() / "baselines.json").exists()


def test_a_baseline_of_no_run_is_not_set(runs: None) -> None:
    assert attnprof("baseline", "set", "main", "nowhere").code != 0
    assert not (runs_root() / "baselines.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"baselines": 3}', ""])
def test_a_damaged_file_of_baselines_is_an_error(runs: None, content: str) -> None:
    (runs_root() / "baselines.json").write_text(content)
    done = attnprof("diff", "--against", "main")
    assert done.code == 2
    assert "baselines.json" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [("set",), ("list", "main"), ("remove",), ("remove", "main", "before")])
def test_what_a_baseline_command_takes(arguments: tuple[str, ...]) -> None:
    assert attnprof("baseline", *arguments).code == 2


def test_junit_has_a_case_per_gate(runs: None) -> None:
    done = attnprof("diff", "before", "after", "--gate-dispatch", "--gate", "5", "--format", "junit")
    suite = ElementTree.fromstring(done.out)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")
    cases = {case.get("name"): case for case in suite}
    failure = cases["gate dispatch"].find("failure")
    assert failure is not None
    assert failure.get("message") == "4 calls differ"
    assert "DIFFERS" in (failure.text or "")
    assert cases["gate time"].find("error") is not None
    assert done.code == 1
    passed = ElementTree.fromstring(
        attnprof("diff", "before", "same", "--gate-dispatch", "--format", "junit").out
    )
    assert passed.get("failures") == "0"
    assert passed[0].find("failure") is None


def test_github_has_an_annotation_per_gate_and_the_comparison(runs: None) -> None:
    done = attnprof("diff", "before", "after", "--gate-dispatch", "--format", "github")
    assert done.out.splitlines()[0] == "::error title=attnprof gate dispatch::4 calls differ"
    assert "# attnprof diff" in done.out
    assert attnprof("diff", "before", "same", "--gate-dispatch", "--format", "github").out.startswith(
        "::notice "
    )


def test_these_forms_need_a_gate_and_a_comparison_two_runs(runs: None) -> None:
    assert attnprof("diff", "before", "after", "--format", "junit").code == 2
    assert attnprof("diff", "before").code == 2
    attnprof("baseline", "set", "main", "before")
    assert attnprof("diff", "before", "after", "--against", "main").code == 2
