"""Ranges around a model's modules, each told by what it is made of; only where they are asked for.

A norm is a leaf with an epsilon and no matrix; the attention of a block is what has heads; its MLP is what
maps the hidden size up and back down; experts hold matrices side by side, and a router has an output per
expert. What is none of these, as a state-space mixer, gets no range.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attnprof.instrument.recorder import Recorder
from attnprof.model import MODULE_KINDS, MODULES

RANGE = "module"
_EPSILON = ("eps", "epsilon", "variance_epsilon", "norm_eps", "layer_norm_eps")
_HEADS = (
    "num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "num_key_value_groups",
    "n_head", "n_heads", "is_causal",
)  # fmt: skip
_SIZES = (("in_features", "out_features"), ("input_size", "output_size"), ("nx", "nf"))


def wanted() -> bool:
    """Whether this process was asked to record them."""
    return os.environ.get(MODULES) == "1"


class ModuleRanges:
    """Puts a range around the forward of each module that has a kind; ``remove`` takes them off."""

    def __init__(self, recorder: Recorder, outside: Callable[[], bool] = lambda: False) -> None:
        """``outside`` says of this thread that what runs now is none of the model, as a vision tower."""
        import torch

        self._recorder, self._outside = recorder, outside
        self._channel = recorder.ranges.channel(RANGE)
        self._is_compiling = torch.compiler.is_compiling
        self._watched: dict[int, Any] = {}

    def watch(self, model: Any, blocks: Iterable[Any]) -> None:
        """Of the model whose layers the ``blocks`` are; once per module, however often it is met."""
        for module, kind in module_kinds(model, list(blocks)):
            if id(module) not in self._watched and "forward" not in vars(module):
                self._watched[id(module)] = module
                module.forward = self._within(module.forward, MODULE_KINDS.index(kind))

    def _within(self, forward: Callable[..., Any], kind: int) -> Callable[..., Any]:
        recorder, outside, channel, is_compiling = (
            self._recorder, self._outside, self._channel, self._is_compiling,
        )  # fmt: skip

        @functools.wraps(forward)
        def within(*args: Any, **kwargs: Any) -> Any:
            if is_compiling() or recorder.paused or outside():
                return forward(*args, **kwargs)
            channel.push(kind)
            try:
                return forward(*args, **kwargs)
            finally:
                channel.pop()

        return within

    def remove(self) -> None:
        """Every module is as it was."""
        for module in self._watched.values():
            vars(module).pop("forward", None)
        self._watched.clear()


def module_kinds(model: Any, blocks: list[Any]) -> Iterator[tuple[Any, str]]:
    """(module, its kind, one of MODULE_KINDS) of those that have one."""
    for block in blocks:
        yield from _of_block(block)
    for module in model.modules():
        if _is_norm(module):
            yield module, "norm"
        elif _is_embedding(module):
            yield module, "embedding"
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for one in (head, getattr(model, "logits_processor", None)):
        if one is not None and callable(getattr(one, "forward", None)) and not _is_embedding(one):
            yield one, "LM head"


def _of_block(block: Any) -> Iterator[tuple[Any, str]]:
    """A layer's attention, MLP, experts and router."""
    hidden = _hidden_size(block)
    rest = []
    for part in _children(block):
        if _is_norm(part) or _is_mixer(part):
            continue
        if any(_has_heads(module) for module in part.modules()):
            yield part, "attention"
        elif experts := _experts(part, hidden):
            yield part, "experts"
            yield from ((one, "router") for one in _routers(part, *experts))
        else:
            rest.append(part)
    whole = [part for part in rest if _is_mlp([part], hidden)]
    if not whole and _is_mlp(rest, hidden):  # up and down are modules of their own
        whole = [part for part in rest if any(_sizes(module) for module in part.modules())]
    yield from ((part, "MLP") for part in whole)


