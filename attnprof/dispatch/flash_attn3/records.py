"""What a recorded call of flash_attn_3 passes that no other library takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNMODELLED = {"leftpad_k": "left padding"}


def not_modelled(record: Mapping[str, Any]) -> str:
    """Why a recorded call is not predicted; "" where it is."""
    passed = next((what for name, what in _UNMODELLED.items() if record.get(name)), None)
    return f"{passed} was passed, which is not modelled" if passed else ""


def arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """Its own arguments as fields of AttentionCall."""
    head_dim_v, given = record["v"][-1], int(record.get("num_splits") or 0)
    return {
        "head_dim_v": None if head_dim_v == record["q"][-1] else head_dim_v,
        "pack_gqa": record.get("pack_gqa"),
        "attention_chunk": int(record.get("attention_chunk") or 0),
        "sm_margin": int(record.get("sm_margin") or 0),
        "scheduler_metadata": bool(record.get("scheduler_metadata")),
        "has_qv": bool(record.get("qv")),
        # Its automatic choice, the library's 0, is AttentionCall's -1.
        "num_splits": -1 if given == 0 and "num_splits" in record else given,
    }
