"""Attention of models that servers run and no small stand-in is made of: latents, sinks, windows.

Source: each model's own config.json.
"""

from __future__ import annotations

from dataclasses import dataclass

_LATENT, _ROTATED = 512, 64


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A layer's attention as a model's configuration states it; ``mla``: ``head_dim`` is a cache row's.

    ``deepseek``: its architecture is DeepseekV3ForCausalLM.
    ``num_heads_k`` of an ``mla`` model is what the configuration says, though its cache has one row a key.
    """

    num_heads: int
    num_heads_k: int
    head_dim: int
    mla: bool = False
    sparse: bool = False
    sinks: bool = False
    deepseek: bool = False


SERVED = {
    "deepseek-v2-lite": ServedModel(16, 16, _LATENT + _ROTATED, mla=True),
    "deepseek-v2": ServedModel(128, 128, _LATENT + _ROTATED, mla=True),
    "deepseek-v3": ServedModel(128, 128, _LATENT + _ROTATED, mla=True, deepseek=True),
    "deepseek-r1": ServedModel(128, 128, _LATENT + _ROTATED, mla=True, deepseek=True),
    "deepseek-v3.2": ServedModel(128, 128, _LATENT + _ROTATED, mla=True, sparse=True),
    "kimi-k2": ServedModel(64, 64, _LATENT + _ROTATED, mla=True, deepseek=True),
    "gpt-oss-120b": ServedModel(64, 8, 64, sinks=True),
    "gpt-oss-20b": ServedModel(64, 8, 64, sinks=True),
}
