"""One version of one library explains all calls of a process: what only another launches is a finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.dispatch.explanation import ReadBack


def find_other_builds(
    observed: ObservedCalls, told: Sequence[ReadBack | None], mine: Int64
) -> Iterator[tuple[Int64, str]]:
    """Calls that only another version launches than the rest of their library's calls in this process."""
    calls = np.bincount(observed.shape[mine], minlength=len(observed.shapes)).tolist()
    groups: dict[str, list[int]] = {}
    for shape, back in enumerate(told):
        if calls[shape] and back is not None and back.explanations:
            groups.setdefault(observed.shapes[shape].main.library, []).append(shape)
    for shapes in groups.values():
        votes: Counter[Any] = Counter()
        for shape in shapes:
            back = told[shape]
            assert back is not None
            votes.update(dict.fromkeys(sorted(back.builds), calls[shape]))
        total = sum(calls[shape] for shape in shapes)
        build, most = votes.most_common(1)[0]
        if most == total:
            continue
        its = {
            observed.shapes[shape].main.kernel
            for shape in shapes
            if (back := told[shape]) and build in back.builds
        }
        for shape in shapes:
            back = told[shape]
            if back is None or build in back.builds:
                continue
            # Of a kernel that the other library does not have, it is no other build.
            if observed.shapes[shape].main.kernel in its or build[0] in {name for name, _ in back.builds}:
                rows = mine[observed.shape[mine] == shape]
                others = _build(next(iter(sorted(back.builds))))
                detail = (
                    f"only {others} launches this; {most:,} other calls of the process ran {_build(build)}"
                )
                yield rows, detail


def _build(build: tuple[str, tuple[str, str]]) -> str:
    library, (first, last) = build
    return f"{library} {first}" if first == last else f"{library} {first} to {last}"
