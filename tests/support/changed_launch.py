"""Launches of a call with one field of one kernel changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from attnprof.model import KernelLaunch


def with_field(
    launches: Sequence[KernelLaunch], number: int, field: str, value: Any
) -> tuple[KernelLaunch, ...]:
    """Of launch ``number`` the grid or block set to ``value``, or in its name one text put for another."""
    launch = launches[number]
    new = launch.kernel.replace(*value) if field == "kernel" else value
    assert new != getattr(launch, field)
    changed = [*launches]
    changed[number] = replace(launch, **{field: new})
    return tuple(changed)
