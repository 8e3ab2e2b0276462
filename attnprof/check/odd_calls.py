"""One call that differs from all others in what no size decides: a single step of a layer, or a lone margin.

A kernel whose grid is the GPU's SMs looks the same for other sizes, so two layers that launch it alike need
not be alike. What its template says of the call is another matter, and so is one layer among several that go
together in every other step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from attnprof.check.observed_calls import Int64, ObservedCalls
from attnprof.check.traits import Traits
from attnprof.dispatch.explanation import ReadBack
from attnprof.dispatch.intervals import Intervals, intersect
from attnprof.nouns import count_of
from attnprof.trace.range_names import DECODE

_MOST_COLUMNS, _MOST_ROWS = 64, 4096  # kinds of layers and of steps that are looked at
FEWEST = 3  # steps in which layers launch the same, and layers that do


@dataclass(frozen=True, slots=True)
class LayerCells:
    """What layers launched by step, as places: ``cells`` index ``shapes_of``, -1 for none.

    ``windowed``, per shape: a window of the layer may be why this kernel ran and not another.
    """

    cells: Int64
    phase: Int64
    shapes_of: Sequence[tuple[int, ...]]
    traits: Sequence[Traits]
    windowed: Sequence[bool]

    def parted_by_window(self, step: int, a: Int64, b: Int64) -> bool:
        """Whether one of two layers' cells alone is a windowed kernel's, as all of that layer are."""
        sides = [self._windowed(int(column[step])) for column in (a, b)]
        if sides[0] == sides[1]:
            return False
        column = a if sides[0] else b
        return all(self._windowed(int(cell)) for cell in np.unique(column[column >= 0]))

    def _windowed(self, cell: int) -> bool:
        return cell >= 0 and all(self.windowed[shape] for shape in self.shapes_of[cell])

    def trait(self, cell: int) -> Traits | None:
        """The traits of a cell's one call; None where it has none or several."""
        shapes = self.shapes_of[cell] if cell >= 0 else ()
        return self.traits[shapes[0]] if len(shapes) == 1 else None


def find_lone(of: LayerCells, columns: Sequence[list[int]]) -> Iterator[tuple[int, list[int], int]]:
    """(step, odd layers, a layer they go with in every other step); layers of a column launch the same."""
    for number, one in enumerate(columns):
        for other in columns[number + 1 :]:
            a, b = of.cells[:, one[0]], of.cells[:, other[0]]
            both = (a >= 0) & (b >= 0)
            differ = np.flatnonzero(both & (a != b))
            if len(differ) != 1 or np.count_nonzero(both) <= FEWEST:
                continue
            step = int(differ[0])
            if of.parted_by_window(step, a, b):
                continue
            if np.count_nonzero(both & (of.phase == of.phase[step])) < 2:
                continue  # the one step of its phase: a window may tell there alone
            row = of.cells[step]
            odd, usual = (one, other) if np.sum(row == a[step]) <= np.sum(row == b[step]) else (other, one)
            left, right = of.trait(int(row[odd[0]])), of.trait(int(row[usual[0]]))
            if left is None or right is None:
                continue
            if left.role != "scheduler" == right.role:
                odd, usual, left, right = usual, odd, right, left
            planned_alone = left.role == "scheduler" != right.role
            if left.local != right.local and not planned_alone:
                continue
            among = np.sum(row == row[usual[0]])
            alone = np.sum(row == row[odd[0]]) == 1 and among >= FEWEST
            if left.window_tells(right) and not alone:
                continue
            unplanned = planned_alone and right.planned  # whose like plans its own
            if alone or unplanned or (left.kind != right.kind and among > len(odd)):
                yield step, odd, usual[0]
            elif left.kind != right.kind and len(of.cells[0]) == 2:
                kinds = [of.trait(int(cell)) for cell in np.delete(a, step)]  # as b has them
                known = {one.kind for one in kinds if one is not None}
                if (left.kind in known) != (right.kind in known):
                    ours, theirs = (one, other) if left.kind not in known else (other, one)
                    yield step, ours, theirs[0]


