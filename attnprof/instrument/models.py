"""The facts of a transformers model that decide its attention, and where its layers are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from attnprof.instrument.recorder import dtype_name


def describe_model(model: Any, name: str | None = None, weights: str | None = None) -> dict[str, Any]:
    """Name, geometry, dtype and size of its language model; None where the model's config does not say.

    A model that names no origin may hold any weights: "weights" is then None. "window" is the number of keys
    that sliding layers keep.
    """
    config = _text_config(model.config)
    heads = _first(config, "decoder_attention_heads", "num_attention_heads", "num_heads")
    hidden = getattr(config, "hidden_size", None)
    head_dim = _first(config, "head_dim", "d_kv")
    window = getattr(config, "sliding_window", None)
    return {
        "name": name or model.config.name_or_path or type(model).__name__,
        "num_layers": _first(config, "decoder_layers", "num_decoder_layers", "num_hidden_layers"),
        "num_heads": heads,
        "num_heads_k": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": head_dim or (hidden // heads if hidden and heads else None),
        "hidden_size": hidden,
        "window": window if type(window) is int else None,
        "dtype": dtype_name(getattr(model, "dtype", None)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": weights or ("loaded" if model.config.name_or_path else None),
    }


def _text_config(config: Any) -> Any:
    """The part of a model's config that its text decoder is made from."""
    try:
        return config.get_text_config(decoder=True)
    except (AttributeError, TypeError, ValueError):  # older, or of several decoders
        return config.get_text_config() if hasattr(config, "get_text_config") else config


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def is_decoder(model: Any) -> bool:
    """Whether a model generates, or is the part of one that does; else its forwards encode."""
    said = getattr(model, "is_decoder", None)
    if isinstance(said, bool):  # T5's two stacks are of one class
        return said
    if model.can_generate():
        return True
    causal = {module.is_causal for module in model.modules() if isinstance(_causal(module), bool)}
    if causal or getattr(model.config, "is_decoder", False):
        return True in causal or bool(getattr(model.config, "is_decoder", False))
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    parameters = inspect.signature(type(model).forward).parameters.values()
    takes_cache = any("Cache" in str(p.annotation) or p.name == "use_cache" for p in parameters)
    return takes_cache and model.config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _causal(module: Any) -> Any:
    return getattr(module, "is_causal", None)


def layers(model: Any) -> Iterator[tuple[Any, int]]:
    """(block, layer index) of each layer; the attention module itself where no block encloses it.

    Blocks without an index of their own, as an encoder's, count by their place among blocks alike.
    """
    from torch.nn import ModuleList

    found: set[int] = set()
    lists = [module for module in model.modules() if isinstance(module, ModuleList)]
    for blocks in lists:
        if id(blocks) not in found:
            for block in blocks:
                indices = {index for m in block.modules() if (index := _layer_index(m)) is not None}
                if len(indices) == 1 and id(block) not in found:
                    found.update(id(m) for m in block.modules())
                    yield block, indices.pop()
    for module in model.modules():
        index = _layer_index(module)
        if index is not None and id(module) not in found:
            found.update(id(m) for m in module.modules())
            yield module, index
    for blocks in lists:
        if not any(id(m) in found for m in blocks.modules()) and _are_alike(blocks):
            for index, block in enumerate(blocks):
                found.update(id(m) for m in block.modules())
                yield block, index


def _layer_index(module: Any) -> int | None:
    index = getattr(module, "layer_idx", None)
    return index if type(index) is int else None


def _are_alike(blocks: Any) -> bool:
    """Whether these are layers: of one class, each with attention inside."""
    if len({type(block) for block in blocks}) != 1:
        return False
    return all(any("attention" in type(m).__name__.lower() for m in b.modules()) for b in blocks)
