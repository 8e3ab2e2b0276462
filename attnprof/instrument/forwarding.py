"""Functions that stand before another with its own parameters: written and compiled, as a dataclass's are.

What takes ``*args, **kwargs`` has Python gather a tuple and a dictionary at each call and take them apart
again, which is as long as all that is done between.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

_OWN = "_attnprof_"  # what a body's own names begin with


def standing_before(original: Any, body: str, **known: Any) -> Any:
    """A function that runs ``body`` where ``original``, one of Python's, is called; None for any other.

    ``body`` is Python, its own names begin with ``_attnprof_``: ``known``, and ``original``. {first} is the
    first parameter, {values} are all that have a name, {handed} is what ``original`` is given.
    """
    if type(original) is not types.FunctionType:
        return None
    parameters = list(inspect.signature(original, follow_wrapped=False).parameters.values())
    named = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if not parameters or parameters[0].name not in named or any(name.startswith(_OWN) for name in named):
        return None
    body = body.format(
        first=named[0],
        values="".join(f"{name}, " for name in named),
        handed=", ".join(_handed(one) for one in parameters),
    )
    space = {f"{_OWN}{name}": value for name, value in known.items()} | {f"{_OWN}original": original}
    exec(f"def standing({', '.join(_listed(parameters))}):\n{body}", space)
    made: Any = functools.wraps(original)(space["standing"])
    made.__defaults__, made.__kwdefaults__ = original.__defaults__, original.__kwdefaults__
    return made


def named_alone(function: Any) -> tuple[str, ...]:
    """The names of a function's parameters, () for one that takes others too, or is none of Python's."""
    others = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    if type(function) is not types.FunctionType or function.__code__.co_flags & others:
        return ()
    return tuple(inspect.signature(function, follow_wrapped=False).parameters)


def _handed(one: inspect.Parameter) -> str:
    return f"{one.name}={one.name}" if one.kind is one.KEYWORD_ONLY else _starred(one)


def _starred(one: inspect.Parameter) -> str:
    return (
        f"{'*' if one.kind is one.VAR_POSITIONAL else '**' if one.kind is one.VAR_KEYWORD else ''}{one.name}"
    )


def _listed(parameters: list[inspect.Parameter]) -> list[str]:
    """As in a definition, without defaults."""
    listed = list[str]()
    kinds = [one.kind for one in parameters]
    for at, one in enumerate(parameters):
        if one.kind is one.KEYWORD_ONLY and not {one.VAR_POSITIONAL, one.KEYWORD_ONLY} & {*kinds[:at]}:
            listed.append("*")
        listed.append(_starred(one))
        if one.kind is one.POSITIONAL_ONLY and one.POSITIONAL_ONLY not in kinds[at + 1 :]:
            listed.append("/")
    return listed
