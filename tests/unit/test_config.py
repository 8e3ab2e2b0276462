"""Defaults from files and variables: what beats what, and what is said of a wrong one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.machine.configuration import default_map, setting
from attnprof.machine.find_nsys import find_nsys
from attnprof.runs import run_folders
from tests.support.command import attnprof

PREDICT = ("predict", "--seqlen-k", "4096", "--format", "json")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ATTNPROF_RUNS")
    return tmp_path


def predicted(*arguments: str) -> str:
    done = attnprof("predict", "--seqlen-k", "4096", *arguments)
    assert done.code == 0, done.err
    return done.out


def test_a_flag_beats_a_variable_and_a_variable_beats_the_file(folder, monkeypatch):
    (folder / "pyproject.toml").write_text('[tool.attnprof]\ngpu = "a100"\n')
    assert "A100-SXM4-80GB" in predicted()
    monkeypatch.setenv("ATTNPROF_GPU", "h200")
    assert "H200" in predicted()
    assert "RTX 4090" in predicted("--gpu", "4090")


def test_attnprof_toml_beats_pyproject_toml(folder):
    (folder / "pyproject.toml").write_text('[tool.attnprof]\ngpu = "a100"\n')
    (folder / "attnprof.toml").write_text('version = "2.5.6"\n')
    assert setting("gpu") is None
    assert "flash_attn 2.5.6" in predicted()


def test_a_pyproject_of_somebody_else_says_nothing(folder):
    (folder / "pyproject.toml").write_text('[project]\nname = "theirs"\n[tool.ruff]\nline-length = 80\n')
    assert setting("gpu") is None


def test_runs_and_nsys_are_found_where_the_file_says(folder):
    tool = folder / "my-nsys"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (folder / "attnprof.toml").write_text(f'runs = "elsewhere"\nnsys = "{tool}"\n')
    assert run_folders.runs_root() == Path("elsewhere")
    assert find_nsys() == tool


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("attnprof.toml", "gpus = 'a100'", "attnprof.toml: gpus is no option"),
        (
            "pyproject.toml",
            "[tool.attnprof]\ngpu = 5",
            "pyproject.toml: tool.attnprof.gpu must be a text, not 5",
        ),
        ("pyproject.toml", "[tool]\nattnprof = 5", "pyproject.toml: tool.attnprof is no table"),
        ("attnprof.toml", "gpu = ", "attnprof.toml cannot be read as TOML"),
        ("attnprof.toml", "gpu = " + "[" * 5_000, "attnprof.toml is nested too deeply"),
        ("attnprof.toml", 'gpu = "\\u001b[2J"', r"unknown GPU '\x1b[2J'"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(folder, name, text, message):
    (folder / name).write_text(text)
    done = attnprof(*PREDICT)
    assert done.code == 2
    assert message in done.err
    assert attnprof("predict", "--help").code == 0


def test_a_wrong_value_is_traced_to_where_it_was_set(folder, monkeypatch):
    (folder / "attnprof.toml").write_text('gpu = "h9000"\n')
    done = attnprof(*PREDICT)
    assert done.code == 2
    assert "set by attnprof.toml: gpu" in done.err
    monkeypatch.setenv("ATTNPROF_GPU", "h9001")
    assert "set by ATTNPROF_GPU" in attnprof(*PREDICT).err
    assert "set by" not in attnprof(*PREDICT, "--gpu", "h9002").err


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["predict"], {"gpu", "library", "version"}),
        (["predict", "--sms", "132", "--sm=9.0"], {"library", "version"}),
        (["predict", "--library=torch"], {"gpu"}),
        (["run", "--", "program", "--gpu"], {"gpu"}),
        (["check", "trace.sqlite"], set()),
        (["report"], set()),
    ],
)
def test_a_default_overrules_neither_a_flag_nor_what_was_observed(folder, arguments, keys):
    (folder / "attnprof.toml").write_text('gpu = "a100"\nlibrary = "flash_attn"\nversion = "2.7.4"\n')
    assert {key for options in default_map(arguments).values() for key in options} == keys


def test_help_needs_no_library(folder):
    heavy = ("torch", "numpy", "pandas", "matplotlib", "transformers")
    program = (
        "import sys\nfrom attnprof.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"sys.exit(','.join(name for name in {heavy} if name in sys.modules) or 0)"
    )
    for arguments in (("--help",), ("run", "--help"), ("--version",)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def written(*, terminal: bool, **environment: str) -> str:
    """What ``attnprof predict`` writes with these variables, to a pipe or a terminal."""
    known = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    command = [sys.executable, "-c", "from attnprof.cli import main; main()", "predict", "--seqlen-k", "512"]
    env = known | {"TERM": "xterm-256color"} | environment
    if not terminal:
        return subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, env=env) as process:
        os.close(theirs)
        found = b""
        try:
            while chunk := os.read(ours, 65536):
                found += chunk
        except OSError:  # the end of a pseudo-terminal
            pass
        process.wait()
    os.close(ours)
    return found.decode()


def test_a_pipe_is_plain_even_where_jupyter_forces_colour():
    assert "\x1b" not in written(terminal=False, FORCE_COLOR="1")


def test_a_terminal_has_colour_unless_no_color_is_set():
    assert "\x1b[" in written(terminal=True)
    coloured = written(terminal=True, NO_COLOR="1")
    assert "\x1b[3" not in coloured


def test_predict_as_json_is_json():
    assert json.loads(attnprof(*PREDICT).out)
