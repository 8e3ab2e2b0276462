"""What vLLM's model runner says of its model, and where its layers are."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from attnprof.instrument.engines.entry_point import patch_all
from attnprof.instrument.layers import Layers
from attnprof.instrument.modules import ModuleRanges, wanted
from attnprof.instrument.recorder import Recorder, dtype_name


def describe_runner(runner: Any) -> tuple[dict[str, Any], str | None]:
    """(facts of the model as ``instrument.models`` has them, name of the attention backend)."""
    config = runner.vllm_config.model_config
    text = config.hf_text_config
    heads = getattr(text, "num_attention_heads", None)
    window = getattr(text, "sliding_window", None)
    facts = {
        "name": str(config.model),
        "num_layers": getattr(text, "num_hidden_layers", None),
        "num_heads": heads,
        "num_heads_k": getattr(text, "num_key_value_heads", None) or heads,
        "head_dim": config.get_head_size(),
        "hidden_size": getattr(text, "hidden_size", None),
        "window": window if type(window) is int and getattr(text, "use_sliding_window", True) else None,
        "dtype": dtype_name(config.dtype),
        "parameters": sum(one.numel() for one in runner.get_model().parameters()),
        "weights": "random" if _load_format(runner) == "dummy" else "loaded",
    }
    backends = {backend_name(layer) for _, layer in attention_layers(runner.get_model())}
    return facts, ", ".join(sorted(name for name in backends if name)) or None


def _load_format(runner: Any) -> str:
    return str(getattr(runner.vllm_config.load_config, "load_format", ""))


def backend_name(layer: Any) -> str | None:
    """What vLLM calls the backend of an attention layer."""
    backend: Any = getattr(layer, "attn_backend", None)
    return str(backend.get_name()) if hasattr(backend, "get_name") else None


def attention_layers(model: Any) -> Iterator[tuple[int, Any]]:
    """(layer, attention module) of each attention layer: vLLM names each after its place in the model."""
    for module in model.modules():
        name = getattr(module, "layer_name", None)
        if isinstance(name, str) and hasattr(module, "impl"):
            numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
            if numbers:
                yield int(numbers[0]), module


def hook_layers(recorder: Recorder, runner: Any) -> Callable[[], None]:
    """Makes every decoder layer a range, or its attention alone where the model is compiled as a whole."""
    model, layers, blocks = runner.get_model(), Layers(recorder), list[Any]()
    undo: list[Callable[[], None]] = [layers.remove]
    for layer, attention in attention_layers(model):
        block = None if _compiles(runner) else _block(model, attention.layer_name, layer)
        if block is None:
            undo.append(_around_attention(recorder, attention.impl, layer))
        else:
            layers.watch(block, layer)
            blocks.append(block)
    if blocks and wanted() and recorder.ranges.active:
        modules = ModuleRanges(recorder)
        modules.watch(model, blocks)
        undo.append(modules.remove)
    return patch_all(undo)


def _compiles(runner: Any) -> bool:
    """Whether torch.compile takes the model: hooks of its blocks would be compiled away, or into it."""
    compilation = runner.vllm_config.compilation_config
    mode = getattr(compilation, "mode", getattr(compilation, "level", None))
    return bool(int(mode or 0))


def _block(model: Any, name: str, layer: int) -> Any:
    """The module that holds an attention layer, "model.layers.3" of "model.layers.3.self_attn.attn"."""
    before, number, _ = name.partition(f".{layer}.")
    try:
        return model.get_submodule(f"{before}.{layer}") if number else None
    except AttributeError:  # the names of its layers are not those of its modules
        return None


def _around_attention(recorder: Recorder, impl: Any, layer: int) -> Callable[[], None]:
    import torch

    forward, is_compiling = impl.forward, torch.compiler.is_compiling

    @functools.wraps(forward)
    def in_layer(*args: Any, **kwargs: Any) -> Any:
        if is_compiling() or recorder.paused:
            return forward(*args, **kwargs)
        outer = recorder.begin_layer(layer)
        try:
            return forward(*args, **kwargs)
        finally:
            recorder.end_layer(outer)

    impl.forward = in_layer
    return lambda: vars(impl).pop("forward", None) and None
