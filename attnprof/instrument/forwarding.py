"""Functions that stand before another with its own parameters: written and compiled, as a dataclass's are.

What takes ``*args, **kwargs`` has Python gather a tuple and a dictionary at each call and take them apart
again, which is as long as all that is done between. The text that becomes code is this package's own; of
elsewhere are the names of parameters in it, which are Python's.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import types
from typing import Any, NamedTuple

_OWN = "_attnprof_"  # what a body's own names begin with


class _Parameters(NamedTuple):
    """Names of a function's parameters as its code has them, whatever it says of itself; "" for no stars."""

    positional_alone: list[str]
    positional: list[str]
    rest: str
    by_name: list[str]
    others: str

    @classmethod
    def of(cls, code: types.CodeType) -> _Parameters:
        count, by_name = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
        names, stars = list(code.co_varnames), list(code.co_varnames[by_name : by_name + 2])
        rest = stars.pop(0) if code.co_flags & inspect.CO_VARARGS else ""
        others = stars.pop(0) if code.co_flags & inspect.CO_VARKEYWORDS else ""
        alone = code.co_posonlyargcount
        return cls(names[:alone], names[alone:count], rest, names[count:by_name], others)

    @property
    def named(self) -> list[str]:
        return [*self.positional_alone, *self.positional, *self.by_name]

    def listed(self) -> str:
        """As in a definition, without defaults."""
        stars = [f"*{self.rest}"] if self.rest or self.by_name else []
        slash = ["/"] if self.positional_alone else []
        others = [f"**{self.others}"] if self.others else []
        return ", ".join([*self.positional_alone, *slash, *self.positional, *stars, *self.by_name, *others])

    def handed(self) -> str:
        """As in a call."""
        stars = [f"*{self.rest}"] if self.rest else []
        others = [f"**{self.others}"] if self.others else []
        by_name = [f"{name}={name}" for name in self.by_name]
        return ", ".join([*self.positional_alone, *self.positional, *stars, *by_name, *others])


def standing_before(original: Any, body: str, **known: Any) -> Any:
    """A function that runs ``body`` where ``original``, one of Python's, is called; None for any other.

    ``body`` is Python, its own names begin with ``_attnprof_``: ``known``, and ``original``. {first} is the
    first parameter, {values} are all that have a name, {handed} is what ``original`` is given.
    """
    if type(original) is not types.FunctionType:
        return None
    parameters = _Parameters.of(original.__code__)
    named = parameters.named
    if not named or not all(map(_is_name, named)):
        return None
    body = body.format(
        first=named[0], values="".join(f"{name}, " for name in named), handed=parameters.handed()
    )
    space = {f"{_OWN}{name}": value for name, value in known.items()} | {f"{_OWN}original": original}
    made: Any = defined("standing", f"def standing({parameters.listed()}):\n{body}", **space)
    made = functools.update_wrapper(made, original)
    made.__defaults__, made.__kwdefaults__ = original.__defaults__, original.__kwdefaults__
    return made


def defined(name: str, source: str, **known: Any) -> Any:
    """The function of this name that a text of this package's own defines."""
    exec(source, known)
    return known[name]


def named_alone(function: Any) -> tuple[str, ...]:
    """The names of a function's parameters, () for one that takes others too, or is none of Python's."""
    if type(function) is not types.FunctionType:
        return ()
    parameters = _Parameters.of(function.__code__)
    return () if parameters.rest or parameters.others else tuple(parameters.named)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text) and not text.startswith(_OWN)
