"""Pure functions from an attention call to what the library launches, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnprof.dispatch.heuristic import num_splits_array, num_splits_heuristic
    from attnprof.dispatch.libraries import default_version, predict

__all__ = ["default_version", "num_splits_array", "num_splits_heuristic", "predict"]


def __getattr__(name: str) -> Any:
    """The public functions, imported when first used: help lists libraries and predicts nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from attnprof.dispatch import heuristic, libraries

    return getattr(heuristic if name.startswith("num_splits") else libraries, name)
