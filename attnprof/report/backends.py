"""Which backend took the calls of a run, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnprof.analysis.backends import BackendUse

_SHOWN = 3


def backend_sentences(uses: Sequence[tuple[BackendUse, int]]) -> list[str]:
    """One sentence per backend and reason; of many the most frequent."""
    said = [_sentence(use, calls) for use, calls in uses[:_SHOWN]]
    more = len(uses) - _SHOWN
    return [*said, f"{more} more backends or reasons are left out."] if more > 0 else said


def _sentence(use: BackendUse, calls: int) -> str:
    count = "1 call" if calls == 1 else f"{calls:,} calls"
    took = f"{use.library}'s {use.backend} backend took {count}"
    if not use.recorded:
        return f"{took}; why is not told: their arguments were not recorded."
    named = f"{use.library} {use.version}"
    if use.otherwise:
        return (
            f"{took}, for whose arguments {named} takes {use.otherwise}: what is not recorded decided, such "
            f"as gradients, a disabled backend or another {'build' if use.stated else 'version'}."
        )
    if not use.ruled_out:
        return f"{took}; why is not told: how {named if use.version else use.library} chooses is not known."
    reasons: dict[str, list[str]] = {}
    for reason in use.ruled_out:
        reasons.setdefault(reason.why, []).append(reason.rule)
    others = "; ".join(f"{_and(names)}: {why}" for why, names in reasons.items())
    whose = named if use.stated else f"{named}, whose launches these could be,"
    return f"{took} (as {whose} chooses; not {others})."


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