def _children(block: Any) -> Iterator[Any]:
    """The modules a block is made of; of a list of them, its members."""
    for child in block.children():
        if type(child).__name__ == "ModuleList":
            yield from child
        else:
            yield child


def _is_leaf(module: Any) -> bool:
    return next(module.children(), None) is None


def _is_norm(module: Any) -> bool:
    if not _is_leaf(module) or not any(isinstance(getattr(module, n, None), float) for n in _EPSILON):
        return False
    return all(parameter.dim() <= 1 for parameter in module.parameters())


def _is_embedding(module: Any) -> bool:
    return _is_leaf(module) and hasattr(module, "num_embeddings") and hasattr(module, "embedding_dim")


def _has_heads(module: Any) -> bool:
    return any(isinstance(getattr(module, name, None), int) for name in _HEADS)


def _is_mixer(part: Any) -> bool:
    """Whether a convolution is in it, as in state-space and other mixers that are no attention."""
    return any(_kernel_size(module) > 1 for module in part.modules())


def _kernel_size(module: Any) -> int:
    size = getattr(module, "kernel_size", 1)
    return max(size, default=1) if isinstance(size, tuple) else size if isinstance(size, int) else 1


def _sizes(module: Any) -> tuple[int, int] | None:
    """(in, out) of a matrix product with weights; None of other modules."""
    if not _is_leaf(module):
        return None
    for names in _SIZES:
        found = tuple(getattr(module, name, None) for name in names)
        if all(isinstance(size, int) for size in found):
            return found  # type: ignore[return-value]
    weight: Any = getattr(module, "weight", None)
    if weight is not None and weight.dim() == 2 and not _is_embedding(module):
        return int(weight.shape[1]), int(weight.shape[0])
    return None


def _hidden_size(block: Any) -> int | None:
    """The width of what passes from layer to layer: that of the block's own norms, else of its widest."""
    for modules in (_children(block), block.modules()):
        norms = [module for module in modules if _is_norm(module)]
        widths = [int(p.shape[0]) for module in norms for p in module.parameters() if p.dim() == 1]
        if widths:
            return max(widths)
    return None


def _is_mlp(parts: list[Any], hidden: int | None) -> bool:
    """Whether all their weights are of matrix products from the hidden size or back to it, and norms."""
    modules = [module for part in parts for module in part.modules()]
    sizes = [size for module in modules if (size := _sizes(module))]
    into, out = [one for one in sizes if one[0] == hidden], [one for one in sizes if one[1] == hidden]
    if not into or not out or len(sizes) < 2 or not all(hidden in one for one in sizes):
        return False
    held = [module for module in modules if next(module.parameters(recurse=False), None) is not None]
    return all(_sizes(module) or _is_norm(module) for module in held)


def _experts(part: Any, hidden: int | None) -> tuple[list[Any], set[int]] | None:
    """(what holds the experts, how many they may be) of a mixture of experts; None of anything else."""
    for module in part.modules():
        stacked = {
            int(p.shape[0]) for p in module.parameters(recurse=False) if p.dim() == 3 and p.shape[0] > 1
        }
        if stacked:
            told = {getattr(module, name, None) for name in ("num_experts", "global_num_experts")}
            return [module], stacked | {count for count in told if isinstance(count, int)}
        if type(module).__name__ == "ModuleList" and len(module) > 1:
            alike = len({type(one) for one in module}) == 1
            if alike and all(_is_mlp([one], hidden) for one in module):
                return list(module), {len(module)}
    return None


def _routers(part: Any, experts: list[Any], counts: set[int]) -> Iterator[Any]:
    """What has an output per expert, and no expert inside."""
    inside = {id(module) for one in experts for module in one.modules()}
    for module in part.modules():
        if id(module) in inside or any(id(one) in inside for one in module.modules()):
            continue
        weights = [p for p in module.parameters(recurse=False) if p.dim() == 2]
        if any(int(weight.shape[0]) in counts for weight in weights):
            yield module
