"""Values of options that are converted without typer's pydantic are what typer makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from attnprof import cli
from attnprof.commands.deferred import Deferred
from attnprof.commands.plain_values import NOT_PLAIN, plain_value, take_plain_values

ASKS_PYDANTIC = hasattr(typer.core.TyperOption, "get_runtime_param")
needs_pydantic = pytest.mark.skipif(not ASKS_PYDANTIC, reason="this typer converts values itself")


class Form(str, Enum):
    TABLE = "table"
    JSON = "json"


def command(
    text: Annotated[str, typer.Option()] = "x",
    count: Annotated[int, typer.Option(min=0, max=1000)] = 1,
    whole: Annotated[int | None, typer.Option()] = None,
    share: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.5,
    form: Annotated[Form, typer.Option()] = Form.TABLE,
    path: Annotated[Path | None, typer.Option()] = None,
    there: Annotated[Path | None, typer.Option(exists=True)] = None,
    many: Annotated[list[str] | None, typer.Option()] = None,
    flag: Annotated[bool, typer.Option("--flag/--no-flag")] = True,
) -> None: ...


APP = typer.Typer(add_completion=False)
APP.command()(command)
COMMAND: Any = typer.main.get_command(APP)
CONTEXT = typer.Context(COMMAND)
PARAMETERS = {param.name: param for param in COMMAND.params}
ODD = ["0", "-0", "-1", "007", "1000", "1001", "1.0", "1.", ".5", "0.5", "1e3", "1_0", " 1", "1 ", "٣", "inf"]
TEXTS = st.one_of(
    st.sampled_from([*ODD, "nan", "table", "TABLE", "json", "", "-", "/", "/etc", "a\0b", "9" * 30]),
    st.integers(-10_000, 10_000).map(str),
    st.floats(-2, 2).map(lambda value: f"{value:.3f}"),
    st.text(max_size=6),
)


@needs_pydantic
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(PARAMETERS)), TEXTS)
def test_a_plain_value_is_what_typer_makes_of_it(name: str, text: str) -> None:
    param = PARAMETERS[name]
    plain = plain_value(param, text)
    if plain is NOT_PLAIN:
        return
    made = param.process_value(CONTEXT, text)
    assert (made, type(made)) == (plain, type(plain))


@needs_pydantic
def test_what_is_plain_is_most_of_what_people_give() -> None:
    usual = {"text": "h100", "count": "8", "whole": "-1", "share": "0.25", "form": "json", "path": "a.png"}
    assert all(plain_value(PARAMETERS[name], value) is not NOT_PLAIN for name, value in usual.items())
    assert all(plain_value(PARAMETERS[name], None) is None for name in ("whole", "path", "there"))
    unusual = {"count": "1001", "there": "a", "many": None, "form": "TABLE", "share": "1e3"}
    assert all(plain_value(PARAMETERS[name], value) is NOT_PLAIN for name, value in unusual.items())


@needs_pydantic
def test_a_file_that_cannot_be_read_is_typers_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (closed := tmp_path / "closed").touch()
    assert plain_value(PARAMETERS["path"], str(closed)) == closed
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)  # root may read every file
    assert plain_value(PARAMETERS["path"], str(closed)) is NOT_PLAIN


def test_a_typer_that_converts_by_itself_is_left_alone() -> None:
    class Own:
        process_value = None

    own = Own()
    assert take_plain_values([own]) == [own]
    assert vars(own) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--seqlen-k", "abc"], "--seqlen-k"),
        (["predict", "--seqlen-k", "4096", "--batch", "0"], "--batch"),
        (["predict", "--seqlen-k", "4096", "--format", "jso"], "jso"),
        (["nosuch"], "nosuch"),
        (["predic"], "predict"),
    ],
)
def test_a_wrong_value_is_refused_as_before(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert said in done.output


def imported(*arguments: str) -> set[str]:
    """The top-level modules, and attnprof's rooms, that a command imports whose output goes to a pipe."""
    program = (
        "import sys, json\nfrom attnprof.cli import main\nsys.argv = ['attnprof', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as ending:\n    assert not ending.code, ending.code\n"
        "print(json.dumps(list(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["explain", "--seqlen-k", "4096", "--batch", "8", "--gpu", "h100"],
        ["predict", "--seqlen-k", "4096", "--batch", "8", "--gpu", "h100"],
        ["predict", "--seqlen-k", "4096", "--format", "json"],
        ["gpus"],
    ],
    ids=" ".join,
)
def test_a_small_command_imports_nothing_large(arguments: list[str], tmp_path: Path) -> None:
    modules = imported(*arguments)
    large = {"pydantic", "numpy", "rich", "sqlite3", "importlib.metadata", "torch", "pandas", "matplotlib"}
    assert sorted(large & modules) == []
    commands = {name for name in modules if name.startswith("attnprof.commands.")}
    others = {f"attnprof.commands.{each.place.partition(':')[0]}" for each in cli.COMMANDS.values()}
    assert len(commands & others) == (arguments[0] in cli.COMMANDS)


def test_every_command_is_found_where_the_table_says() -> None:
    for name, each in cli.COMMANDS.items():
        assert isinstance(each, Deferred)
        assert each.built(name).name == name
        assert callable(each.function())


def test_the_help_of_all_is_what_each_says_of_itself() -> None:
    listed = CliRunner().invoke(cli.app, ["--help"]).output
    for name, each in cli.COMMANDS.items():
        assert f"{name} " in listed
        assert each.short_help in listed
