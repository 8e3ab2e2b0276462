"""What a kernel's name says of its template, whichever modelled library launched it, and what differs."""

from __future__ import annotations

from functools import lru_cache

from attnprof.dispatch import libraries


@lru_cache(maxsize=4096)
def template_fields(kernel: str) -> tuple[tuple[str, object], ...] | None:
    """The template arguments of a kernel by the names the source gives them.

    None of kernels that are not modelled, of cut names, and of argument lists that no known version has.
    """
    return libraries.template_fields(kernel)


def template_difference(predicted: str, observed: str) -> str:
    """The fields in which two kernels' templates differ, as ``field: ran x, predicted y``.

    "" where they agree, and where one of them cannot be read.
    """
    wanted, ran = template_fields(predicted), template_fields(observed)
    if wanted is None or ran is None or wanted == ran:
        return ""
    ours, theirs = dict(wanted), dict(ran)
    return "; ".join(
        f"{field}: ran {theirs.get(field)}, predicted {ours.get(field)}"
        for field in dict.fromkeys([*ours, *theirs])
        if theirs.get(field) != ours.get(field)
    )
