"""Records torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attnprof.instrument.recorder import Recorder, dtype_name, shape, sizes
from attnprof.instrument.undescribed import (
    described,
    flag,
    is_fake,
    number,
    require_tensors,
    scalar,
    unseen,
)

FUNCTION = "torch.nn.functional.scaled_dot_product_attention"

_CALLED = (FUNCTION, "torch", "sdpa")
_BACKENDS = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}  # at::SDPBackend


def patch(recorder: Recorder) -> Callable[[], None]:
    """Replaces the function by one that records and forwards; returns what puts the original back."""
    import torch

    functional = torch.nn.functional
    original = functional.scaled_dot_product_attention
    is_compiling, tracing = torch.compiler.is_compiling, torch._C._get_tracing_state
    modes = torch._C._len_torch_function_stack
    simple = {torch.Tensor, torch.nn.Parameter, float, bool, type(None)}  # nobody looks on

    @functools.wraps(original)
    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Any:
        # Inside torch.compile a recorder would become a guard and force a recompilation per call.
        if is_compiling():
            return original(*args, **kwargs)
        if recorder.paused:
            recorder.skip_call()
            return original(*args, **kwargs)
        look = _look
        if not (
            simple.issuperset(map(type, args))
            and (not kwargs or simple.issuperset(map(type, kwargs.values())))
            and not modes()
            and tracing() is None
        ):
            given = (*args, *kwargs.values())
            if _is_foreign(given) and torch.overrides.has_torch_function(given):
                # Who overrides the function knows it by the name it has now, and calls it again.
                return torch.overrides.handle_torch_function(
                    scaled_dot_product_attention, given, *args, **kwargs
                )
            look = _look_unseen
        call = recorder.open_call(describe, _CALLED, look, args, kwargs)
        try:
            return original(*args, **kwargs)
        except BaseException as error:
            recorder.call_raised(call, error)
            raise
        finally:
            recorder.end_call()

    # Pickled by the name under which the function is found; torch.jit.script compiles what it stands for.
    scaled_dot_product_attention.__module__ = functional.__name__
    forget = _as_builtin(scaled_dot_product_attention)

    def restore() -> None:
        if functional.scaled_dot_product_attention is scaled_dot_product_attention:
            functional.scaled_dot_product_attention = original
        forget()

    functional.scaled_dot_product_attention = scaled_dot_product_attention
    return restore


def _as_builtin(wrapper: Any) -> Callable[[], None]:
    """Lets torch.jit.script take the wrapper for the operator; returns what takes it back."""
    with suppress(Exception):
        from torch.jit import _builtins as known

        _builtins: Any = known
        _builtins._register_builtin(wrapper, "aten::scaled_dot_product_attention")
        return lambda: _builtins._get_builtin_table().pop(id(wrapper), None)
    return lambda: None


def _is_foreign(given: tuple[Any, ...]) -> bool:
    """Whether code that is not torch's own overrides torch's functions here: a class or a mode."""
    import torch

    depth = torch._C._len_torch_function_stack()
    kinds = [type(value) for value in given]
    kinds += [type(torch._C._get_function_stack_at(at)) for at in range(depth)]
    overriding = [kind for kind in kinds if hasattr(kind, "__torch_function__")]
    return any(kind.__module__.partition(".")[0] != "torch" for kind in overriding)


def _look_unseen(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], None]:
    with unseen():
        return _look(args, kwargs)


def _look(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], None]:
    """What a call was given, without a tensor. Raises where it cannot be told."""
    taken = _taken(*args, **kwargs)
    if getattr(taken[4], "type", None) == "cuda":
        taken = (*taken[:-1], _backend(args, kwargs))
    return taken, None


def _taken(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    *,
    scale: Any = None,
    enable_gqa: Any = False,
) -> tuple[Any, ...]:
    require_tensors(query=query, key=key, value=value)
    if attn_mask is not None:
        require_tensors(attn_mask=attn_mask)
    return (
        shape(query),
        shape(key),
        shape(value),
        query.dtype,
        f"fake {query.device}" if is_fake(query) else query.device,
        None if attn_mask is None else shape(attn_mask),
        dropout_p if type(dropout_p) is float else scalar("dropout_p", dropout_p),
        is_causal if type(is_causal) is bool else flag("is_causal", is_causal),
        scale if scale is None or type(scale) is float else number(scale),
        enable_gqa if type(enable_gqa) is bool else flag("enable_gqa", enable_gqa),
        None,
    )


def _backend(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The backend torch itself chooses for these tensors; None where it cannot say."""
    import torch

    if torch._C._len_torch_dispatch_stack():  # who watches torch's operators would see one more
        return None
    try:
        choice = torch._fused_sdp_choice(*args, **kwargs)
    except Exception:
        return None
    return _BACKENDS.get(int(choice))


def describe(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The fields of one call in calls.jsonl."""
    try:
        return _described(arguments)
    except TypeError:  # lists, as a journal has them
        return described(_fields, _CALLED, arguments)


@functools.lru_cache(maxsize=256)
def _described(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The same, once for the layers of a step."""
    return described(_fields, _CALLED, arguments)


def _fields(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The same. Raises where they cannot be told."""
    q, k, v, dtype, device, mask, dropout_p, is_causal, scale, enable_gqa, backend = arguments
    return {
        "function": FUNCTION,
        "library": "torch",
        "entry": "sdpa",
        "backend": backend,
        "device": str(device),
        "dtype": dtype_name(dtype),
        "q": sizes(q),
        "k": sizes(k),
        "v": sizes(v),
        "layout": "bhsd",
        "causal": bool(is_causal),
        "window": [-1, -1],
        "softcap": 0.0,
        "dropout_p": scalar("dropout_p", dropout_p),
        "alibi": False,
        "return_softmax": False,
        "scale": scale if type(scale) is str else number(scale),
        "mask": sizes(mask),
        "enable_gqa": bool(enable_gqa),
    }
