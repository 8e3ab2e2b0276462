"""Files and values from anybody: pipes, depth, types and sizes that nobody expects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from attnprof.errors import RunError
from attnprof.files.untrusted import open_regular, read_json, require_shape
from attnprof.runs import run_folders
from tests.support.command import attnprof


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="no regular file"):
        open_regular(path)


def test_json_is_made_printable_and_depth_is_an_ordinary_error(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a\\u001b": ["\\ud800"]}')
    assert read_json(path) == {r"a\u001b": [r"\ud800"]}
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(path)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_does_not_have_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(f'{{"a": {name}}}')
    with pytest.raises(ValueError, match=f"{name} is no JSON"):
        read_json(path)


SHAPE = {"name": str, "count": int, "steps": [{"step": int}], "free": {"*": (str, int)}}


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"name": None, "other": []},
        {"count": 3, "steps": [{"step": 1}, {}], "free": {"x": "y", "z": 2**40}},
    ],
)
def test_what_is_missing_unknown_or_null_fits_any_shape(value: Any) -> None:
    require_shape(value, SHAPE, "it")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "it is list of 0, not an object"),
        ({"name": 3}, "it.name is 3"),
        ({"count": True}, "it.count is True"),
        ({"count": 2**31}, "it.count is 2147483648"),
        ({"count": 1.0}, "it.count is 1.0"),
        ({"steps": {}}, "it.steps is dict of 0, not a list"),
        ({"steps": [{}, {"step": "x" * 99}]}, r"it.steps\[1\].step is 'xxx.*…$"),
        ({"steps": [None]}, r"it.steps\[0\] is null"),
        ({"free": {"k": []}}, "it.free.k is list of 0"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        require_shape(value, SHAPE, "it")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            '{"schema": 1, "status": "complete", "workload": {"versions": []}}',
            "workload.versions is list of 0",
        ),
        ('{"schema": 1, "status": "complete", "capture": {"notes": [1]}}', r"capture.notes\[0\] is 1"),
        ('{"schema": 0, "status": "complete"}', "there is no schema 0"),
        ('{"schema": 1}', "it has no status"),
        ("[1]", "it holds no object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_run_json_is_one_error_and_one_line_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str
) -> None:
    folder = tmp_path / "attnprof-runs" / "it"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(content)
    with pytest.raises(RunError, match=says):
        run_folders.read_run(folder)
    listed = attnprof("runs")
    assert (listed.code, "unreadable" in listed.out) == (0, True)


def test_a_run_whose_json_is_a_pipe_is_listed_as_unreadable(tmp_path: Path) -> None:
    folder = tmp_path / "attnprof-runs" / "it"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "run.json")
    assert "unreadable" in attnprof("runs").out


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "1" * 5_000, "\\ud800", '{"batch": 1' + "0" * 30 + "}", '{"version": {}}']
)
def test_a_call_that_is_none_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("\n" + line)
    done = attnprof("predict", "--calls", str(path), "--gpu", "h100")
    assert (done.code, f"{path}:2: " in done.err) == (2, True)


def test_a_line_without_end_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    done = attnprof("predict", "--calls", "/dev/zero", "--gpu", "h100")
    assert (done.code, done.err.startswith("error: /dev/zero:1: a line of more than")) == (2, True)
