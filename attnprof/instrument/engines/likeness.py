"""What tells the calls that a step makes of one function apart: what it was given, without a tensor.

Of tensors of integers, which the library reads, it is which tensor; of others shape and type.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from attnprof.instrument.alike import Question, equal, of_type, placed, same, typed
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.recording import Args, Kwargs, picking

_PLAIN = {bool, int, float, str, type(None)}


class Likeness:
    """Of the calls of a function with parameters of these ``names``; needs torch."""

    def __init__(self, recorder: Recorder, names: tuple[str, ...]) -> None:
        import torch

        self._recorder, self._names = recorder, names
        self._modes, self._tracing = torch._C._len_torch_function_stack, torch._C._is_tracing
        self._tensor, self._integers = torch.Tensor, {torch.int32, torch.int64}
        self._signatures: dict[Hashable, _Signature] = {}
        self._last = _Signature({})

    def tell(self, args: Args, kwargs: Kwargs) -> Hashable | None:
        """None outside of steps, for what is looked at by others, and where it cannot be told."""
        here = self._recorder.context.here
        if here.step is None or self._modes() or self._tracing():
            return None
        given, signature, tensor = self._given(args, kwargs) if args else kwargs, self._last, self._tensor
        try:
            plain, tensors, rows = signature.plain(given), signature.tensors(given), signature.rows(given)
            told: list[Any] = [here.step, here.stage, signature, plain, *map(id, signature.held(given))]
        except KeyError:
            return self._tell_anew(given, args, kwargs)
        if len(given) != signature.count or not _PLAIN.issuperset(map(type, plain)):
            return self._tell_anew(given, args, kwargs)
        for one in tensors:
            if type(one) is not tensor:
                return self._tell_anew(given, args, kwargs)
            told += one.shape, one.dtype
        if tensors:
            told.append(tensors[0].device)
        for row in rows:
            if not _is_row(row):
                return self._tell_anew(given, args, kwargs)
            told.append(tuple(row))
        return tuple(told)

    def _tell_anew(self, given: Kwargs, args: Args, kwargs: Kwargs) -> Hashable | None:
        """The same for a call of another signature than the last."""
        signature = self._signature(given)
        if signature is self._last:
            return None
        self._last = signature
        return self.tell(args, kwargs)

    def keep(self, args: Args, kwargs: Kwargs) -> Any:
        """What must live as long as a call is told by it; None for one that is of another signature."""
        given = self._given(args, kwargs)
        signature = self._signature(given)
        return signature.held(given) if signature is self._last else None

    def ask(self, values: Args) -> Sequence[Question]:
        """What the next call is asked after one of these values: where its thread is, all its arguments."""
        here, *args = values
        kinds = self._signature(self._given(tuple(args), {})).kinds
        at = "{a}.step == {0} and {a}.stage == {1}", (here.step, here.stage)
        named = dict(zip(self._names, args, strict=True))
        questions = {name: _ASK[kinds[name]](value) for name, value in named.items()}
        if "out" in questions and kinds["out"] == "tensors":  # written to: no record tells of it
            questions["out"] = of_type(type(named["out"]))
        first = next((name for name in named if kinds[name] == "tensors"), None)
        if first is not None:
            questions[first] = placed(named[first])
        return at, *questions.values()

    def _given(self, args: Args, kwargs: Kwargs) -> Kwargs:
        return dict(zip(self._names, args, strict=False)) | kwargs

    def _signature(self, given: Kwargs) -> _Signature:
        kinds = {name: self._kind(value) for name, value in given.items()}
        key = tuple(kinds.items())
        if key not in self._signatures:
            self._signatures[key] = _Signature(kinds)
        return self._signatures[key]

    def _kind(self, value: Any) -> str:
        if type(value) in _PLAIN:
            return "plain"
        if type(value) is self._tensor and value.dtype not in self._integers:
            return "tensors"
        return "rows" if _is_row(value) else "held"


def _is_row(value: Any) -> bool:
    return (type(value) is tuple or type(value) is list) and _PLAIN.issuperset(map(type, value))


def _row(value: Any) -> Question:
    asked, known = [f"type({{a}}) is {{0}} and len({{a}}) == {len(value)}"], [type(value)]
    for at, each in enumerate(value):
        expression, values = equal(each)
        names = [f"{{{len(known) + number}}}" for number in range(len(values))]
        asked.append(expression.format(*names, a=f"{{a}}[{at}]"))
        known += values
    return " and ".join(asked), tuple(known)


_ASK = {"plain": equal, "tensors": typed, "rows": _row, "held": same}


class _Signature:
    """Which arguments are told by what: each takes them out of those that were given by name."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        def those(kind: str) -> Callable[[Any], tuple[Any, ...]]:
            return picking([name for name, of in kinds.items() if of == kind])

        self.kinds, self.count = kinds, len(kinds)
        self.plain, self.tensors = those("plain"), those("tensors")
        self.rows, self.held = those("rows"), those("held")
