"""Writes docs/cli.md from the commands themselves:  python docs/build.py"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

from typer.models import ArgumentInfo

TARGET = Path(__file__).parent / "cli.md"
_HEAD = """# Commands

Made from the commands by `python docs/build.py`; the tests compare. What the exit codes mean is in
[exit-codes.md](exit-codes.md), and a first hour in [tutorial.md](tutorial.md).

Defaults of `--gpu`, `--library` and `--version` (of `predict`, `explain` and `sweep`; of `run` the first
alone), of the folder of the runs and of nsys come from `[tool.attnprof]` in the current folder's
`pyproject.toml`, or from `attnprof.toml`, as `gpu`, `library`, `version`, `runs` and `nsys`; `ATTNPROF_GPU`,
`ATTNPROF_LIBRARY`, `ATTNPROF_VERSION`, `ATTNPROF_RUNS` and `ATTNPROF_NSYS` beat the files, and a flag beats
both. `NO_COLOR` turns colour off. `attnprof --install-completion` completes commands in your shell.
"""


@dataclass(frozen=True)
class Param:
    """An argument or option of a command, as its function declares it."""

    name: str
    kind: Any  # str, int, Path, an Enum, …; None where it is optional beside it
    told: Any  # typer's ArgumentInfo or OptionInfo
    default: Any

    @property
    def spelling(self) -> str:
        """As it is typed."""
        values = self.told.metavar
        if isinstance(self.kind, type) and issubclass(self.kind, Enum):
            values = "|".join(member.value for member in self.kind)
        if isinstance(self.told, ArgumentInfo):
            shown = values or self.name.upper()
            return shown if self.default is inspect.Parameter.empty or shown[0] == "[" else f"[{shown}]"
        # In an Annotated, typer takes the first name for the default.
        first = [self.told.default] if isinstance(self.told.default, str) else []
        names = ", ".join([*first, *(self.told.param_decls or ())]) or f"--{self.name.replace('_', '-')}"
        return names if self.kind is bool else f"{names} {values or self.kind.__name__.upper()}"


def page() -> str:
    """The text of docs/cli.md."""
    from attnprof.cli import COMMANDS

    return _HEAD + "".join(_section(name, command.function()) for name, command in COMMANDS.items())


def _section(name: str, command: Any) -> str:
    params = [
        _param(parameter) for parameter in inspect.signature(command, eval_str=True).parameters.values()
    ]
    params = [param for param in params if not param.told.hidden]
    arguments = [param for param in params if isinstance(param.told, ArgumentInfo)]
    options = [param for param in params if param not in arguments]
    usage = " ".join(["attnprof", name, "[OPTIONS]", *(param.spelling for param in arguments)])
    text, _, examples = inspect.cleandoc(command.__doc__ or "").replace("\b", "").partition("Examples:")
    parts = [f"\n## attnprof {name}\n", f"`{usage}`\n", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"]
    if examples.strip():
        lines = "\n".join(line.strip() for line in examples.strip().splitlines())
        parts.append(f"```sh\n{lines}\n```\n")
    if params:
        parts.append("| | |\n|---|---|\n" + "".join(_row(param) for param in arguments + options))
    return "\n".join(parts)


def _param(parameter: inspect.Parameter) -> Param:
    kind, told = get_args(parameter.annotation)[:2]
    # list[str] | None: what a value is stands first.
    kind = get_args(kind)[0] if get_args(kind) and get_origin(kind) is not list else kind
    return Param(parameter.name, kind, told, parameter.default)


def _row(param: Param) -> str:
    told = " ".join((param.told.help or "").split())
    default = getattr(param.default, "value", param.default)
    if isinstance(default, str | int | float) and not isinstance(default, bool) and "efault" not in told:
        told += f" Default: {default}."
    cells = (f"`{param.spelling}`", told)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
