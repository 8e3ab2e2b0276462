"""How many thread blocks an SM holds, and from what that is known, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnprof.analysis.sm_fill import SmFill


def at_most(fill: SmFill) -> str:
    """Thread blocks per SM, marked where that is an upper bound."""
    return str(fill.per_sm) if fill.exact else f"\N{LESS-THAN OR EQUAL TO}{fill.per_sm}"


def per_sm(fill: SmFill) -> str:
    """The same as words behind a launch."""
    if fill.exact:
        return f"{fill.per_sm} per SM ({fill.registers} registers a thread)"
    return f"at most {fill.per_sm} per SM"


def fill_note(fills: Sequence[SmFill]) -> str:
    """What "per SM" rests on: the builds that were read, and what is only an upper bound."""
    told = [
        f"per SM of {kernels}: registers ({_listed(registers)} a thread), shared memory and threads, "
        f"as read in {source}"
        for source, kernels, registers in _by_source([fill for fill in fills if fill.exact])
    ]
    if any(not fill.exact for fill in fills):
        told.append(
            "≤ per SM: what threads and shared memory admit, at most what the library counts; the kernel's "
            "registers, read in no build of this version for this GPU, may admit fewer"
        )
    return "; ".join(told)


def _by_source(fills: Sequence[SmFill]) -> list[tuple[str, str, list[int]]]:
    sources = dict.fromkeys(fill.source for fill in fills)
    mine = {source: [fill for fill in fills if fill.source == source] for source in sources}
    return [
        (source, _listed(each.kernel for each in found), [each.registers or 0 for each in found])
        for source, found in mine.items()
    ]


def _listed(values: Iterable[object]) -> str:
    return " and ".join(dict.fromkeys(map(str, values)))
