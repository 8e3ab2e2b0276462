"""Records attention calls, steps and layers of the program it runs in, without editing the program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

from attnprof.instrument import flash_attn, native_attention, sdpa, transformers_hooks
from attnprof.instrument.engines import hooks
from attnprof.instrument.imports import when_imported
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.steps import StepWatcher
from attnprof.instrument.undescribed import reason

__all__ = ["Recorder", "instrument"]


@contextmanager
def instrument(recorder: Recorder) -> Iterator[Recorder]:
    """Records into ``recorder`` whatever is called inside the block; everything is put back at its end.

    Libraries are instrumented when they are imported, also inside the block, so that it costs nothing and
    changes no import order for a program that uses none of them.
    """
    with ExitStack() as undo:

        def patch_when(name: str, patch: Callable[[ModuleType], Callable[[], None]]) -> None:
            def patch_module(module: ModuleType) -> None:
                try:
                    undo.callback(patch(module))
                except Exception as error:  # a library of that name that is another than the one known
                    recorder.note(f"attention calls of {name} are not recorded: {reason(error)}")

            undo.callback(when_imported(name, patch_module))

        patch_when("torch", lambda module: sdpa.patch(recorder))
        patch_when("torch", lambda module: native_attention.patch(recorder))
        watcher = StepWatcher(recorder)
        for name, patch in (
            (transformers_hooks.MODELS, transformers_hooks.patch_models),
            (transformers_hooks.GENERATION, transformers_hooks.patch_generation),
        ):
            patch_when(name, functools.partial(patch, watcher))
        for interface in flash_attn.INTERFACES:
            patch_when(interface, lambda module: flash_attn.patch(recorder, module))
        for engine in hooks.HOOKS:
            patch_when(engine, functools.partial(hooks.hook, recorder))
        yield recorder
