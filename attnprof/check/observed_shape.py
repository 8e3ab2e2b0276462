"""The launches of one attention call as a trace shows them, and which of them are of one call's halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attnprof.arrays import Narrow
from attnprof.dispatch.explanation import Observed
from attnprof.dispatch.names.family import Halves
from attnprof.dispatch.names.kernel_names import KernelSignature
from attnprof.model import KernelLaunch

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ObservedShape:
    """Launches that calls share: the main kernel, and the one after it where there is one.

    ``device`` is the GPU they ran on, as the trace numbers it. ``before`` is what plans a packed batch, None
    where it was not looked for; ``again`` is the main kernel's second launch by a call that halves its heads;
    ``beside`` are attention kernels beyond one of each.
    """

    launches: tuple[KernelLaunch, ...]
    signatures: tuple[KernelSignature, ...]
    device: int = 0
    before: tuple[KernelLaunch, ...] | None = None
    beside: tuple[KernelLaunch, ...] = ()
    again: tuple[KernelLaunch, ...] = ()

    @property
    def main(self) -> KernelSignature:
        return self.signatures[0]

    @property
    def ran(self) -> tuple[KernelLaunch, ...]:
        """All of them in the order of their launch, those beside last."""
        main, *after = self.launches
        return (*(self.before or ()), main, *self.again, *after, *self.beside)

    @property
    def observed(self) -> Observed:
        """For a library to read back, without those beside."""
        return Observed(
            self.launches[0],
            self.launches[1] if len(self.launches) > 1 else None,
            self.before[0] if self.before else None,
            self.again[0] if self.again else None,
        )

    @property
    def num_splits(self) -> int | None:
        """Splits that the grid shows; None where it is unknown, or the kernel is not modelled."""
        if self.main.family == "fwd" or self.main.flag("Split") is False:
            return 1
        return (self.launches[0].grid[1] or None) if self.main.flag("Split") else None


def joined(shapes: Sequence[ObservedShape]) -> ObservedShape:
    """What one call launched that a trace shows as several, in their order."""
    first, *others = shapes
    if not others:
        return first
    return replace(first, beside=(*first.beside, *(launch for one in others for launch in one.ran)))


def second_halves(names: Narrow, recorded: Bool, same: Bool, halves: npt.NDArray[np.int8]) -> Bool:
    """Per kernel, whether it is the second launch of the one before it, by a call that halves its heads.

    ``names``, ``recorded`` (inside a call that is known) of kernels in order; ``same``: whether each, from
    the second on, has stream and call of the one before it; ``halves`` by name.  Where no call is known,
    only kernels that split tell: what adds up follows the second.
    """
    found = np.zeros(len(names), np.bool_)
    told = (halves[names] == Halves.SPLIT) | ((halves[names] == Halves.WHOLE) & recorded)
    if not told.any():
        return found
    found[1:] = told[1:] & same & (names[1:] == names[:-1])
    at = np.arange(len(names))
    begun = np.maximum.accumulate(np.where(found, 0, at))
    second: Bool = found & ((at - begun) % 2 == 1)  # of four in a row, two are two calls'
    return second
