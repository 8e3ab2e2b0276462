"""Whether a call is as the last one was, in one look: a function that is made for the calls of one kind.

It has in it what the last call was given, so that nothing is gathered to be compared: what there is once, or
is held, is compared by identity, and of tensors no more is read than decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from attnprof.instrument.forwarding import defined

# What is asked of one argument: an expression in {a}, the argument, and {0}, {1}, what is known before.
Question = tuple[str, tuple[Any, ...]]

ANYTHING: Question = "", ()


def same(value: Any) -> Question:
    """The same object, which is held as long as it is asked for."""
    return "{a} is {0}", (value,)


def equal(value: Any) -> Question:
    """A number or a text of the same type, or the same of what there is once."""
    if value is None or type(value) is bool:
        return same(value)
    return "({a} is {0} or type({a}) is {1} and {a} == {0})", (value, type(value))


def of_type(kind: type) -> Question:
    return "type({a}) is {0}", (kind,)


def shaped(tensor: Any) -> Question:
    """A tensor of the same type and shape."""
    return "type({a}) is {0} and {a}.shape == {1}", (type(tensor), tensor.shape)


def typed(tensor: Any) -> Question:
    """A tensor of the same dtype too."""
    expression, values = shaped(tensor)
    return f"{expression} and {{a}}.dtype is {{2}}", (*values, tensor.dtype)


def placed(tensor: Any) -> Question:
    """A tensor of the same dtype on the same device."""
    expression, values = typed(tensor)
    if tensor.is_cpu:  # of which there is one
        return f"{expression} and {{a}}.is_cpu", values
    return f"{expression} and {{a}}.device == {{3}}", (*values, tensor.device)


def unwritten(tensor: Any) -> Question:
    """The same tensor, not written to since. Raises RuntimeError where nobody counts that."""
    return "{a} is {0} and {a}._version == {1}", (tensor, tensor._version)


def never(*values: Any) -> int:
    """Where no call is known."""
    return 0


def alike(number: int, questions: Sequence[Question]) -> Callable[..., int]:
    """A function of as many values that gives the number where all are as asked, else 0.

    It gives 0 as well inside whatever sees torch's functions, traces or transforms them: before any look.
    """
    import torch

    positions = count()
    asked, known = list[str](), list[Any]()
    for at, (expression, values) in enumerate(questions):
        if expression:
            asked.append(expression.format(*[f"known{next(positions)}" for _ in values], a=f"a{at}"))
            known += values
    make = _made(len(questions), tuple(asked), len(known))
    watching: Any = torch._C
    found: Callable[..., int] = make(
        number,
        watching._len_torch_function_stack,
        watching._is_tracing,
        watching._functorch.peek_interpreter_stack,
        *known,
    )
    return found


@lru_cache(maxsize=256)
def _made(number_of_values: int, asked: tuple[str, ...], number_known: int) -> Any:
    """What makes such functions of this many known values; written and compiled, as a dataclass's are."""
    values = ", ".join(f"a{at}" for at in range(number_of_values))
    known = "".join(f", known{at}" for at in range(number_known))
    conditions = " and ".join(("not modes()", "not tracing()", "transforms() is None", *asked))
    return defined("make", _ALIKE.format(values=values, known=known, conditions=conditions))


_ALIKE = """
def make(number, modes, tracing, transforms{known}):
    def alike({values}):
        try:
            return number if {conditions} else 0
        except RuntimeError:  # a strided nested tensor has no shape as a whole
            return 0
    return alike
"""