def find_odd_beside(of: LayerCells, columns: Sequence[list[int]]) -> Iterator[tuple[int, int, int]]:
    """(step, layer, another step) where the layer's heads or kind differ and all other layers agree.

    A causal mask is none over one query, and a window may hide no key yet: such differences are left alone.
    """
    if len(of.cells[0]) < 2 or not 1 < len(columns) <= _MOST_COLUMNS:
        return
    for layer in (one[0] for one in columns if len(one) == 1):
        rest = np.delete(of.cells, layer, axis=1)
        whole = np.flatnonzero((rest >= 0).all(axis=1) & (of.cells[:, layer] >= 0))
        rows, group = np.unique(rest[whole], axis=0, return_inverse=True)
        for number in range(len(rows)) if len(rows) <= _MOST_ROWS else ():
            steps = whole[group.ravel() == number]
            cells, first, counts = np.unique(of.cells[steps, layer], return_index=True, return_counts=True)
            if len(cells) < 2:
                continue
            others = [of.trait(int(cell)) for cell in np.unique(rows[number])]
            usual = int(np.argmax(counts))
            ours = of.trait(int(cells[usual]))
            for at, cell in enumerate(cells.tolist()):
                theirs = of.trait(cell)
                if at != usual and ours and theirs and _differ(theirs, ours, others):
                    for step in steps[of.cells[steps, layer] == cell].tolist():
                        yield step, layer, int(steps[first[usual]])


def _differ(one: Traits, other: Traits, others: Sequence[Traits | None]) -> bool:
    """Whether no lengths explain that a layer launches both beside the same calls of ``others``."""
    if one.local != other.local or one.role != other.role or one.window_tells(other):
        return False
    if [pair for pair in one.kind if pair[0] != "Is_causal"] != [
        pair for pair in other.kind if pair[0] != "Is_causal"
    ]:
        return True
    known = [each for each in others if each is not None]
    if not (one.batch_heads and other.batch_heads):
        return False
    if (
        one.form != other.form
        or one.batch_heads == other.batch_heads
        or not any(e.shows and e.batch_heads for e in known)
    ):
        return False
    fewer, more = sorted((one.batch_heads, other.batch_heads))
    several = any(not each.folds for each in known)  # a causal kernel beside it: there are several queries
    return several or more % fewer != 0


def find_other_numbers(
    of: LayerCells, columns: Sequence[list[int]], numbers: Sequence[Intervals]
) -> Iterator[tuple[int, int, int]]:
    """(step, the odd layer, another) where one layer alone cannot have a number that the others may have.

    ``numbers``, of queries or of requests, are per shape, () where they are not told.
    """

    def told(cell: int) -> Intervals:
        shapes = of.shapes_of[cell] if cell >= 0 else ()
        return numbers[shapes[0]] if len(shapes) == 1 else ()

    rows, inverse, counts = np.unique(of.cells, axis=0, return_inverse=True, return_counts=True)
    if not 1 < len(columns) <= _MOST_COLUMNS or len(rows) > _MOST_ROWS:
        return
    for one in columns:
        others = [other[0] for other in columns if other is not one]
        mine = [told(row[one[0]]) for row in rows.tolist()]
        apart = [
            number
            for number, row in enumerate(rows.tolist())
            if mine[number]
            and all((theirs := told(row[other])) and not intersect(mine[number], theirs) for other in others)
        ]
        together = sum(count for count, known in zip(counts.tolist(), mine, strict=True) if known) - len(
            apart
        )
        if len(apart) == 1 and counts[apart[0]] == 1 and len(one) == 1 and together >= FEWEST:
            yield int(np.flatnonzero(inverse.ravel() == apart[0])[0]), one[0], others[0]


