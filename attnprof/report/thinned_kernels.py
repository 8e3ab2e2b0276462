"""Fewer rows for a page's timeline: what runs between attention kernels is merged, attention stays whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
MOST_ROWS = 2_500_000  # a page of so many kernels is below 40 MB
_ATTENTION = 0
_LONGEST_RUN = 4096  # kernels of one merged row


def thinned(
    columns: dict[str, Int64], lane: Int64, kinds: list[Any], role_of_kind: Sequence[int]
) -> tuple[dict[str, Int64], Int64, int]:
    """(columns with a ``count``, lanes, how many rows were merged) of rows in order of lane and start.

    Consecutive rows of one lane, step and layer that do not attend become one: from the first one's start, as
    long as their durations together, of the kind that took longest. Longer runs where it is still too many.
    """
    role = np.array(role_of_kind, np.int64)[columns["kind"]]
    for coarse in (False, True):
        begins = np.ones(len(lane), np.bool_)
        alike = (role[1:] != _ATTENTION) & (role[:-1] != _ATTENTION) & (lane[1:] == lane[:-1])
        for key in () if coarse else ("step", "layer"):
            alike &= columns[key][1:] == columns[key][:-1]
        begins[1:] = ~alike
        first = np.flatnonzero(begins)
        begins |= (np.arange(len(lane)) - first[np.cumsum(begins) - 1]) % _LONGEST_RUN == 0
        first = np.flatnonzero(begins)
        if len(first) <= MOST_ROWS:
            break
    count = np.diff(np.append(first, len(lane)))
    merged = {key: values[first] for key, values in columns.items()}
    merged["took"] = np.add.reduceat(columns["took"], first)
    merged["count"] = count
    run = np.cumsum(begins) - 1
    order = np.lexsort((columns["took"], run))  # the longest of each run comes last in it
    merged["kind"] = columns["kind"][order[np.cumsum(count) - 1]]
    return merged, lane[first], int(count[count > 1].sum())
