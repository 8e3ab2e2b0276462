"""Knows which layer a thread is in: where the forward of a model's block begins and ends."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from attnprof.instrument.recorder import Recorder


class Layers:
    """Opens and closes the range of a layer around the forward of its block.

    It stands at the forward of the block's class: a hook makes torch take the slow way through each call of a
    module, which costs more than all of this, and is copied and pickled with the module. Where a block has a
    forward of its own, the class's is not the one that is called: there it is hooks.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._layers: dict[int, int] = {}  # by id of the block
        self._blocks: dict[int, weakref.ref[Any]] = {}
        self._undo: dict[type, Callable[[], None]] = {}
        self._hooks: list[Any] = []

    def watch(self, block: Any, layer: int) -> None:
        """From now on the block is this layer; what it is already, it stays."""
        key = id(block)
        if key in self._layers:
            return
        layers, blocks = self._layers, self._blocks

        def forget(gone: weakref.ref[Any]) -> None:
            del layers[key], blocks[key]

        layers[key], blocks[key] = layer, weakref.ref(block, forget)
        if "forward" in vars(block):
            hook = _Hook(self._recorder, layer)
            self._hooks.append(block.register_forward_pre_hook(hook.enter))
            self._hooks.append(block.register_forward_hook(hook.leave, always_call=True))
        elif type(block) not in self._undo:
            self._undo[type(block)] = self._stand_at(type(block))

    def remove(self) -> None:
        """No block is watched any more."""
        for undo in self._undo.values():
            undo()
        for hook in self._hooks:
            hook.remove()
        self._undo.clear()
        self._hooks.clear()
        self._layers.clear()
        self._blocks.clear()

    def _stand_at(self, cls: Any) -> Callable[[], None]:
        import torch

        own, original = "forward" in vars(cls), cls.forward
        recorder, layers, is_compiling = self._recorder, self._layers, torch.compiler.is_compiling

        @functools.wraps(original)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or (layer := layers.get(id(self))) is None or recorder.paused:
                return original(self, *args, **kwargs)
            here = recorder.context.here
            if here.in_tower or here.layer == layer:  # the latter where a forward calls its base class's
                return original(self, *args, **kwargs)
            outer = recorder.begin_layer(layer)
            try:
                return original(self, *args, **kwargs)
            finally:
                recorder.end_layer(outer)

        cls.forward = forward

        def restore() -> None:
            if vars(cls).get("forward") is not forward:
                return
            if own:
                cls.forward = original
            else:
                del cls.forward

        return restore


class _Hook:
    """The same around a block that has a forward of its own."""

    def __init__(self, recorder: Recorder, layer: int) -> None:
        import torch

        self._recorder, self._layer = recorder, layer
        self._is_compiling = torch.compiler.is_compiling
        self._outer: list[int | None] = []

    def enter(self, block: Any, args: Any) -> None:
        recorder = self._recorder
        if not (self._is_compiling() or recorder.paused or recorder.context.here.in_tower):
            self._outer.append(recorder.begin_layer(self._layer))

    def leave(self, block: Any, args: Any, output: Any) -> None:
        if self._outer and not self._is_compiling():
            self._recorder.end_layer(self._outer.pop())
