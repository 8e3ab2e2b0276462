"""The ranks of a job against each other: what all did together, who is slow, and whose dispatch differs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from attnprof.analysis.ranks import KernelSum, RankSummary
from attnprof.analysis.splits import SplitRow

SLOW = 1.05  # times the median of the ranks: from there on a rank is a straggler
_FEW = 3  # ranks from which on a median says something


@dataclass(frozen=True, slots=True)
class MergedKernel:
    """One kernel name over all ranks: ``ranks`` ran it; ``slowest`` is the rank with the highest mean."""

    name: str
    ranks: int
    instances: int
    total_ns: int
    min_ns: int
    max_ns: int
    slowest: str
    slowest_mean_ns: float

    @property
    def mean_ns(self) -> float:
        return self.total_ns / self.instances


@dataclass(frozen=True, slots=True)
class MergedPhase:
    """One phase over all ranks that have it; ``slowest`` is the rank with the longest wall time."""

    phase: str
    ranks: int
    steps: int
    gpu_ns: int
    attention_ns: int
    graph_ns: int
    wall_median_ns: float | None
    slowest: str
    slowest_wall_ns: int | None


@dataclass(frozen=True, slots=True)
class Straggler:
    """A rank whose kernels other than communication take longer than the median rank's.

    ``over`` is the ratio to the median, per step where steps are known. ``worst_step`` has the step in which
    it was furthest behind the median rank, its wall time and the median's in ns; None without common steps.
    """

    label: str
    over: float
    worst_step: tuple[int, int, float] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A rank whose attention was dispatched otherwise than on most, from ``step`` on (None: throughout).

    ``ran`` and ``usual`` are kernel and split count, -1 where the kernel's grid does not tell.
    """

    label: str
    phase: str
    step: int | None
    layers: tuple[int, ...]
    ran: tuple[str, int]
    usual: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Job:
    """All of a job. ``usual`` are the split rows that most ranks share, ``reference`` the first such rank."""

    ranks: tuple[RankSummary, ...]
    phases: tuple[MergedPhase, ...]
    kernels: tuple[MergedKernel, ...]
    stragglers: tuple[Straggler, ...]
    differences: tuple[Difference, ...]
    reference: str
    usual: tuple[SplitRow, ...]

    @property
    def same_throughout(self) -> bool:
        """Whether the readable ranks ran the same in the same phases, steps and layers."""
        return len({_dispatch(rank) for rank in self.ranks if not rank.error}) == 1

    @property
    def unreadable(self) -> tuple[RankSummary, ...]:
        return tuple(rank for rank in self.ranks if rank.error)


def build_job(ranks: Sequence[RankSummary]) -> Job:
    """Compares the summaries. At least one must have been readable."""
    read = [rank for rank in ranks if not rank.error]
    alike = Counter(_dispatch(rank) for rank in read)
    reference = max(read, key=lambda rank: alike[_dispatch(rank)])
    differences = [found for rank in read if (found := _difference(rank, reference)) is not None]
    return Job(
        ranks=tuple(ranks),
        phases=tuple(_merged_phases(read)),
        kernels=tuple(_merged(read)),
        stragglers=tuple(_stragglers(read)),
        differences=tuple(differences),
        reference=reference.label,
        usual=reference.splits,
    )


def _merged(ranks: Sequence[RankSummary]) -> list[MergedKernel]:
    by_name: dict[str, list[tuple[str, KernelSum]]] = defaultdict(list)
    for rank in ranks:
        for kernel in rank.by_kernel:
            by_name[kernel.name].append((rank.label, kernel))
    merged = []
    for name, found in by_name.items():
        slowest, most = max(found, key=lambda pair: pair[1].total_ns / pair[1].instances)
        kernels = [kernel for _, kernel in found]
        merged.append(
            MergedKernel(
                name=name,
                ranks=len(found),
                instances=sum(kernel.instances for kernel in kernels),
                total_ns=sum(kernel.total_ns for kernel in kernels),
                min_ns=min(kernel.min_ns for kernel in kernels),
                max_ns=max(kernel.max_ns for kernel in kernels),
                slowest=slowest,
                slowest_mean_ns=most.total_ns / most.instances,
            )
        )
    return sorted(merged, key=lambda kernel: (-kernel.total_ns, kernel.name))


