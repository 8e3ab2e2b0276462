"""Records a function through which attention is launched: one wrapper, told how its calls are told apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

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

_NEVER = object()


def picking(places: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """What takes the values at these places out of a tuple or a dictionary, however many they are."""
    if not places:
        return lambda given: ()
    pick, first = itemgetter(*places), places[0]
    return pick if len(places) > 1 else lambda given: (given[first],)


class Known:
    """The kinds of call that one function was given, by what tells them apart.

    ``last`` is what told the last call and its kind's number. ``keep`` gives what must live as long as a kind
    is known, as what it is told by may be an object's id; None for one that is not to be known. No more than
    ``most`` are known at once.
    """

    def __init__(
        self,
        recorder: Recorder,
        called: Called,
        describe: Describe,
        look: Look,
        keep: Callable[[Args, Kwargs], Any] | None = None,
        most: int = 4096,
    ) -> None:
        self._recorder, self._called, self._describe, self._look = recorder, called, describe, look
        self._keep, self._most = keep, most
        self.forget()
        recorder.forgetting.append(self.forget)

    def forget(self) -> None:
        self._numbers: dict[Hashable, tuple[Hashable, int, Any]] = {}
        self.last: tuple[Hashable, int, Any] = (_NEVER, 0, None)

    def kind(self, told: Hashable | None, args: Args, kwargs: Kwargs) -> int:
        """The number of a call's kind, which is told by this, or by nothing; 0 where it is not recorded."""
        if told is not None and (found := self._numbers.get(told)) is not None:
            self.last = found
            return found[1]
        try:
            seen = self._look(args, kwargs)
        except Exception as error:
            return self._recorder.kind(undescribed, (*self._called, reason(error)))
        if seen is None:
            return 0
        number = self._recorder.kind(self._describe, *seen)
        if told is not None:
            if len(self._numbers) >= self._most:
                self._numbers.clear()
            kept = () if self._keep is None else self._keep(args, kwargs)
            if kept is not None:
                self.last = self._numbers[told] = told, number, kept
        return number


def recording(
    recorder: Recorder, original: Callable[..., Any], known: Known, tell: Tell
) -> Callable[..., Any]:
    """A function that records a call and forwards it as it was given."""
    import torch

    is_compiling = torch.compiler.is_compiling

    @functools.wraps(original)
    def record(*args: Any, **kwargs: Any) -> Any:
        # Inside torch.compile a recorder would become a guard and force a recompilation per call.
        if is_compiling():
            return original(*args, **kwargs)
        if (recorder.paused or recorder.forked) and recorder.turned_away():
            return original(*args, **kwargs)
        told = tell(args, kwargs)
        before, kind, _ = known.last
        if (told is None or told != before) and not (kind := known.kind(told, args, kwargs)):
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
