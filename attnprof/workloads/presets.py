"""Attention geometries of public models, for small random-weight stand-ins that need no download.

The attention kernels depend on heads, head_dim, window and softcap; not on the width of the rest. A preset
keeps the former exactly and shrinks the latter. Source: each model's own config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnprof.errors import UsageError

DEFAULT_MODEL = "qwen2.5-7b-attn"
_SUFFIX = "-attn"
_WIDTH = 448  # about: transformers wants a multiple of the number of heads
_SMALL = {"intermediate_size": 1024, "vocab_size": 1024, "max_position_embeddings": 131072}


@dataclass(frozen=True, slots=True)
class Preset:
    """A model's attention: ``layers`` is the model's own number; a run takes 2 unless told otherwise."""

    model_type: str
    num_heads: int
    num_heads_k: int
    head_dim: int
    layers: int
    more: tuple[tuple[str, Any], ...] = ()

    def config(self, num_layers: int) -> dict[str, Any]:
        """Arguments of the transformers config."""
        return {
            **_SMALL,
            "hidden_size": -(-_WIDTH // self.num_heads) * self.num_heads,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads_k,
            "head_dim": self.head_dim,
            "num_hidden_layers": num_layers,
            **dict(self.more),
        }


PRESETS = {
    "qwen2.5-0.5b": Preset("qwen2", 14, 2, 64, 24),
    "qwen2.5-1.5b": Preset("qwen2", 12, 2, 128, 28),
    "qwen2.5-7b": Preset("qwen2", 28, 4, 128, 28),
    "qwen2.5-14b": Preset("qwen2", 40, 8, 128, 48),
    "qwen2.5-72b": Preset("qwen2", 64, 8, 128, 80),
    "llama-2-7b": Preset("llama", 32, 32, 128, 32),
    "llama-2-13b": Preset("llama", 40, 40, 128, 40),
    "llama-2-70b": Preset("llama", 64, 8, 128, 80),
    "llama-3-8b": Preset("llama", 32, 8, 128, 32),
    "llama-3-70b": Preset("llama", 64, 8, 128, 80),
    "mistral-7b": Preset("mistral", 32, 8, 128, 32, (("sliding_window", None),)),  # v0.2 on; v0.1 has 4096
}
DEFAULT_LAYERS = 2


def find_preset(name: str) -> Preset | None:
    """The preset of that name, with or without "-attn"; None if there is none."""
    return PRESETS.get(name.lower().removesuffix(_SUFFIX))


def preset_name(name: str) -> str:
    """The name shown: "-attn" says that only the attention is that model's."""
    return name.lower().removesuffix(_SUFFIX) + _SUFFIX


def unknown_model(name: str) -> UsageError:
    """The error for a name that is no preset, folder or hub id."""
    return UsageError(
        f"no model {name!r}: it is no preset and no folder here",
        hint=f"presets: {', '.join(PRESETS)}; or a folder, or a hub id such as Qwen/Qwen2.5-0.5B",
    )
