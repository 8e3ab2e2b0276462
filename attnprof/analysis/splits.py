"""From which step and KV length on which kernel and how many splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attnprof.check import CheckedCall
from attnprof.dispatch.infer import Interval, Intervals, first_length, union
from attnprof.dispatch.names import parse_kernel_name


@dataclass(frozen=True, slots=True)
class SplitRow:
    """Consecutive steps of one phase and some layers in which attention was dispatched alike.

    ``seqlen_k``: KV lengths in tokens, from the call records or as far as the launches tell them; empty where
    neither does. ``steps`` and ``layers`` are empty where the trace does not say. ``gpu_ns`` is None where
    nothing was observed.
    """

    phase: str
    layers: tuple[int, ...]
    steps: tuple[int, int] | tuple[()]
    seqlen_k: Intervals
    num_splits: int | None
    kernel: str
    calls: int
    observed: bool
    gpu_ns: int | None


_Key = tuple[str, int | None, bool]


def split_rows(calls: Sequence[CheckedCall]) -> list[SplitRow]:
    """The split timeline: run lengths over steps, layers with the same timeline together."""
    by_layer: dict[tuple[str, int], list[CheckedCall]] = defaultdict(list)
    for call in calls:
        if call.observed is not None or call.predicted is not None:
            by_layer[call.phase, -1 if call.layer is None else call.layer].append(call)
    timelines = {key: _run_lengths(group) for key, group in by_layer.items()}
    alike: dict[tuple[object, ...], list[tuple[str, int]]] = defaultdict(list)
    for (phase, layer), runs in timelines.items():
        pattern = tuple((kernel_and_splits(run[0]), _steps(run)) for run in runs)
        alike[phase, pattern].append((phase, layer))
    rows: list[SplitRow] = []
    for members in alike.values():
        phase = members[0][0]
        layers = tuple(sorted(layer for _, layer in members if layer >= 0))
        together = zip(*(timelines[member] for member in members), strict=True)
        rows += [_row(phase, layers, [call for run in runs for call in run], runs[0]) for runs in together]
    order = {"prefill": 0, "decode": 1}
    return sorted(rows, key=lambda row: (order.get(row.phase, 2), row.layers, row.steps))


def kernel_and_splits(call: CheckedCall) -> _Key:
    """What a call is grouped by: its kernels' names, its split count, and whether it was seen to run."""
    if call.observed is not None:
        names = [signature.kernel for signature in call.observed.signatures]
    elif call.predicted is not None and call.predicted.launches:
        names = [parse_kernel_name(launch.kernel).kernel for launch in call.predicted.launches]
    else:
        names = ["none" if call.predicted is None or call.predicted.error is None else "refused"]
    return " + ".join(names), call.num_splits, call.observed is not None


def _run_lengths(calls: Iterable[CheckedCall]) -> list[list[CheckedCall]]:
    runs: list[list[CheckedCall]] = []
    for call in sorted(calls, key=lambda c: -1 if c.step is None else c.step):
        if runs and kernel_and_splits(runs[-1][-1]) == kernel_and_splits(call):
            runs[-1].append(call)
        else:
            runs.append([call])
    return runs


def _steps(run: Sequence[CheckedCall]) -> tuple[int, int] | tuple[()]:
    steps = [call.step for call in run if call.step is not None]
    return (min(steps), max(steps)) if steps else ()


def _row(
    phase: str, layers: tuple[int, ...], calls: list[CheckedCall], one_layer: list[CheckedCall]
) -> SplitRow:
    kernel, num_splits, observed = kernel_and_splits(calls[0])
    spent = [call.duration_ns for call in calls if call.duration_ns is not None]
    return SplitRow(
        phase=phase,
        layers=layers,
        steps=_steps(calls),
        seqlen_k=_lengths(one_layer),
        num_splits=num_splits,
        kernel=kernel,
        calls=len(calls),
        observed=observed,
        gpu_ns=sum(spent) if spent else None,
    )


def _lengths(run: Sequence[CheckedCall]) -> Intervals:
    """KV lengths of a run: those recorded, else those the launches allow."""
    recorded = [call.call.seqlen_k for call in run if call.call is not None]
    if recorded:
        return (Interval(min(recorded), max(recorded)),)
    return union({call.inferred.seqlen_k for call in run if call.inferred is not None})


def inferred_first_length(calls: Sequence[CheckedCall]) -> Intervals:
    """The KV length of the first decode step of a trace without records, from one layer's calls per step."""
    decode = [call for call in calls if call.phase == "decode" and call.step is not None and call.inferred]
    if not decode:
        return ()
    layer = decode[0].layer
    per_step = {call.step: call.inferred.seqlen_k for call in decode if call.layer == layer and call.inferred}
    steps = sorted(step for step in per_step if step is not None)
    if steps != list(range(steps[0], steps[0] + len(steps))):
        return ()
    return first_length([per_step[step] for step in steps])
