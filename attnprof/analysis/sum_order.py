"""In which order launches add up: the kernels and their tiles, which with the split count settle it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnprof.dispatch.names.kernel_names import parse_kernel_name, short_name
from attnprof.dispatch.names.template import template_fields
from attnprof.model import KernelLaunch


@dataclass(frozen=True, slots=True)
class SumOrder:
    """``kernels``: the launched kernels' own names.  ``tile``: queries x keys of the main one's thread block,
    and the combine kernel's block; "" where names do not tell.  ``tiles_told``: they tell of each that sums.
    """

    kernels: str
    tile: str
    tiles_told: bool = True


def sum_order(launches: Sequence[KernelLaunch]) -> SumOrder:
    """The order of the sums of a call's launches, besides its split count."""
    signatures = [parse_kernel_name(launch.kernel) for launch in launches]
    kernels = " + ".join(signature.kernel for signature in signatures)
    tiles, told = [], True
    for launch, signature in zip(launches, signatures, strict=True):
        fields: dict[str, Any] = dict(template_fields(launch.kernel) or ())
        if "combine" in signature.family:
            rows = [str(fields[name]) for name in ("combine_block_m", "combine_block_k") if fields.get(name)]
            tiles.append(f"combine {' x '.join(rows)}" if rows else "")
        elif fields.get("block_m"):
            tiles.append(f"{fields['block_m']} x {fields['block_n']}")
        elif signature.family != "scheduler_aux":
            told = False
    return SumOrder(kernels, ", ".join(filter(None, tiles)), told and all(tiles))


def launched(launches: Sequence[KernelLaunch]) -> str:
    """The kernels' own names, in order."""
    return " + ".join(short_name(launch.kernel) for launch in launches)
