"""Pure functions from an attention call to what the library launches, and back."""

from __future__ import annotations

from attnprof.dispatch.heuristic import num_splits_array, num_splits_heuristic
from attnprof.dispatch.predict import default_version, predict

__all__ = ["default_version", "num_splits_array", "num_splits_heuristic", "predict"]