def _merged_phases(ranks: Sequence[RankSummary]) -> list[MergedPhase]:
    merged = []
    for name in dict.fromkeys(phase.phase for rank in ranks for phase in rank.phases):
        found = [(rank.label, phase) for rank in ranks for phase in rank.phases if phase.phase == name]
        walls = [(phase.wall_ns, label) for label, phase in found if phase.wall_ns is not None]
        slowest = max(walls, default=(None, ""))
        merged.append(
            MergedPhase(
                phase=name,
                ranks=len(found),
                steps=max(phase.steps for _, phase in found),
                gpu_ns=sum(phase.gpu_ns for _, phase in found),
                attention_ns=sum(phase.attention_ns for _, phase in found),
                graph_ns=sum(phase.graph_ns for _, phase in found),
                wall_median_ns=median(wall for wall, _ in walls) if walls else None,
                slowest=slowest[1],
                slowest_wall_ns=slowest[0],
            )
        )
    return merged


def _stragglers(ranks: Sequence[RankSummary]) -> list[Straggler]:
    """The slow ranks, slowest first. A rank that waits for others spends the time in communication."""
    busy = {rank.label: rank.compute_ns / max(1, len(rank.step_walls)) for rank in ranks if rank.kernels}
    if len(busy) < 2:
        return []
    # Of two ranks the faster one is the measure: their median lies between them.
    usual = median(busy.values()) if len(busy) >= _FEW else min(busy.values())
    walls = {rank.label: dict(rank.step_walls) for rank in ranks}
    slow = [
        Straggler(label, spent / usual, _worst_step(label, walls))
        for label, spent in busy.items()
        if usual and spent > SLOW * usual
    ]
    return sorted(slow, key=lambda one: -one.over)


def _worst_step(label: str, walls: dict[str, dict[int, int]]) -> tuple[int, int, float] | None:
    common = set.intersection(*(set(steps) for steps in walls.values()))
    behind = {}
    for step in common:
        usual = median(steps[step] for steps in walls.values())
        behind[step] = (walls[label][step] - usual, usual)
    if not behind:
        return None
    step = max(behind, key=lambda one: (behind[one][0], -one))
    return step, walls[label][step], behind[step][1]


def _dispatch(rank: RankSummary) -> tuple[object, ...]:
    return tuple((row.phase, row.layers, row.steps, row.num_splits, row.kernel) for row in rank.splits)


def _difference(rank: RankSummary, usual: RankSummary) -> Difference | None:
    """The first step in which a rank's dispatch differs, of the phases, layers and steps that both have."""
    if _dispatch(rank) == _dispatch(usual):
        return None
    for phase in dict.fromkeys(row.phase for row in rank.splits):
        mine, other = ([row for row in one.splits if row.phase == phase] for one in (rank, usual))
        if not other:
            continue
        for step in _moments(mine, other):
            layers: list[int | None] = [*sorted({layer for row in (*mine, *other) for layer in row.layers})]
            layers = layers or [None]
            unlike = [layer for layer in layers if _differs(mine, other, step, layer)]
            if unlike:
                ran, was = (_choices(rows, step, unlike[0]) for rows in (mine, other))
                where = tuple(layer for layer in unlike if layer is not None)
                return Difference(
                    rank.label, phase, step, where, min(ran - was or ran), min(was - ran or was)
                )
    return None


def _moments(mine: Sequence[SplitRow], other: Sequence[SplitRow]) -> list[int | None]:
    """The steps that both have and at which either's dispatch may change; None alone where none is known."""
    spans = [[row.steps for row in rows if row.steps] for rows in (mine, other)]
    if not all(spans):
        return [None]
    first = max(min(steps[0] for steps in one) for one in spans)
    last = min(max(steps[1] for steps in one) for one in spans)
    changes = {steps[0] for one in spans for steps in one} | {steps[1] + 1 for one in spans for steps in one}
    return [first, *sorted(step for step in changes if first < step <= last)] if first <= last else []


def _differs(
    mine: Sequence[SplitRow], other: Sequence[SplitRow], step: int | None, layer: int | None
) -> bool:
    ran, was = _choices(mine, step, layer), _choices(other, step, layer)
    return bool(ran) and bool(was) and ran != was


def _choices(rows: Sequence[SplitRow], step: int | None, layer: int | None) -> set[tuple[str, int]]:
    """Kernels and split counts (-1 for unknown) of a layer in a step."""
    return {
        (row.kernel, -1 if row.num_splits is None else row.num_splits)
        for row in rows
        if (layer is None or not row.layers or layer in row.layers)
        and (step is None or not row.steps or row.steps[0] <= step <= row.steps[1])
    }
