"""The calls of a process by step and layer, and what these say of each other.

Real traces are not neat: layers of two kinds take turns, batches change between steps, requests come and go,
edges are cut. So layers are told to be alike by what they launch in most steps, a rule holds where steps and
layers are named, and what a whole program could show is left alone: layers that part ways for good, a window
that closes, a step that ends with the trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product

import numpy as np

from attnprof.arrays import distinct_rows
from attnprof.check import odd_calls, told_sizes
from attnprof.check.growth import Sequences, find_ungrown
from attnprof.check.missing_layers import find_missing
from attnprof.check.observed_calls import Bool, Int64, ObservedCalls
from attnprof.check.traits import Fixed, Traits
from attnprof.dispatch.explanation import ReadBack
from attnprof.dispatch.intervals import Intervals, intersect
from attnprof.trace.range_names import DECODE

_ABSENT = -1
_MOST_CELLS = 20_000_000  # steps x layers


class LayerTable:
    """The calls of one process by step and layer: a cell is the shape of its call, or of its calls."""

    def __init__(
        self,
        observed: ObservedCalls,
        rows: Int64,
        traits: Sequence[Traits],
        told: Sequence[ReadBack | None],
    ) -> None:
        self.observed, self.rows, self.traits, self.told = observed, rows, traits, told
        self.steps, step = np.unique(observed.step[rows], return_inverse=True)
        self.layers, layer = np.unique(observed.layer[rows], return_inverse=True)
        self.fits = len(self.steps) * len(self.layers) <= _MOST_CELLS
        if not self.fits:
            return
        self.at = step.astype(np.int64) * len(self.layers) + layer
        size = len(self.steps) * len(self.layers)
        counts = np.bincount(self.at, minlength=size)
        cells = np.full(size, _ABSENT, np.int64)
        cells[self.at] = observed.shape[rows]
        self.shapes_of: list[tuple[int, ...]] = [(number,) for number in range(len(traits))]
        many = counts > 1
        if many.any():
            held: dict[int, list[int]] = {}
            inside = np.flatnonzero(many[self.at])
            for cell, shape in zip(
                self.at[inside].tolist(), observed.shape[rows[inside]].tolist(), strict=True
            ):
                held.setdefault(cell, []).append(shape)
            numbers: dict[tuple[int, ...], int] = {}
            for cell, shapes in held.items():
                key = tuple(shapes)
                if key not in numbers:
                    numbers[key] = len(self.shapes_of)
                    self.shapes_of.append(key)
                cells[cell] = numbers[key]
        self.cells = cells.reshape(len(self.steps), len(self.layers))
        phase = np.zeros(len(self.steps), np.int64)
        phase[step] = observed.phase[rows]
        self.phase = phase

    def findings(self, *, named: bool = True, mixed: bool = True) -> Iterator[tuple[Int64, str]]:
        """Each finding once; what one rule finds is not looked at by the next.

        ``named``: ranges tell layers.  ``mixed``: a step is one model's.
        """
        if not self.fits:
            return
        found: set[tuple[int, int]] = set()
        among = (self._absent, self._twice, self._unlike, self._changed, self._other_sizes)
        rules = (*among, self._lone, self._other_queries, self._beside) if named else among
        rules = (self._mixed, *rules) if mixed else rules
        alone = (self._passing, self._ungrown) if named else ()
        for rule in (*(rules if len(self.layers) > 1 else ()), *alone):
            for step, layer, detail in rule():
                if (step, layer) not in found:
                    found.add((step, layer))
                    where = self._rows_at(step, layer)
                    if len(where):
                        yield (where, detail)

    def _rows_at(self, step: int, layer: int) -> Int64:
        """The rows of a cell; of an empty one, those of the step's other layers next to it."""
        row = self.cells[step]
        if row[layer] == _ABSENT:
            present = np.flatnonzero(row != _ABSENT)
            layer = int(present[np.argmin(np.abs(present - layer))])
        rows: Int64 = self.rows[self.at == step * len(self.layers) + layer]
        return rows

    # groups of layers

    @cached_property
    def _columns(self) -> list[list[int]]:
        """The layers that launch the same in every step, together."""
        groups: dict[bytes, list[int]] = {}
        for layer in range(len(self.layers)):
            groups.setdefault(np.ascontiguousarray(self.cells[:, layer]).tobytes(), []).append(layer)
        return list(groups.values())

    def _distinct_steps(self) -> Iterator[tuple[list[int], list[tuple[int, ...]]]]:
        """Steps whose layers launch the same, and the shapes of each layer in them, () for none."""
        groups: dict[bytes, list[int]] = {}
        for step in range(len(self.steps)):
            groups.setdefault(self.cells[step].tobytes(), []).append(step)
        for steps in groups.values():
            row = self.cells[steps[0]].tolist()
            yield steps, [() if cell == _ABSENT else self.shapes_of[cell] for cell in row]

    # rules: (step, layer, what is wrong), by position

    def _mixed(self) -> Iterator[tuple[int, int, str]]:
        """One step has one data type; and of another library's kernels there is not one layer alone."""
        if len({(t.dtype, t.library) for t in self.traits}) == 1:
            return
        for steps, layers in self._distinct_steps():
            dtypes = [frozenset(d for s in shapes if (d := self.traits[s].dtype)) for shapes in layers]
            yield from self._minority(steps, dtypes, "in", alone=False)
            libraries = [frozenset(self.traits[shape].library for shape in shapes) for shapes in layers]
            yield from self._minority(steps, libraries, "with", alone=True)

    def _minority(
        self, steps: list[int], kinds: list[frozenset[str]], word: str, *, alone: bool
    ) -> Iterator[tuple[int, int, str]]:
        counted = Counter(kind for kind in kinds if kind)
        if len(counted) < 2:
            return
        usual, most = counted.most_common(1)[0]
        odd = [layer for layer, kind in enumerate(kinds) if kind and kind != usual]
        if alone and len(odd) > 1:
            return
        for layer in odd:
            theirs, ours = " and ".join(sorted(kinds[layer])), " and ".join(sorted(usual))
            others = f"{most} other layers" if most > 1 else "the other layer"
            for step in steps:
                detail = f"layer {self.layers[layer]} ran {word} {theirs}, {others} of the step {word} {ours}"
                yield step, layer, detail

    def _absent(self) -> Iterator[tuple[int, int, str]]:
        """A layer that attends in other steps of a generation does in this one."""
        present = self.cells != _ABSENT
        if present.all():
            return
        for layer in np.flatnonzero(~present.all(axis=0)).tolist():
            has = present[:, layer]
            for step in find_missing(present, layer, self.phase):
                others = np.count_nonzero(present[step])
                missing = f"layer {self.layers[layer]} launched no attention in step {self.steps[step]}"
                elsewhere = f"{others} other layers did, and it did in {np.count_nonzero(has)} steps"
                yield step, layer, f"{missing}: {elsewhere}"

    def _twice(self) -> Iterator[tuple[int, int, str]]:
        """Where every layer makes one call a step, none makes two in one."""
        sizes = np.array([len(shapes) for shapes in self.shapes_of] + [0])[self.cells]
        odd = sizes > 1
        if np.count_nonzero(odd) * 10 > np.count_nonzero(sizes):
            return
        for step in np.flatnonzero(odd.any(axis=1)).tolist():
            layers = np.flatnonzero(odd[step]).tolist()
            if len(layers) == 1:
                (layer,) = layers
                twice = f"layer {self.layers[layer]} ran {self._words(step, layer)} in one step"
                yield step, layer, f"{twice}: every other layer and step has one call"

    def _unlike(self) -> Iterator[tuple[int, int, str]]:
        """Layers that launch the same in most steps do so in all, until they part ways for good."""
        columns = self._columns
        if len(columns) < 2 or len(self.steps) < 3:
            return
        shows = np.array([all(self.traits[s].shows for s in shapes) for shapes in self.shapes_of], np.bool_)
        for number, one in enumerate(columns):
            for other in columns[number + 1 :]:
                a, b = self.cells[:, one[0]], self.cells[:, other[0]]
                both = (a != _ABSENT) & (b != _ABSENT)
                differ = both & (a != b)
                agree = both & (a == b) & shows[a]
                if np.count_nonzero(agree) <= np.count_nonzero(differ) or not differ.any():
                    continue
                for step in np.flatnonzero(differ).tolist():
                    if self._differ_in_phase(step, differ, agree) or self._may_part(step, differ, a, b):
                        continue
                    if self._layer_cells.parted_by_window(step, a, b):
                        continue
                    odd, usual = self._odd_one(step, one, other)
                    if not self._comparable(step, odd[0], usual[0], a[agree]):
                        continue
                    theirs, ours = self._words(step, odd[0]), self._words(step, usual[0])
                    for layer in odd:
                        yield (
                            step, layer,
                            f"layer {self.layers[layer]} ran {theirs}, layer {self.layers[usual[0]]} "
                            f"{ours}: the two launch the same in {np.count_nonzero(agree)} other steps",
                        )  # fmt: skip

    def _comparable(self, step: int, odd: int, usual: int, agreed: Int64) -> bool:
        """Not where one alone folds its heads, as a window that hides no key yet may keep the other from."""
        a, b = (self._trait(int(self.cells[step, layer])) for layer in (odd, usual))
        least, most = sorted((a, b), key=lambda one: one.batch_heads)
        fewer, more = least.batch_heads, most.batch_heads
        folds = least.folds and a.local == b.local and 0 < fewer < more and more % fewer == 0
        return not folds or any(self._trait(c).batch_heads == fewer for c in np.unique(agreed).tolist())

    def _trait(self, cell: int) -> Traits:
        return self.traits[self.shapes_of[cell][0]]

    def _differ_in_phase(self, step: int, differ: Bool, agree: Bool) -> bool:
        """Whether layers that launch the same in other phases do not in this one."""
        mine = self.phase == self.phase[step]
        return bool(np.sum(differ & mine) > 1 and np.sum(agree & mine) <= np.sum(differ & mine))

    def _may_part(self, step: int, differ: Bool, a: Int64, b: Int64) -> bool:
        """Whether a whole program could show this: a window that begins to hide keys, or another cache."""
        left, right = (int(side[step]) for side in (a, b))
        if self._trait(left).window_tells(self._trait(right)):
            alike = sorted(int(np.count_nonzero(self.cells[step] == cell)) for cell in (left, right))
            several = int(np.count_nonzero(differ)) > 1 or alike[0] > 1
            return several or alike[1] < odd_calls.FEWEST
        locals_ = [any(self.traits[s].local for s in self.shapes_of[int(side[step])]) for side in (a, b)]
        if locals_[0] != locals_[1]:
            if any(self.traits[s].requests for side in (a, b) for s in self.shapes_of[int(side[step])]):
                return True
            side, other = (a, b) if locals_[0] else (b, a)
            if 0 < step < len(a) - 1 and self.phase[step] == self.phase[step + 1] == DECODE:
                around = (int(other[step - 1]), int(other[step + 1]))
                if all(cell >= 0 and self.traits[self.shapes_of[cell][0]].local for cell in around):
                    return False  # keys that grow do not come back into a window
            cells = [int(cell) for cell in side if cell >= 0]
            if self.phase[step] == DECODE and (step + 1 == len(a) or self.phase[step + 1] != DECODE):
                return True  # it may begin with the last step
            return sum(any(self.traits[s].local for s in self.shapes_of[cell]) for cell in cells) > 1
        later = np.flatnonzero(self.phase[step:] != self.phase[step])
        end = step + int(later[0]) if len(later) else len(differ)
        return end - step > 1 and bool(differ[step:end].all())

    def _odd_one(self, step: int, one: list[int], other: list[int]) -> tuple[list[int], list[int]]:
        """(odd, usual) of two groups that differ in a step: fewer layers go with the odd one."""
        row = self.cells[step]
        with_one = int(np.count_nonzero(row == row[one[0]]))
        with_other = int(np.count_nonzero(row == row[other[0]]))
        if with_one != with_other:
            return (one, other) if with_one < with_other else (other, one)
        before = self.cells[step - 1] if step else self.cells[step + 1]
        return (one, other) if row[other[0]] == before[other[0]] else (other, one)

    def _words(self, step: int, layer: int) -> str:
        shapes = self.shapes_of[int(self.cells[step, layer])]
        return " and ".join(self.traits[shape].words for shape in shapes)

    def _changed(self) -> Iterator[tuple[int, int, str]]:
        """A layer's head dim, data type, softcap and ALiBi are its model's: they do not change for a step."""
        latent = np.array([any(self.traits[s].latent for s in shapes) for shapes in self.shapes_of], np.bool_)
        for group, of_latents in product(self._columns, (False, True)):
            column = self.cells[:, group[0]]
            column = np.where((column != _ABSENT) & (latent[column] == of_latents), column, _ABSENT)
            kinds: Counter[Fixed] = Counter()
            of_cell: dict[int, Fixed] = {}
            cells, counts = np.unique(column[column != _ABSENT], return_counts=True)
            for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
                shapes = self.shapes_of[cell]
                if len(shapes) == 1 and self.traits[shapes[0]].fixed:
                    of_cell[cell] = self.traits[shapes[0]].fixed
                    kinds[of_cell[cell]] += count
            if len(kinds) < 2:
                continue
            usual, most = kinds.most_common(1)[0]
            if most <= 2 * (sum(kinds.values()) - most):
                continue
            odd = [cell for cell, fixed in of_cell.items() if fixed != usual]
            for step in np.flatnonzero(np.isin(column, odd)).tolist():
                now = dict(of_cell[int(column[step])])
                said = ", ".join(f"{k} {now.get(k)}, not {was}" for k, was in usual if now.get(k) != was)
                for layer in group:
                    told = f"layer {self.layers[layer]} ran with {said}, as in {most} other steps"
                    yield step, layer, told

    def _other_sizes(self) -> Iterator[tuple[int, int, str]]:
        """Layers of one step share batch and queries: their sizes keep their ratio from step to step."""
        columns = self._columns
        for number, one in enumerate(columns):
            for other in columns[number + 1 :]:
                pairs, inverse = distinct_rows([self.cells[:, one[0]], self.cells[:, other[0]]])
                sizes = [self._sizes(a, b) for a, b in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)]
                counts = np.bincount(inverse, minlength=len(sizes)).tolist()
                ratios: dict[object, Counter[object]] = {}
                for size, count in zip(sizes, counts, strict=True):
                    if size is not None:
                        ratios.setdefault(size[0], Counter())[size[1]] += count
                for at, size in enumerate(sizes):
                    if size is None:
                        continue
                    usual, most = ratios[size[0]].most_common(1)[0]
                    if size[1] == usual or most < 3 or most <= 2 * (ratios[size[0]].total() - most):
                        continue
                    for step in np.flatnonzero(inverse == at).tolist():
                        odd, ours = self._odd_one(step, one, other)
                        detail = (
                            f"layer {self.layers[odd[0]]} ran {self._words(step, odd[0])} beside layer "
                            f"{self.layers[ours[0]]} with {self._words(step, ours[0])}: in {most} other "
                            "steps their batch, heads and queries go together otherwise"
                        )
                        for layer in odd:
                            yield step, layer, detail

    def _sizes(self, left: int, right: int) -> tuple[object, object] | None:
        """Of two cells: what their grids mean, and how their sizes go together; None where unknown."""
        if left == _ABSENT or right == _ABSENT or len(self.shapes_of[left] + self.shapes_of[right]) != 2:
            return None
        a, b = self.traits[self.shapes_of[left][0]], self.traits[self.shapes_of[right][0]]
        if not (a.shows and b.shows and a.batch_heads and b.batch_heads):
            return None
        rows = a.form == b.form and a.rows != b.rows
        queries = [self._queries[self.shapes_of[cell][0]] for cell in (left, right)]
        rows = rows or (all(queries) and not intersect(*queries))
        return (a.form, b.form), (a.batch_heads / b.batch_heads, rows)

    @cached_property
    def _queries(self) -> list[Intervals]:
        """The queries per sequence that each shape's launches allow; () where they are not told."""
        return [told_sizes.queries(back) for back in self.told]

    @cached_property
    def _layer_cells(self) -> odd_calls.LayerCells:
        windowed = [back is not None and back.windowed for back in self.told]
        return odd_calls.LayerCells(self.cells, self.phase, self.shapes_of, self.traits, windowed)

    def _lone(self) -> Iterator[tuple[int, int, str]]:
        """One step of a layer is no other call than that of the layers it goes with in every other step."""
        for step, odd, usual in odd_calls.find_lone(self._layer_cells, self._columns):
            for layer in odd:
                ran, ours = self._words(step, layer), self._words(step, usual)
                beside = f"layer {self.layers[layer]} ran {ran}, layer {self.layers[usual]} {ours}"
                yield step, layer, f"{beside}: the two launch the same in every other step"

    def _other_queries(self) -> Iterator[tuple[int, int, str]]:
        """Layers of one step share their queries, and their requests."""
        requests = [told_sizes.requests(back) for back in self.told]
        for what, numbers in (("queries", self._queries), ("requests", requests)):
            for step, layer, usual in odd_calls.find_other_numbers(self._layer_cells, self._columns, numbers):
                ran, ours = self._words(step, layer), self._words(step, usual)
                beside = f"layer {self.layers[layer]} ran {ran}, layer {self.layers[usual]} {ours}: no number"
                yield step, layer, f"{beside} of {what} gives both, as one does in every other step"

    def _beside(self) -> Iterator[tuple[int, int, str]]:
        """Steps in which all other layers launch the very same differ in no layer's heads or kind."""
        for step, layer, other in odd_calls.find_odd_beside(self._layer_cells, self._columns):
            ran, usual = self._words(step, layer), self._words(other, layer)
            beside = f"layer {self.layers[layer]} ran {ran} in step {self.steps[step]}, {usual} in step "
            yield step, layer, f"{beside}{self.steps[other]}: all other layers ran the same in both"

    def _passing(self) -> Iterator[tuple[int, int, str]]:
        """Keys that grow do not come back into a window."""
        for step, layers in odd_calls.find_passing_windows(self._layer_cells, self._columns):
            for layer in layers:
                hid = f"layer {self.layers[layer]} ran {self._words(step, layer)}, whose window hides keys"
                yield step, layer, f"{hid}: in the steps before and after it hides none"

    def _ungrown(self) -> Iterator[tuple[int, int, str]]:
        """In a generation the cache grows by the tokens of each step."""
        replayed = np.zeros(self.cells.size, np.bool_)
        replayed[self.at[self.observed.replayed[self.rows]]] = True
        of = Sequences(
            self.steps.astype(np.int64), self.phase, self.cells, replayed.reshape(self.cells.shape),
            self.shapes_of, self.told, [traits.local for traits in self.traits],
        )  # fmt: skip
        for places, layers, judged in find_ungrown(of):
            before, after = places[0] - 1, places[-1] + 1
            for layer in layers:
                ran, sooner, later = (self._words(at, layer) for at in (places[0], before, after))
                between = sooner if sooner == later else f"{sooner}, and {later}"
                told = (
                    f"ran {ran} between {between}: no keys that grow by each step's tokens give this, "
                    f"and without it all {judged} steps of the generation go together"
                )
                for step in places:
                    yield step, layer, told
