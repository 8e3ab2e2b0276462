"""Defaults of common options: ATTNPROF_* variables, attnprof.toml or pyproject.toml of the current folder.

A flag beats a variable, a variable beats the file; attnprof.toml beats [tool.attnprof] of pyproject.toml.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprof.errors import ConfigError
from attnprof.files.untrusted import read_whole

_LARGEST = 1 << 18  # bytes of a file of settings
_DEEP = re.compile(
    rb"(?:[\w\-\"']{1,100}[ \t]{0,9}\.[ \t]{0,9}){50}"
)  # keys in keys, walked for each key below
KEYS = ("gpu", "library", "version", "runs", "nsys")

# What a default stands for, by command. Not report, check or diff: there it would overrule what was observed.
_OF_COMMAND = {"run": ("gpu",), "predict": KEYS[:3], "explain": KEYS[:3], "sweep": KEYS[:3]}
# A flag that says in another way what a default would say, or for what no default can speak.
_REPLACED_BY = {
    "gpu": ("--gpu", "--sms", "--sm", "--call"),
    "library": ("--library", "--call", "--calls"),
    "version": ("--version", "--library", "--call", "--calls"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A default and where it was set, as an error names it."""

    value: str
    origin: str


def setting(key: str) -> Setting | None:
    """The default for one of KEYS; None where nobody set it. Raises ConfigError for a file that is wrong."""
    variable = f"ATTNPROF_{key.upper()}"
    if value := os.environ.get(variable):
        return Setting(value, variable)
    return _of_file().get(key)


def default_map(arguments: Sequence[str]) -> dict[str, dict[str, str]]:
    """Per command, the defaults of its options, for the command line ``arguments``."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    flags = {argument.partition("=")[0] for argument in own}
    command = next((argument for argument in own if argument in _OF_COMMAND), None)
    if command is None:
        return {}
    wanted = [key for key in _OF_COMMAND[command] if not flags & set(_REPLACED_BY[key])]
    found = {key: known.value for key in wanted if (known := setting(key))}
    return {command: found} if found else {}


def origins(message: str, defaults: dict[str, dict[str, str]]) -> list[str]:
    """Where the defaults were set that an error's ``message`` speaks of."""
    keys = {key for options in defaults.values() for key in options} | {"runs", "nsys"}
    settings = [known for key in KEYS if key in keys and (known := setting(key))]
    return [known.origin for known in settings if known.value in message]


def _of_file() -> dict[str, Setting]:
    for name, table in (("attnprof.toml", ()), ("pyproject.toml", ("tool", "attnprof"))):
        path = Path(name)
        if not path.is_file():
            continue
        content: Any = _parse(path)
        for part in table:
            content = content.get(part, {}) if isinstance(content, dict) else {}
        if content or not table:
            return _checked(content, name, ".".join((*table, "")))
    return {}


def _parse(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content = read_whole(path, _LARGEST)
        if _DEEP.search(content):
            raise RecursionError
        parsed: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply", hint="correct it, or move it") from error
    except (tomllib.TOMLDecodeError, ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}", hint="correct it, or move it") from error
    return parsed


def _checked(content: Any, name: str, prefix: str) -> dict[str, Setting]:
    if not isinstance(content, dict):
        raise ConfigError(f"{name}: {prefix.rstrip('.')} is no table", hint="write [tool.attnprof]")
    for key, value in content.items():
        if key not in KEYS:
            raise ConfigError(f"{name}: {prefix}{key} is no option", hint=f"known: {', '.join(KEYS)}")
        if not isinstance(value, str) or not value:
            raise ConfigError(
                f"{name}: {prefix}{key} must be a text, not {repr(value)[:60]}", hint=f'write {key} = "…"'
            )
        if "\0" in value:
            raise ConfigError(f"{name}: {prefix}{key} holds a NUL", hint=f'write {key} = "…" without it')
    return {key: Setting(value, f"{name}: {prefix}{key}") for key, value in content.items()}
