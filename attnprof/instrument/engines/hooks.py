"""Which module of an engine or library is hooked by what, once the program imports it.

To add one: a file beside this one with a function ``(recorder, module) -> undo``, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from attnprof.instrument.recorder import Recorder

_HERE = __name__.rpartition(".")[0]

HOOKS: dict[str, str] = {  # module -> file of this folder and its function
    "vllm._custom_ops": "vllm_cpu:patch",
    "vllm.v1.worker.gpu_model_runner": "vllm_steps:patch",
    "vllm.v1.worker.gpu.model_runner": "vllm_steps:patch",
}


def hook(recorder: Recorder, module: ModuleType) -> Callable[[], None]:
    """Hooks a module of ``HOOKS``; returns what undoes it. Raises where it is not as the hook knows it."""
    file, _, function = HOOKS[module.__name__].partition(":")
    undo: Callable[[], None] = getattr(import_module(f"{_HERE}.{file}"), function)(recorder, module)
    return undo
