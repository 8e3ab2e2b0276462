"""What other versions' rules would do with a call: the split count, kernel and grid each would give it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnprof.dispatch.libraries import library, predict
from attnprof.dispatch.names.kernel_names import parse_kernel_name, short_name
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu


@dataclass(frozen=True, slots=True)
class Otherwise:
    """A prediction for a call made otherwise: ``whose`` rule gives it, or what would be passed.

    ``version`` of the call's library predicts it, ``kernel`` and ``grid`` are of its main launch.
    """

    whose: str
    version: str
    num_splits: int
    kernel: str
    grid: tuple[int, int, int]


def of_other_versions(call: AttentionCall, gpu: Gpu, version: str) -> list[Otherwise]:
    """What the call gets by the rules of other versions, newest first, where its split count is another."""
    own = _made(call, gpu, version, "")
    asked = library(call.library)
    known = asked.known_versions()
    made = [_made(call, gpu, other, f"{call.library} {other}") for other in known]
    newest = made[-1] if made else None
    since = len(made)
    while since and newest and (one := made[since - 1]) and one.num_splits == newest.num_splits:
        since -= 1
    if newest and since < len(made) - 1:  # what the newest gives, the oldest with it is easier to have
        made[since:] = [replace(newest, whose=f"{call.library} from {known[since]} on", version=known[since])]
    made.reverse()
    made += [_made(other, gpu, version, whose) for whose, other in asked.asked_by_others(call)]
    different: dict[int, Otherwise] = {}
    for one in made:
        if one is not None and own is not None and one.num_splits != own.num_splits:
            different.setdefault(one.num_splits, one)
    return list(different.values())


def with_splits(call: AttentionCall, gpu: Gpu, version: str, num_splits: int) -> Otherwise | None:
    """What a given ``num_splits`` would launch, 0: the library's own choice; None where it is not taken."""
    made = _made(replace(call, num_splits=num_splits), gpu, version, f"num_splits={num_splits}")
    return made if made is not None and num_splits in (0, made.num_splits) else None


def _made(call: AttentionCall, gpu: Gpu, version: str, whose: str) -> Otherwise | None:
    try:
        made = predict(call, gpu, version)
    except UsageError:
        return None
    if made.error or not made.launches or made.num_splits is None:
        return None
    launches = [one for one in made.launches if parse_kernel_name(one.kernel).role == "main"]
    main = (launches or made.launches)[0]
    return Otherwise(whose, version, made.num_splits, short_name(main.kernel), main.grid)
