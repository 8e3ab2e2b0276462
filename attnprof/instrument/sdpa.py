"""Records torch.nn.functional.scaled_dot_product_attention."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attnprof.instrument.alike import Question, equal, placed, same, shaped
from attnprof.instrument.recorder import Recorder, dtype_name, shape, sizes
from attnprof.instrument.recording import Args, Known, Kwargs
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


class _Absent:
    """In place of an argument that was not given."""


_NO: Any = _Absent
_FLOAT, _BOOL, _NUMBER = {float, type}, {bool, type}, {float, type(None), type}  # or not given


def patch(recorder: Recorder) -> Callable[[], None]:
    """Replaces the function by one that records and forwards; returns what puts the original back."""
    import torch

    functional, tensor = torch.nn.functional, torch.Tensor
    original: Any = functional.scaled_dot_product_attention
    is_compiling, tracing = torch.compiler.is_compiling, torch._C._is_tracing
    modes, transforms = torch._C._len_torch_function_stack, torch._C._functorch.peek_interpreter_stack
    known = Known(recorder, _CALLED, describe, _look, ask=_questions)
    backends: dict[int, str | None] = {}  # of the kinds on a GPU, where strides and flags choose at each call
    recorder.forgetting.append(backends.clear)

    def tell(values: Args) -> Args | None:
        q, k, v, mask, dropout, causal, scale, enable_gqa = values
        if (
            type(q) is tensor
            and type(k) is tensor
            and type(v) is tensor
            and (mask is None or mask is _NO or type(mask) is tensor)
            and type(dropout) in _FLOAT
            and type(causal) in _BOOL
            and type(scale) in _NUMBER
            and type(enable_gqa) in _BOOL
            and not (modes() or tracing())
            and transforms() is None
        ):
            with suppress(RuntimeError):  # a strided nested tensor has no shape as a whole
                return (q.shape, k.shape, v.shape, q.dtype, q.device, dropout, causal, scale, enable_gqa,
                        mask if mask is None or mask is _NO else mask.shape)  # fmt: skip
        return None

    def kind_of(values: Args, args: Args, named: Kwargs, more: Kwargs) -> int:
        """The kind of a call that is not as the last one was; 0 for one that others are to see first."""
        told = None if more else tell(values)
        given = (*args, *named.values())
        if told is None:
            if _is_foreign(given) and torch.overrides.has_torch_function(given):
                return 0
            return known.kind(None, args, named)
        if not values[0].is_cuda:
            return known.kind(told, args, named, values)
        backend = _backend(args, named)
        kind = known.kind((*told, backend), args, named, values)
        backends[kind] = backend
        return kind

    # What ``recording`` does, with parameters of its own: dictionaries of named arguments would cost as much
    # again as all else.
    @functools.wraps(original)
    def scaled_dot_product_attention(
        *args: Any,
        attn_mask: Any = _NO,
        dropout_p: Any = _NO,
        is_causal: Any = _NO,
        scale: Any = _NO,
        enable_gqa: Any = _NO,
        **more: Any,
    ) -> Any:
        if is_compiling() or ((recorder.paused or recorder.forked) and recorder.turned_away()):
            return original(*args, **_given(attn_mask, dropout_p, is_causal, scale, enable_gqa), **more)
        mask, dropout, causal = attn_mask, dropout_p, is_causal
        if len(args) == 3:
            q, k, v = args
        elif len(args) == 6 and mask is _NO and dropout is _NO and causal is _NO:
            q, k, v, mask, dropout, causal = args
        else:
            q = k = v = None
        kind = 0 if more else known.alike(q, k, v, mask, dropout, causal, scale, enable_gqa)
        if not kind or kind in backends:
            named = {**_given(attn_mask, dropout_p, is_causal, scale, enable_gqa), **more}
            if not kind or _backend(args, named) != backends[kind]:
                kind = kind_of((q, k, v, mask, dropout, causal, scale, enable_gqa), args, named, more)
                if (
                    not kind
                ):  # Who overrides the function knows it by the name it has now, and calls it again.
                    given = (*args, *named.values())
                    return torch.overrides.handle_torch_function(
                        scaled_dot_product_attention, given, *args, **named
                    )
        call = recorder.begin_call(kind)
        try:
            if attn_mask is _NO and dropout_p is _NO and is_causal is _NO and scale is _NO:
                if enable_gqa is _NO and not more:
                    return original(*args)
            elif (
                len(args) == 3
                and attn_mask is not _NO
                and dropout_p is not _NO
                and is_causal is not _NO
                and scale is not _NO
                and enable_gqa is _NO
                and not more
            ):  # as transformers gives them
                return original(
                    q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale
                )
            return original(*args, **_given(attn_mask, dropout_p, is_causal, scale, enable_gqa), **more)
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


def _questions(values: Args) -> list[Question]:
    """What the next call is asked: tensors, a mask that is one too, then numbers."""
    q, k, v, mask = values[:4]
    asked = same(mask) if mask is None or mask is _NO else shaped(mask)
    numbers = [same(value) if value is _NO else equal(value) for value in values[4:]]
    return [placed(q), shaped(k), shaped(v), asked, *numbers]


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


def _given(attn_mask: Any, dropout_p: Any, is_causal: Any, scale: Any, enable_gqa: Any) -> dict[str, Any]:
    """Those that were given, by name."""
    named = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale,
             "enable_gqa": enable_gqa}  # fmt: skip
    return {name: value for name, value in named.items() if value is not _NO}


def _look(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], None]:
    """What a call was given, without a tensor. Raises where it cannot be told."""
    with unseen():
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
