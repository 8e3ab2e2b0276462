"""Two runs side by side, dispatch first: calls are matched by phase, step and layer, never by time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from attnprof.analysis.diff_times import Measure, TimeDiff, compare_times
from attnprof.analysis.splits import SplitRow, split_rows
from attnprof.check.check_run import CheckedCall, CheckResult
from attnprof.dispatch.libraries import template_fields
from attnprof.dispatch.names.kernel_names import KernelSignature, parse_kernel_name
from attnprof.model import STEP_PHASES, KernelLaunch

if TYPE_CHECKING:
    from attnprof.check.recording import Recording

_PHASES = {phase: place for place, phase in enumerate(STEP_PHASES)}
Size = tuple[int, int, int]
_THREADS_PER_WARP = 32
_COMPARED_CONFIG = (
    "workload", "attn_implementation", "batch", "prompt_tokens", "max_new_tokens", "seed", "device",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CallKey:
    """Which call of a run: ``step`` and ``layer`` are None where unknown, ``nth`` tells calls alike apart."""

    phase: str
    step: int | None
    layer: int | None
    nth: int

    @property
    def order(self) -> tuple[int, int, int, int]:
        step, layer = (-1 if value is None else value for value in (self.step, self.layer))
        return step, _PHASES.get(self.phase, len(_PHASES)), layer, self.nth


@dataclass(frozen=True, slots=True)
class Dispatch:
    """How one call was dispatched: what may change the order in which its output is summed.

    ``builds`` are (library, kernel) of each launch, ``tile`` is (block_m, block_n, warps) of the first, None
    where its name does not tell; then its ``grid`` and ``block`` may. Boundary checks and other template
    flags do not count.  ``untold``: a kernel adds up splits, and how many is not known.
    """

    builds: tuple[tuple[str, str], ...]
    tile: tuple[int, int, int] | None
    num_splits: int | None
    observed: bool
    untold: bool = False
    grid: Size | None = field(default=None, compare=False)
    block: Size | None = field(default=None, compare=False)

    def differs_in(self, other: Dispatch, *, same_call: bool = False) -> str:
        """ "num_splits", "kernel", "tile" or "launch", whichever comes first; "" where both are alike.

        Where no name tells the tile, another block is another kernel of that name, and so is another grid for
        arguments that were recorded and are the same.
        """
        if None not in (self.num_splits, other.num_splits) and self.num_splits != other.num_splits:
            return "num_splits"
        if self.builds != other.builds:
            return "kernel"
        if None not in (self.tile, other.tile):
            return "tile" if self.tile != other.tile else ""
        blocks = None not in (self.block, other.block) and self.block != other.block
        grids = same_call and None not in (self.grid, other.grid) and self.grid != other.grid
        return "launch" if blocks or grids else ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One call dispatched otherwise in the other run. ``keys_a``, ``keys_b``: KV lengths where known."""

    key: CallKey
    what: str
    a: Dispatch
    b: Dispatch
    keys_a: int | None
    keys_b: int | None


@dataclass(frozen=True, slots=True)
class OneSided:
    """Calls that only one run has. ``steps`` are (phase, step) that the other run lacks entirely.

    ``in_shared_steps`` counts calls missing from steps that both have. ``changes`` are where this run's
    dispatch changes within its own steps.
    """

    calls: int
    steps: tuple[tuple[str, int], ...]
    in_shared_steps: int
    changes: tuple[tuple[SplitRow, SplitRow], ...]


