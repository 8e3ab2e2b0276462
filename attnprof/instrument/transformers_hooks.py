"""Where transformers' models and generate() are entered: each door leads through the StepWatcher."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from attnprof.instrument.steps import StepWatcher

MODELS = "transformers.modeling_utils"
GENERATION = "transformers.generation.utils"


def patch_models(watcher: StepWatcher, modeling_utils: Any) -> Callable[[], None]:
    """Makes every PreTrainedModel report its forwards and layers; returns what undoes all of it."""
    model_class = modeling_utils.PreTrainedModel
    undo: list[Callable[[], None]] = []

    def wrap_forward(cls: type) -> None:
        # A forward that is called by its name does not pass through __call__.
        if "forward" in vars(cls):
            undo.append(_replace(cls, "forward", _through(watcher.forward, vars(cls)["forward"])))

    for cls in [model_class, *_subclasses(model_class)]:
        wrap_forward(cls)
    begin = vars(model_class).get("__init_subclass__")

    def __init_subclass__(cls: type, /, **options: Any) -> None:  # noqa: N807
        if begin is None:
            super(model_class, cls).__init_subclass__(**options)
        else:
            begin.__func__(cls, **options)
        wrap_forward(cls)

    undo.append(_replace(model_class, "__call__", _through(watcher.forward, model_class.__call__)))
    compiles = getattr(model_class, "get_compiled_call", None)
    if compiles is not None:  # what generate() compiles decode with

        @functools.wraps(compiles)
        def get_compiled_call(self: Any, *args: Any, **kwargs: Any) -> Any:
            compiled = compiles(self, *args, **kwargs)
            return lambda *a, **kw: watcher.forward(self, compiled, a, kw)

        undo.append(_replace(model_class, "get_compiled_call", get_compiled_call))
    undo.append(_replace(model_class, "__init_subclass__", classmethod(__init_subclass__)))

    def restore() -> None:
        for one in reversed(undo):
            one()
        watcher.remove()

    return restore


def patch_generation(watcher: StepWatcher, generation_utils: Any) -> Callable[[], None]:
    """Makes generate() say where it begins and what it came to; returns what undoes it."""
    mixin = generation_utils.GenerationMixin
    return _replace(mixin, "generate", _through(watcher.generate, mixin.generate))


def _through(door: Callable[..., Any], original: Any) -> Any:
    """A method that has the door call the original, but where torch compiles it."""
    import torch

    is_compiling = torch.compiler.is_compiling

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return original(self, *args, **kwargs)
        return door(self, functools.partial(original, self), args, kwargs)

    return method


def _replace(owner: type, name: str, made: Any) -> Callable[[], None]:
    """Sets an attribute of a class; returns what puts back its own, or the one it inherited."""
    own, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, made)

    def restore() -> None:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)

    return restore


def _subclasses(cls: type) -> Iterator[type]:
    one: type
    for one in type.__subclasses__(cls):
        yield one
        yield from _subclasses(one)
