"""Attention calls that cannot be described, and why; looking at one without changing what it computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attnprof.calls.record_fields import require_record

Called = tuple[str, str, str]  # function, library, entry

LARGEST = (1 << 31) - 1  # of sizes and counts: the library's own are 32 bits


class UndescribedError(Exception):
    """What a call was given says nothing, or nothing certain, of what the library got."""


def described(
    fields: Callable[[tuple[Any, ...]], dict[str, Any]], called: Called, arguments: tuple[Any, ...]
) -> dict[str, Any]:
    """``fields(arguments)``, the fields of one call in calls.jsonl; those of a call that is not described
    where it raises, or gives what no reader of the run takes."""
    try:
        found = fields(arguments)
        require_record(_SOMEWHERE | found)
        return found
    except Exception as error:
        return undescribed((*called, reason(error)))


_SOMEWHERE = {"seq": 0, "step": None, "phase": "other", "layer": None}


def undescribed(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of a call in calls.jsonl that is not described: what is known of it, and why it is not."""
    function, library, entry, why = arguments
    return {"function": function, "library": library, "entry": entry, "not_described": why}


def reason(error: Exception) -> str:
    """Why a call is not described, in one line."""
    if isinstance(error, UndescribedError):
        return str(error)
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


def kind(value: Any) -> str:
    """What a value is, in words that hold nothing of it."""
    return f"a {type(value).__name__}"


def count(value: Any) -> int:
    """An integer of 32 bits. Raises UndescribedError where it is none."""
    if type(value) is not int:
        raise UndescribedError(f"{kind(value)} where a number belongs")
    if abs(value) > LARGEST:
        raise UndescribedError(f"{value} is more than 32 bits hold")
    return value


def number(value: Any) -> float | str | None:
    """A number that decides no kernel, as JSON can hold it: else in words, "nan" or "a Tensor"."""
    if value is None or (type(value) in (int, float) and math.isfinite(value)):
        return None if value is None else float(value)
    return str(value) if type(value) in (int, float) else kind(value)


def scalar(name: str, value: Any) -> float:
    """A number that decides a kernel. Raises UndescribedError where it is none, or not finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UndescribedError(f"{name} is {value if isinstance(value, float) else kind(value)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """A yes or no that decides a kernel. Raises UndescribedError where it is none."""
    if not isinstance(value, int):
        raise UndescribedError(f"{name} is {kind(value)}")
    return bool(value)


@contextmanager
def unseen() -> Iterator[None]:
    """Inside the block torch.jit.trace, and what overrides torch's functions, sees no look at a tensor."""
    import torch

    tracer: Any = torch._C
    state = tracer._get_tracing_state()
    if state is not None:
        tracer._set_tracing_state(None)
    try:
        with torch._C.DisableTorchFunction():
            yield
    finally:
        if state is not None:
            tracer._set_tracing_state(state)


def require_tensors(**given: Any) -> None:
    """Raises UndescribedError for what is no tensor, or one behind which the library gets another."""
    import torch

    plain, kinds = (torch.Tensor, torch.nn.Parameter), set(map(type, given.values()))
    if kinds.issubset(plain) and torch._C._functorch.peek_interpreter_stack() is None:
        return
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise UndescribedError(f"{name} is {kind(value)}, no tensor")
        if _is_batched(value):
            raise UndescribedError(f"{name} is inside torch.vmap, which hands on another tensor")
        if (owner := _intercepted_by(type(value))) is not None:
            raise UndescribedError(f"{name} is a {owner}, which may hand on another tensor")


def _is_batched(tensor: Any) -> bool:
    import torch

    functorch = torch._C._functorch
    if functorch.peek_interpreter_stack() is None:
        return False
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


_TRANSPARENT = ("FakeTensor", "NestedTensor", "FunctionalTensor")  # of torch's own


def _intercepted_by(tensor_type: type) -> str | None:
    """The subclass of torch.Tensor whose own code stands between a call and the library; None for none.

    Its ``__torch_function__`` has had its turn already.
    """
    import torch

    own, plain = (getattr(one, "__torch_dispatch__", None) for one in (tensor_type, torch.Tensor))
    if getattr(own, "__func__", own) is getattr(plain, "__func__", plain):
        return None
    transparent = tensor_type.__module__.partition(".")[0] == "torch" and tensor_type.__name__ in _TRANSPARENT
    return None if transparent else tensor_type.__name__


def is_fake(tensor: Any) -> bool:
    """Whether a tensor stands for one that does not exist: nothing is computed with it."""
    return type(tensor).__name__ == "FakeTensor"
