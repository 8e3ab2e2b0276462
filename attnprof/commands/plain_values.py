"""Plain values of options, converted without what typer 0.29 imports for that.

It hands every value, given or not, to pydantic, whose import takes longer than most commands. Here are the
values whose conversion leaves no question; any other one, and every wrong one, is typer's to convert and to
refuse in its own words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

_INTEGER = re.compile("-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,9})?")
NOT_PLAIN = object()


def take_plain_values(params: Sequence[Any]) -> Sequence[Any]:
    """The parameters of a command, of which each converts what is plain before a typer that asks pydantic."""
    for param in params:
        asks = getattr(param, "get_runtime_param", None) is not None
        if asks and "process_value" not in vars(param):
            param.process_value = _before(param, param.process_value)
    return params


def _before(param: Any, process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def process_value(ctx: Any, value: Any) -> Any:
        plain = plain_value(param, value)
        if plain is NOT_PLAIN:
            return process(ctx, value)
        return plain if param.callback is None else param.callback(ctx, param, plain)

    return process_value


def plain_value(param: Any, value: Any) -> Any:
    """The value as the command gets it; NOT_PLAIN where that is typer's to say."""
    if param.multiple or param.nargs != 1:
        return NOT_PLAIN
    if value is None:
        return NOT_PLAIN if param.required else None
    kind, told = param.type_descriptor.annotation, param.type_descriptor.parameter_info
    if told.parser is not None:
        return NOT_PLAIN
    if kind is str:
        return value if type(value) is str and not _opens(told) else NOT_PLAIN
    if kind is int or kind is float:
        return _number(kind, told, value)
    if kind is Path:
        return _path(told, value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next((member for member in kind if value is member or value == member.value), NOT_PLAIN)
    return NOT_PLAIN


def _number(kind: type[int] | type[float], told: Any, value: Any) -> Any:
    if type(value) is str:
        if (_INTEGER if kind is int else _NUMBER).fullmatch(value) is None:
            return NOT_PLAIN
        value = kind(value)
    if type(value) is not kind:
        return NOT_PLAIN
    low, high = told.min, told.max
    return value if (low is None or value >= low) and (high is None or value <= high) else NOT_PLAIN


def _opens(told: Any) -> bool:
    """Whether an option's value is looked at as a path."""
    return bool(told.allow_dash or told.path_type is not None or told.resolve_path)


def _path(told: Any, value: Any) -> Any:
    """A path of which nothing is asked but that it can be read if it is there."""
    asks = told.exists or told.writable or not (told.file_okay and told.dir_okay and told.readable)
    if type(value) is not str or asks or _opens(told) or "\0" in value:
        return NOT_PLAIN
    closed = os.access(value, os.F_OK) and not os.access(value, os.R_OK)
    return NOT_PLAIN if closed else Path(value)