@dataclass(frozen=True, slots=True)
class DispatchDiff:
    """``shared`` calls have a known dispatch in both runs; ``unknown`` are in both, but not both modelled.

    ``untold`` of the shared ones run the same kernels, but do not both tell how often they split; ``untiled``
    ones do not both tell their tile, and are alike as far as their blocks and grids go.
    """

    shared: int
    unknown: int
    shared_steps: int
    differences: tuple[Difference, ...]
    only_a: OneSided
    only_b: OneSided
    first_other_length: tuple[CallKey, int, int] | None
    untold: int = 0
    untiled: int = 0

    @property
    def equal(self) -> bool:
        """Whether every step that both runs have was dispatched alike, call by call."""
        missing = self.only_a.in_shared_steps + self.only_b.in_shared_steps
        return not self.differences and not missing


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run A against run B. ``config`` are settings that differ: (name, in A, in B)."""

    a: str
    b: str
    sources: tuple[str, str]
    targets: tuple[str, str]
    config: tuple[tuple[str, Any, Any], ...]
    dispatch: DispatchDiff
    times: TimeDiff

    @property
    def measures(self) -> tuple[Measure, ...]:
        return self.times.measures


def compare_runs(
    a: Recording, b: Recording, check_a: CheckResult, check_b: CheckResult, phase: str | None
) -> Comparison:
    """Everything that tells two runs apart; of one phase alone where ``phase`` is "prefill" or "decode"."""
    calls_a, calls_b = (
        [call for call in check.calls if phase in (None, call.phase)] for check in (check_a, check_b)
    )
    return Comparison(
        a=a.name,
        b=b.name,
        sources=(_source(calls_a), _source(calls_b)),
        targets=(_target(check_a), _target(check_b)),
        config=tuple(_config_differences(a, b)),
        dispatch=compare_dispatch(calls_a, calls_b),
        times=compare_times(a.timeline, b.timeline, phase),
    )


def _source(calls: Sequence[CheckedCall]) -> str:
    """ "observed", "predicted", "observed and predicted", or "" where no call has a dispatch."""
    seen = Counter(known.observed for call in calls if (known := dispatch_of(call)))
    words = {True: "observed", False: "predicted"}
    return " and ".join(words[observed] for observed in (True, False) if seen[observed])


def _target(check: CheckResult) -> str:
    if check.gpu is None:
        return ""
    return f"{check.gpu.name}, {check.library} {check.version}" if check.library else check.gpu.name


def dispatch_of(call: CheckedCall) -> Dispatch | None:
    """What ran, else what is predicted; None where neither is known."""
    if call.observed is not None:
        return _dispatch(call.observed.launches, call.num_splits, observed=True)
    if call.predicted is None:
        return None
    if call.predicted.error is not None:
        return Dispatch((("", "refused"),), None, None, observed=False)
    return _dispatch(call.predicted.launches, call.num_splits, observed=False)


def _dispatch(launches: Sequence[KernelLaunch], num_splits: int | None, *, observed: bool) -> Dispatch:
    signatures = [parse_kernel_name(launch.kernel) for launch in launches]
    untold = num_splits is None and any(s.role == "combine" for s in signatures)
    builds = tuple((s.library, s.kernel) for s in signatures)
    first = next((n for n, one in enumerate(signatures) if one.role != "scheduler"), None)
    if first is None:
        return Dispatch(builds, None, num_splits, observed, untold)
    grid, block = (size if all(size) else None for size in (launches[first].grid, launches[first].block))
    tile = _tile(launches[first], signatures[first])
    return Dispatch(builds, tile, num_splits, observed, untold, grid, block)


def _tile(main: KernelLaunch, named: KernelSignature) -> tuple[int, int, int] | None:
    """(block_m, block_n, warps) as the name states them, the warps else by the launch's threads."""
    fields = dict(template_fields(main.kernel) or ())
    block_m = named.block_m or fields.get("block_m")
    block_n = named.block_n or fields.get("block_n")
    warps = named.warps or math.prod(main.block) // _THREADS_PER_WARP
    told = isinstance(block_m, int) and isinstance(block_n, int) and block_m and block_n and warps
    return (block_m, block_n, warps) if told else None  # type: ignore[return-value]


def _keyed(calls: Iterable[CheckedCall]) -> dict[CallKey, CheckedCall]:
    count: Counter[tuple[str, int | None, int | None]] = Counter()
    keyed = {}
    for call in calls:
        where = (call.phase, call.step, call.layer)
        keyed[CallKey(*where, count[where])] = call
        count[where] += 1
    return keyed


