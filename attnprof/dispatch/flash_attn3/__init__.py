"""FlashAttention-3, ``hopper/`` in the repository of flash_attn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnprof.dispatch.flash_attn3.versions import num_splits_heuristic, should_pack_gqa

__all__ = ["num_splits_heuristic", "should_pack_gqa"]


def __getattr__(name: str) -> Any:
    """Its two heuristics, imported when first used: to read a kernel's name needs no rules."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from attnprof.dispatch.flash_attn3 import versions

    return getattr(versions, name)
