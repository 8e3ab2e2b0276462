"""The facts of a transformers model that decide its attention."""

from __future__ import annotations

from typing import Any

from attnprof.instrument.recorder import dtype_name


def describe_model(model: Any, name: str | None = None, weights: str | None = None) -> dict[str, Any]:
    """Name, geometry, dtype and size; None where the model's config does not say.

    A model that names no origin may hold any weights: "weights" is then None.
    """
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    heads = getattr(config, "num_attention_heads", None)
    hidden = getattr(config, "hidden_size", None)
    head_dim = getattr(config, "head_dim", None)
    return {
        "name": name or model.config.name_or_path or type(model).__name__,
        "num_layers": getattr(config, "num_hidden_layers", None),
        "num_heads": heads,
        "num_heads_k": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": head_dim or (hidden // heads if hidden and heads else None),
        "hidden_size": hidden,
        "dtype": dtype_name(getattr(model, "dtype", None)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": weights or ("loaded" if model.config.name_or_path else None),
    }