def compare_dispatch(calls_a: Sequence[CheckedCall], calls_b: Sequence[CheckedCall]) -> DispatchDiff:
    """Call by call, what ran or would run in both, and what only one of them has."""
    a, b = _keyed(calls_a), _keyed(calls_b)
    both = sorted(a.keys() & b.keys(), key=lambda key: key.order)
    differences, shared, untold, untiled = [], 0, 0, 0
    first_other_length = None
    for key in both:
        in_a, in_b = dispatch_of(a[key]), dispatch_of(b[key])
        keys_a, keys_b = _seqlen_k(a[key]), _seqlen_k(b[key])
        if first_other_length is None and keys_a is not None and keys_b is not None and keys_a != keys_b:
            first_other_length = (key, keys_a, keys_b)
        if in_a is None or in_b is None:
            continue
        shared += 1
        same_call = a[key].call is not None and a[key].call == b[key].call
        if what := in_a.differs_in(in_b, same_call=same_call):
            differences.append(Difference(key, what, in_a, in_b, keys_a, keys_b))
        elif in_a.untold or in_b.untold:
            untold += 1
        elif in_a.builds and None in (in_a.tile, in_b.tile) and in_a.builds[0][1] != "refused":
            untiled += 1
    steps_a, steps_b = ({(key.phase, key.step) for key in keys} for keys in (a, b))
    return DispatchDiff(
        shared=shared,
        unknown=len(both) - shared,
        shared_steps=len({key.step for key in both if key.step is not None}),
        differences=tuple(differences),
        only_a=_one_sided(a, b.keys(), steps_b),
        only_b=_one_sided(b, a.keys(), steps_a),
        first_other_length=first_other_length,
        untold=untold,
        untiled=untiled,
    )


def _seqlen_k(call: CheckedCall) -> int | None:
    return call.call.seqlen_k if call.call else None


def _one_sided(
    mine: dict[CallKey, CheckedCall], theirs: Iterable[CallKey], other_steps: set[tuple[str, int | None]]
) -> OneSided:
    alone = mine.keys() - set(theirs)
    own_steps = {(key.phase, key.step) for key in alone} - other_steps
    numbered = tuple(sorted((phase, step) for phase, step in own_steps if step is not None))
    first = min((step for phase, step in numbered if phase == "decode"), default=None)
    return OneSided(
        calls=len(alone),
        steps=numbered,
        in_shared_steps=sum((key.phase, key.step) not in own_steps for key in alone),
        changes=() if first is None else tuple(_changes(mine.values(), first)),
    )


def _changes(calls: Iterable[CheckedCall], first: int) -> Iterable[tuple[SplitRow, SplitRow]]:
    """Where decode changes from step ``first`` on: the rows of the split timeline before and after."""
    rows = split_rows([call for call in calls if call.phase == "decode" and call.step is not None])
    for before, after in pairwise(rows):
        if (
            (before.slots, before.processes) == (after.slots, after.processes)
            and after.steps
            and after.steps[0] >= first
        ):
            yield before, after


def _config_differences(a: Recording, b: Recording) -> Iterable[tuple[str, Any, Any]]:
    """Settings, versions and GPUs that the runs state and that differ."""
    flat_a, flat_b = _settings(a), _settings(b)
    for name in dict.fromkeys([*flat_a, *flat_b]):
        if flat_a.get(name) != flat_b.get(name):
            yield name, flat_a.get(name), flat_b.get(name)


def _settings(run: Recording) -> dict[str, Any]:
    workload = run.config.get("workload") or {}
    found = {name: workload.get(name) for name in _COMPARED_CONFIG}
    found |= {f"model {name}": value for name, value in (workload.get("model") or {}).items()}
    found |= dict(workload.get("versions") or {})
    found["recorder"] = (run.config.get("capture") or {}).get("recorder")
    found["gpu"] = run.gpu.name if run.gpu else None
    return found
