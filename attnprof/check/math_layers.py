"""Layers whose attention torch's math backend computed, beside layers that an attention kernel served.

The backend launches no kernel of its own: a matrix product for the scores, a softmax, a product with the
values. A softmax between two products, one right after the other, is that; a router's softmax is followed by
its choice, a sampler's is in no layer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from attnprof.arrays import distinct
from attnprof.trace.tables import Bool
from attnprof.trace.timeline import Timeline

_SOFTMAX = re.compile(r"(?i)soft_?max_?(?:warp_)?forward")
_PRODUCT = re.compile(r"(?i)gemm|gemv|nvjet")
_MOST = 1 << 20  # such softmaxes that are looked at


class MathLayer(NamedTuple):
    """A layer's softmax between two products; by process, step and layer."""

    pid: int
    step: int
    layer: int


def find_math_layers(timeline: Timeline, attention: Bool) -> tuple[MathLayer, ...]:
    """The layers of named steps that ran one, and no attention kernel.

    ``attention``: which names are an attention kernel's.
    """
    kernels, strings = timeline.trace.kernels, timeline.trace.strings
    softmax = np.array([bool(_SOFTMAX.search(text)) for text in strings] + [False], np.bool_)
    if not softmax.any() or not len(kernels):
        return ()
    product = np.array([bool(_PRODUCT.search(text)) for text in strings] + [False], np.bool_)
    names, columns = kernels.name, (kernels.pid, timeline.step, timeline.layer)
    parts = []
    for pid in distinct(kernels.pid).tolist():
        rows = np.flatnonzero(kernels.pid == pid)
        place = np.flatnonzero(softmax[names[rows]])[:_MOST]
        place = place[(place > 0) & (place < len(rows) - 1)]
        before, at, after = rows[place - 1], rows[place], rows[place + 1]
        told = product[names[before]] & product[names[after]] & (timeline.step[at] >= 0)
        told &= timeline.layer[at] >= 0
        for column in (kernels.device, kernels.stream, timeline.step, timeline.layer):
            told &= (column[before] == column[at]) & (column[after] == column[at])
        starts = kernels.start
        parts.append(at[told & (starts[before] <= starts[at]) & (starts[at] <= starts[after])])
    at = np.concatenate(parts)
    if not len(at):
        return ()
    with_attention = np.flatnonzero(attention[names])
    served = set(zip(*(column[with_attention].tolist() for column in columns), strict=True))
    found = dict.fromkeys(zip(*(column[at].tolist() for column in columns), strict=True))
    return tuple(MathLayer(*one) for one in found if one not in served)