def find_passing_windows(of: LayerCells, columns: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
    """(step, layers) of a window that hid keys in one step, not before and not after, while keys grew.

    Said where steps of one grid surround it, and not of a server's batches: the longest sequence may leave.
    """
    for layers in columns:
        column = of.cells[:, layers[0]]
        found = [of.trait(int(cell)) for cell in column]
        windowed = [at for at, one in enumerate(found) if one is not None and one.local]
        if len(windowed) != 1 or not 0 < windowed[0] < len(column) - 1:
            continue
        step = windowed[0]
        before, one, after = found[step - 1], found[step], found[step + 1]
        if one is None or one.requests:
            continue
        decoding = bool((of.phase[step - 1 : step + 2] == DECODE).all())
        if (
            decoding
            and before is not None
            and after is not None
            and before.launches[0].grid == after.launches[0].grid
        ):
            yield step, layers


def find_lone_margins(
    shape: Int64, rows: Int64, told: Sequence[ReadBack | None]
) -> Iterator[tuple[Int64, int, int]]:
    """(the call, SMs left free, other calls that leave none): of kernels whose grid is the SMs."""
    calls = np.bincount(shape[rows], minlength=len(told)).tolist()
    margins = [{one.sm_margin for one in back.explanations} if back else set() for back in told]
    none = sum(count for count, margin in zip(calls, margins, strict=True) if count and margin == {0})
    for number, (count, margin) in enumerate(zip(calls, margins, strict=True)):
        if count == 1 and len(margin) == 1 and 0 not in margin and none > FEWEST:
            yield rows[shape[rows] == number], margin.pop(), none


def tell_bare_steps(observed: ObservedCalls, mine: Int64, pid: int) -> Iterator[tuple[Int64, str]]:
    """A step has the attention that the steps beside it have; said of the first call of the next one."""
    for _, number in (one for one in observed.bare_steps if one[0] == pid):
        later = mine[observed.step[mine] > number]
        if len(later):
            follows = int(observed.step[later].min())
            calls = later[observed.step[later] == follows]
            ran = f"step {number} ran its other kernels, but no attention"
            yield calls[:1], (f"{ran}: step {follows} has {len(calls)} calls of it")


def tell_math_layers(observed: ObservedCalls, mine: Int64, pid: int) -> Iterator[tuple[Int64, str]]:
    """One layer of a step is not computed by torch's math backend beside others that kernels serve."""
    for one in (one for one in observed.math_layers if one.pid == pid):
        calls = mine[observed.step[mine] == one.step]
        layers = np.unique(observed.layer[calls])
        alone = sum(other.step == one.step for other in observed.math_layers if other.pid == pid) == 1
        if alone and np.any(layers >= 0) and one.layer not in layers:
            ran = f"layer {one.layer} of step {one.step} ran a softmax between two matrix products"
            others = f"{len(layers)} other layer{'s' * (len(layers) > 1)} ran"
            kernel = observed.shapes[observed.shape[calls[0]]].main.kernel
            yield (
                calls[:1],
                f"{ran}, as torch's math backend does, and no attention kernel: {others} {kernel}",
            )


def tell_odd_replays(observed: ObservedCalls, pid: int) -> Iterator[tuple[Int64, str]]:
    """A graph replays what it captured, neither more nor less."""
    for one in (one for one in observed.odd_replays if observed.pid[one.row] == pid):
        ran = f"a CUDA graph's replay ran {count_of(one.calls, 'attention call')}"
        yield np.array([one.row], np.int64), f"{ran}: {one.others} others ran {one.usual}"


def tell_odd_work(
    observed: ObservedCalls, pid: int, traits: Sequence[Traits], known: Set[int]
) -> Iterator[tuple[Int64, str]]:
    """What ran the same other kernels makes the same attention calls; of replays, the very same.

    ``known`` are the rows of which something was said: of their steps nothing more is.
    """
    steps = {int(observed.step[row]) for row in known if not observed.replayed[row]}
    for one in (one for one in observed.odd_work if observed.pid[one.row] == pid):
        if one.row in known or (not observed.replayed[one.row] and observed.step[one.row] in steps):
            continue
        which = "a CUDA graph's replay" if observed.replayed[one.row] else f"step {observed.step[one.row]}"
        beside = f"beside the same other kernels, {one.others} other{'s' * (one.others > 1)}"
        if one.place is None:
            said = f"{which} ran {count_of(one.ran, 'attention call')}: {beside} ran {one.usual}"
        else:
            ran, usual = traits[one.ran].words, traits[one.usual].words
            said = f"{which} ran {ran} as call {one.place + 1}: {beside} ran {usual}"
        yield np.array([one.row], np.int64), said


def place_by_repetition(observed: ObservedCalls, mine: Int64, pid: int) -> tuple[ObservedCalls, Int64, str]:
    """The calls of a process with the steps and layers that their kernels' repetition tells, which these are,
    and how they are told.

    What such calls show is what differs from step to step: what stays the same may be another model's.
    """
    found = observed.repeated[pid]
    step, layer = observed.step.copy(), observed.layer.copy()
    step[mine], layer[mine] = found.step, found.layer
    why = f"steps of {found.layers} calls are told by the kernels between them"
    if found.replays:
        why = f"steps are a CUDA graph's replays of {found.layers} calls, and layers their places in these"
    return replace(observed, step=step, layer=layer), mine[found.step >= 0], why
