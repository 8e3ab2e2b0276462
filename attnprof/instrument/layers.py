"""Knows which layer a thread is in: where the forward of a model's block begins and ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from attnprof.instrument.forwarding import standing_before
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.slots import of_layer


class Layers:
    """Opens and closes the range of a layer around the forward of its block.

    It stands at the forward of the block's class: a hook makes torch take the slow way through each call of a
    module, which costs more than all of this, and is copied and pickled with the module. Where a block has a
    forward of its own, the class's is not the one that is called: there it is hooks, as where the class's is
    no function of Python's.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._layers: dict[int, tuple[int, int]] = {}  # by id of the block: its number, and as part of a slot
        self._blocks: dict[int, weakref.ref[Any]] = {}
        self._undo: dict[type, Callable[[], None] | None] = {}
        self._hooks: list[Any] = []

    def watch(self, block: Any, layer: int) -> None:
        """From now on the block is this layer; what it is already, it stays."""
        key = id(block)
        if key in self._layers:
            return
        layers, blocks = self._layers, self._blocks

        def forget(gone: weakref.ref[Any]) -> None:
            del layers[key], blocks[key]

        layers[key], blocks[key] = (layer, of_layer(layer)), weakref.ref(block, forget)
        if "forward" not in vars(block):
            if type(block) not in self._undo:
                self._undo[type(block)] = self._stand_at(type(block))
            if self._undo[type(block)] is not None:
                return
        hook = _Hook(self._recorder, layer)
        self._hooks.append(block.register_forward_pre_hook(hook.enter))
        self._hooks.append(block.register_forward_hook(hook.leave, always_call=True))

    def remove(self) -> None:
        """No block is watched any more."""
        for undo in filter(None, self._undo.values()):
            undo()
        for hook in self._hooks:
            hook.remove()
        self._undo.clear()
        self._hooks.clear()
        self._layers.clear()
        self._blocks.clear()

    def _stand_at(self, cls: Any) -> Callable[[], None] | None:
        """What puts the class's forward back; None for one that nothing can stand before."""
        import torch

        own, original = "forward" in vars(cls), cls.forward
        recorder, is_compiling = self._recorder, torch.compiler.is_compiling
        made = standing_before(
            original,
            _FORWARD,
            compiling=is_compiling,
            layers=self._layers,
            recorder=recorder,
            push=recorder.push_layer,
            pop=recorder.pop_layer,
        )
        if made is None:
            return None
        cls.forward = forward = made

        def restore() -> None:
            if vars(cls).get("forward") is not forward:
                return
            if own:
                cls.forward = original
            else:
                del cls.forward

        return restore


# What ``Recorder.begin_layer`` and ``end_layer`` do, whose calls would be a third of what a layer costs. A
# layer that is open already is one whose forward calls its base class's.
_FORWARD = """
    if _attnprof_compiling() or _attnprof_recorder.paused:
        return _attnprof_original({handed})
    _attnprof_layer = _attnprof_layers.get(id({first}))
    if _attnprof_layer is None:
        return _attnprof_original({handed})
    _attnprof_here = _attnprof_recorder.context.here
    _attnprof_outer = _attnprof_here.place
    _attnprof_place = _attnprof_here.step_place | _attnprof_layer[1]
    if _attnprof_here.in_tower or _attnprof_place == _attnprof_outer:
        return _attnprof_original({handed})
    _attnprof_here.place = _attnprof_place
    _attnprof_push(_attnprof_layer[0])
    try:
        return _attnprof_original({handed})
    finally:
        _attnprof_pop()
        _attnprof_here.place = _attnprof_outer
"""


class _Hook:
    """The same around a block that has a forward of its own."""

    def __init__(self, recorder: Recorder, layer: int) -> None:
        import torch

        self._recorder, self._layer = recorder, layer
        self._is_compiling = torch.compiler.is_compiling
        self._outer: list[int] = []

    def enter(self, block: Any, args: Any) -> None:
        recorder = self._recorder
        if not (self._is_compiling() or recorder.paused or recorder.context.here.in_tower):
            self._outer.append(recorder.begin_layer(self._layer))

    def leave(self, block: Any, args: Any, output: Any) -> None:
        if self._outer and not self._is_compiling():
            self._recorder.end_layer(self._outer.pop())
