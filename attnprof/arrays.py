"""Array operations that several stages share. numpy only; no type of attnprof's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def distinct_rows(columns: Sequence[npt.NDArray[np.integer]]) -> tuple[list[Ints], Ints]:
    """The distinct rows of equally long integer columns, sorted, and where each row went.

    Rows whose columns fit 62 bits together are compared as one word, others column by column.
    """
    wide = [np.ascontiguousarray(column, dtype=np.int64) for column in columns]
    if not len(wide[0]):
        return [column[:0] for column in wide], np.zeros(0, dtype=np.int64)
    lows = [int(column.min()) for column in wide]
    widths = [(int(column.max()) - low).bit_length() for column, low in zip(wide, lows, strict=True)]
    if sum(widths) > 62:
        unique, inverse = np.unique(np.stack(wide, axis=1), axis=0, return_inverse=True)
        return list(unique.T), inverse.ravel()
    key = np.zeros(len(wide[0]), dtype=np.int64)
    for column, low, width in zip(wide, lows, widths, strict=True):
        key = (key << width) | (column - low)
    key, inverse = np.unique(key, return_inverse=True)
    unpacked = []
    for low, width in zip(reversed(lows), reversed(widths), strict=True):
        unpacked.append((key & ((1 << width) - 1)) + low)
        key = key >> width
    return unpacked[::-1], inverse
