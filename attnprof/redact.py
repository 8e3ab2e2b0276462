"""What must not leave the machine with a page or an export: tokens, environment values, home folders."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REDACTED = "<redacted>"

_TOKENS = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abeprs]-|AKIA|ASIA|AIza|ya29\.|npm_|pypi-|dop_v1_|nvapi-)"
    r"[A-Za-z0-9_.\-]{12,}"
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]*)?"
)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.=\-]{12,}")
_SECRET_NAME = r"[\w.\-]*(?:token(?!s)|secret|passw|api[_\-]?key|access[_\-]?key|credential)[\w.\-]*"
_ASSIGNED = re.compile(rf"(?i)\b({_SECRET_NAME})(\s*[=:]\s*)[^\s,;&\"']+")
_HOMES = re.compile(r"(?:/home/[^/\s\"':,;]+|/Users/[^/\s\"':,;]+|/root)(?=[/\s\"':,;)]|$)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=.", re.DOTALL)
_SECRET_OPTION = re.compile(rf"(?i)--?({_SECRET_NAME})")
_OPAQUE = re.compile(r"(?=[^\s/]*\d)(?=[^\s/]*[A-Za-z])[A-Za-z0-9+_\-]{32,}=*")


def redact(text: str) -> str:
    """``text`` without anything shaped like a credential, and with home folders as ``~``."""
    text = _TOKENS.sub(REDACTED, text)
    text = _CREDENTIALS.sub(REDACTED, text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    text = _ASSIGNED.sub(rf"\1\2{REDACTED}", text)
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?=[/\s\"':,;)]|$)", "~", text)
    return _HOMES.sub("~", text)


def redact_all(value: Any) -> Any:
    """The same for every string inside lists, tuples and dicts, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item) for item in value]
    return value


def redact_command(arguments: Sequence[str]) -> str:
    """A command line that can be read and shared: no value of an environment variable, no token, no home.

    An argument of 32 or more letters and digits without a slash counts as a token.
    """
    shown: list[str] = []
    secret_follows = False
    for argument in arguments:
        option = _SECRET_OPTION.fullmatch(argument)
        variable = _VARIABLE.match(argument)
        name, assigned, value = argument.partition("=")
        if variable:
            shown.append(f"{variable[1]}={REDACTED}")
        elif secret_follows or _OPAQUE.fullmatch(argument):
            shown.append(REDACTED)
        elif assigned and _OPAQUE.fullmatch(value):
            shown.append(f"{name}={REDACTED}")
        else:
            shown.append(redact(argument))
        secret_follows = option is not None
    return " ".join(part if part.endswith(REDACTED) else _quoted(part) for part in shown)


def _quoted(argument: str) -> str:
    """The argument as a shell takes it; a leading ~ stays outside the quotes."""
    if argument.startswith("~/"):
        return "~/" + shlex.quote(argument[2:]) if len(argument) > 2 else argument
    return shlex.quote(argument)
