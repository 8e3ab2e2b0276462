"""Knows which model forward (prefill, decode step) and which decoder layer the program is in.

Works on any Hugging Face model: the outermost PreTrainedModel called is one step, and each block of a
ModuleList that holds exactly one ``layer_idx`` is a layer.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attnprof.instrument.models import describe_model
from attnprof.instrument.recorder import Recorder

MODULE = "transformers.modeling_utils"
_TOKENS = ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds")


def patch(recorder: Recorder, modeling_utils: Any) -> Callable[[], None]:
    """Makes every PreTrainedModel report its forwards and layers; returns what undoes all of it."""
    model_class = modeling_utils.PreTrainedModel
    watcher = StepWatcher(recorder)
    replaced = {"__call__": model_class.__call__}
    if hasattr(model_class, "get_compiled_call"):  # what generate() compiles decode with
        replaced["get_compiled_call"] = model_class.get_compiled_call
    inherited = {name for name in replaced if name not in vars(model_class)}
    call = replaced["__call__"]

    @functools.wraps(call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        return watcher.forward(self, functools.partial(call, self), args, kwargs)

    def get_compiled_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled = replaced["get_compiled_call"](self, *args, **kwargs)
        return lambda *a, **kw: watcher.forward(self, compiled, a, kw)

    model_class.__call__ = __call__
    if "get_compiled_call" in replaced:
        model_class.get_compiled_call = functools.wraps(replaced["get_compiled_call"])(get_compiled_call)

    def restore() -> None:
        for name, original in replaced.items():
            if name in inherited:
                delattr(model_class, name)
            else:
                setattr(model_class, name, original)
        watcher.remove()

    return restore


class StepWatcher:
    """Turns forwards of models into steps, and their blocks into layers."""

    def __init__(self, recorder: Recorder) -> None:
        import torch

        self._recorder = recorder
        self._is_compiling = torch.compiler.is_compiling
        self._models: weakref.WeakSet[Any] = weakref.WeakSet()
        self._decoding: weakref.WeakSet[Any] = weakref.WeakSet()  # models past their prefill
        self._seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._hooks: list[Any] = []

    def forward(
        self, model: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Calls the model, inside a step if it is the outermost one."""
        recorder = self._recorder
        if self._is_compiling() or recorder.paused or recorder.in_step:
            return call(*args, **kwargs)
        if model not in self._models:
            self._models.add(model)
            self._hook_layers(model)
            if recorder.model is None:
                attn = getattr(model.config, "_attn_implementation", None)
                recorder.found_model(describe_model(model), attn)
        tokens = next((kwargs[n] for n in _TOKENS if kwargs.get(n) is not None), None)
        if tokens is None and args:
            tokens = args[0]
        batch, seqlen_q = _batch_and_length(tokens)
        past = self._past_length(find_cache((*kwargs.values(), *args)), seqlen_q)
        recorder.begin_step(
            self._phase(model, past, seqlen_q), seqlen_q, None if seqlen_q is None else past + seqlen_q, batch
        )
        try:
            return call(*args, **kwargs)
        finally:
            recorder.end_step()

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _phase(self, model: Any, past: int, seqlen_q: int | None) -> str:
        """Empty cache: prefill. One token: decode. More: a prefill chunk, or a verification once decoding."""
        if past == 0:
            self._decoding.discard(model)
        elif seqlen_q == 1:
            self._decoding.add(model)
        return "decode" if model in self._decoding else "prefill"

    def _past_length(self, cache: Any, seqlen_q: int | None) -> int:
        """Tokens already in a cache; counted here where asking would wait for the device."""
        if cache is None:
            return 0
        if isinstance(cache, tuple | list):
            return int(cache[0][0].shape[-2])
        try:
            past = cache.get_seq_length()
        except (ValueError, RuntimeError, TypeError, AttributeError, IndexError):
            past = self._seen.get(cache, 0)  # one of recurrent layers alone holds no keys to be counted
        if not isinstance(past, int):
            on_host = past.device.type == "cpu"
            past = int(past) if on_host or cache not in self._seen else self._seen[cache]
        self._seen[cache] = past + (seqlen_q or 0)
        return past

    def _hook_layers(self, model: Any) -> None:
        for block, layer in decoder_layers(model):
            hook = _LayerHook(self._recorder, layer, self._is_compiling)
            self._hooks.append(block.register_forward_pre_hook(hook.enter))
            self._hooks.append(block.register_forward_hook(hook.leave, always_call=True))


class _LayerHook:
    def __init__(self, recorder: Recorder, layer: int, is_compiling: Callable[[], bool]) -> None:
        self._recorder = recorder
        self._layer = layer
        self._is_compiling = is_compiling
        self._outer: list[int | None] = []

    def enter(self, block: Any, args: Any) -> None:
        if not self._is_compiling() and not self._recorder.paused:
            self._outer.append(self._recorder.begin_layer(self._layer))

    def leave(self, block: Any, args: Any, output: Any) -> None:
        if self._outer and not self._is_compiling():
            self._recorder.end_layer(self._outer.pop())


def find_cache(arguments: Iterable[Any]) -> Any:
    """The argument that is a cache, whatever its name: what can say how much it holds.

    Or one (key, value, …) per layer, as before transformers had cache classes. None where there is none.
    """
    return next((value for value in arguments if _is_cache(value)), None)


def _is_cache(value: Any) -> bool:
    if isinstance(value, tuple | list):
        layer = value[0] if value else ()
        pair = isinstance(layer, tuple | list) and len(layer) >= 2
        return pair and all(getattr(tensor, "ndim", 0) == 4 for tensor in layer[:2])
    return hasattr(value, "get_seq_length")


def decoder_layers(model: Any) -> Iterator[tuple[Any, int]]:
    """(block, layer index) of each decoder layer; the attention module itself where no block encloses it."""
    from torch.nn import ModuleList

    found: set[int] = set()
    for module in model.modules():
        if isinstance(module, ModuleList) and id(module) not in found:
            for block in module:
                indices = {index for m in block.modules() if (index := _layer_index(m)) is not None}
                if len(indices) == 1 and id(block) not in found:
                    found.update(id(m) for m in block.modules())
                    yield block, indices.pop()
    for module in model.modules():
        index = _layer_index(module)
        if index is not None and id(module) not in found:
            found.update(id(m) for m in module.modules())
            yield module, index


def _layer_index(module: Any) -> int | None:
    index = getattr(module, "layer_idx", None)
    return index if type(index) is int else None


def _batch_and_length(tokens: Any) -> tuple[int | None, int | None]:
    """(batch, tokens per sequence) of ids [B, S] or embeddings [B, S, H]."""
    sizes = getattr(tokens, "shape", None)
    if sizes is None or len(sizes) < 2:
        return None, None
    return int(sizes[0]), int(sizes[1])
