"""Records a function through which attention is launched: one wrapper, told how its calls are told apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

from attnprof.instrument.alike import Question, alike, never
from attnprof.instrument.forwarding import standing_before
from attnprof.instrument.journal import Describe
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.undescribed import Called, reason, undescribed

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

# What tells a call from others, without a tensor in it that would be compared: calls alike in it are recorded
# alike. None for a call that must be looked at.
Tell = Callable[[Args, Kwargs], Hashable | None]

# The arguments of ``describe`` for a call, and the same without tensors where there are any, as
# ``Recorder.kind`` takes them. Raises where they cannot be told; None for a call that is not to be recorded.
Look = Callable[[Args, Kwargs], tuple[Args, Args | None] | None]

# What ``alike`` asks the values of the next call, from those of a call that was told.
Ask = Callable[[Args], Sequence[Question]]


def picking(places: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """What takes the values at these places out of a tuple or a dictionary, however many they are."""
    if not places:
        return lambda given: ()
    pick, first = itemgetter(*places), places[0]
    return pick if len(places) > 1 else lambda given: (given[first],)


class _Kind:
    """A kind of call: what it is told by, its number, what must live as long, and ``alike`` for it."""

    __slots__ = ("alike", "kept", "number", "told")

    def __init__(self, told: Hashable, number: int, kept: Any) -> None:
        self.told, self.number, self.kept = told, number, kept
        self.alike: Callable[..., int] = never


class Known:
    """The kinds of call that one function was given, by what tells them apart.

    ``alike`` gives the last call's kind for ``values`` values as ``ask`` asks for, else 0. ``keep`` gives
    what must live as long as a kind is known, as what it is told by may be an object's id; None for one that
    is not to be known. No more than ``most`` are known at once.
    """

    def __init__(
        self,
        recorder: Recorder,
        called: Called,
        describe: Describe,
        look: Look,
        keep: Callable[[Args, Kwargs], Any] | None = None,
        most: int = 4096,
        ask: Ask | None = None,
    ) -> None:
        self._recorder, self._called, self._describe, self._look = recorder, called, describe, look
        self._keep, self._most, self._ask = keep, most, ask
        self.forget()
        recorder.forgetting.append(self.forget)

    def forget(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}
        self._last = _Kind(object(), 0, None)
        self.alike, self.values = never, 0

    def kind(self, told: Hashable | None, args: Args, kwargs: Kwargs, values: Args | None = None) -> int:
        """The number of a call's kind, which is told by this, or by nothing; 0 where it is not recorded.

        ``values`` are what ``alike`` is asked, None where it is not.
        """
        if told is not None:
            last = self._last
            found = last if told == last.told else self._kinds.get(told)
            if found is not None:
                self._is_last(found, values)
                return found.number
        try:
            seen = self._look(args, kwargs)
        except Exception as error:
            return self._recorder.kind(undescribed, (*self._called, reason(error)))
        if seen is None:
            return 0
        number = self._recorder.kind(self._describe, *seen)
        if told is not None:
            if len(self._kinds) >= self._most:
                self._kinds.clear()
            kept = () if self._keep is None else self._keep(args, kwargs)
            if kept is not None:
                made = self._kinds[told] = _Kind(told, number, kept)
                self._is_last(made, values)
        return number

    def _is_last(self, kind: _Kind, values: Args | None) -> None:
        if self._ask is not None and values is not None and kind.alike is never:
            try:
                kind.alike = alike(kind.number, self._ask(values))
            except Exception:  # what cannot be asked for is told at each call
                kind.alike = never
        self._last, self.alike, self.values = kind, kind.alike, len(values or ())


def recording(
    recorder: Recorder, original: Callable[..., Any], known: Known, tell: Tell
) -> Callable[..., Any]:
    """A function that records a call and forwards it as given; ``known`` is asked where none is named."""
    import torch

    is_compiling = torch.compiler.is_compiling

    @functools.wraps(original)
    def record(*args: Any, **kwargs: Any) -> Any:
        # Inside torch.compile a recorder would become a guard and force a recompilation per call.
        if is_compiling():
            return original(*args, **kwargs)
        if (recorder.paused or recorder.forked) and recorder.turned_away():
            return original(*args, **kwargs)
        kind = known.alike(*args) if len(args) == known.values and not kwargs else 0
        if not kind and not (kind := known.kind(tell(args, kwargs), args, kwargs, None if kwargs else args)):
            return original(*args, **kwargs)
        call = recorder.begin_call(kind)
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            recorder.call_raised(call, error)
            raise
        finally:
            recorder.end_call()

    return record


def recording_by_parameter(recorder: Recorder, original: Any, known: Known, tell: Tell) -> Callable[..., Any]:
    """As ``recording``, for a function of ``named_alone``, with its own parameters.

    ``known`` is asked where the thread is, and every argument in the function's order.
    """
    import torch

    compiling = torch.compiler.is_compiling
    made: Callable[..., Any] = standing_before(
        original, _RECORD, compiling=compiling, recorder=recorder, known=known, tell=tell
    )
    return made


_RECORD = """
    if _attnprof_compiling() or (
        (_attnprof_recorder.paused or _attnprof_recorder.forked) and _attnprof_recorder.turned_away()
    ):
        return _attnprof_original({handed})
    _attnprof_here = _attnprof_recorder.context.here
    _attnprof_kind = _attnprof_known.alike(_attnprof_here, {values})
    if not _attnprof_kind:
        _attnprof_args = ({values})
        _attnprof_kind = _attnprof_known.kind(
            _attnprof_tell(_attnprof_args, {{}}), _attnprof_args, {{}}, (_attnprof_here, *_attnprof_args)
        )
        if not _attnprof_kind:
            return _attnprof_original({handed})
    _attnprof_call = _attnprof_recorder.begin_call(_attnprof_kind)
    try:
        return _attnprof_original({handed})
    except BaseException as _attnprof_error:
        _attnprof_recorder.call_raised(_attnprof_call, _attnprof_error)
        raise
    finally:
        _attnprof_recorder.end_call()
"""
