"""Calls without recorded arguments: each is read back from its launches, then set beside its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from attnprof.arrays import distinct_rows
from attnprof.check.compare import compare
from attnprof.check.cut_calls import spare_cut_calls
from attnprof.check.frozen_splits import find_frozen
from attnprof.check.neighbours import find_inconsistent
from attnprof.check.observed_calls import ObservedCalls
from attnprof.check.observed_shape import ObservedShape
from attnprof.check.verdicts import FAILED, ReadBackCalls, Reading, Verdict
from attnprof.dispatch.explanation import GpuFacts, ReadBack
from attnprof.dispatch.heuristic import SPLIT_BLOCK_M, ceil_div
from attnprof.dispatch.intervals import InferredCall
from attnprof.dispatch.libraries import explain, named_only, only_on_nvidia, template_fields
from attnprof.dispatch.limits import is_grid
from attnprof.dispatch.names.kernel_names import KernelSignature
from attnprof.model import Prediction

_NOTHING = GpuFacts()


def check_unrecorded(
    observed: ObservedCalls,
    gpus: Mapping[int, GpuFacts],
    keys_of_step: Mapping[int, int] | None = None,
    captured: Mapping[int, Prediction] | None = None,
) -> ReadBackCalls:
    """A verdict per observed call of a trace without call records; ``gpus`` is what the trace states of each.

    Replays of a recorded call are compared with what was predicted for it, ``captured`` by its number.
    """
    facts = [gpus.get(shape.device, _NOTHING) for shape in observed.shapes]
    told = [_told(shape, gpu) for shape, gpu in zip(observed.shapes, facts, strict=True)]
    readings = [_reading(s, gpu, back) for s, gpu, back in zip(observed.shapes, facts, told, strict=True)]
    calls = ReadBackCalls(observed, readings)
    told = [None if back is not None and back.shared else back for back in told]  # maybe another library's
    cut = spare_cut_calls(calls, [back is not None and back.cut for back in told])
    replays = np.flatnonzero(observed.replayed & (observed.seq >= 0)) if captured else np.zeros(0, np.int64)
    (seqs, shapes), pair = distinct_rows([observed.seq[replays], observed.shape[replays]])
    for number, (seq, shape) in enumerate(zip(seqs.tolist(), shapes.tolist(), strict=True)):
        if captured and seq in captured:
            verdict, detail = compare(captured[seq], observed.shapes[shape])
            said = detail or f"replays call {seq}"
            calls.read_otherwise(replays[pair == number], Reading(verdict, said, calls.inferred[shape]))
    num_sms = {device: gpu.num_sms for device, gpu in gpus.items() if gpu.num_sms}
    for found in find_inconsistent(observed, told, cut, num_sms):
        calls.read_otherwise(
            calls.not_having(found.rows, FAILED), Reading(Verdict.INCONSISTENT, found.detail)
        )
    for frozen in find_frozen(observed, calls.inferred, told, num_sms, keys_of_step):
        reading = Reading(Verdict.FROZEN, frozen.detail, calls.inferred[frozen.shape])
        calls.read_otherwise(frozen.rows, reading)
    return calls


@lru_cache(maxsize=4096)
def _told(shape: ObservedShape, gpu: GpuFacts) -> ReadBack | None:
    """What a shape's launches say of the call; None where they are not modelled, or no call's at all."""
    if shape.beside or shape.main.family.endswith("_combine"):
        return None
    grids = [launch.grid for launch in shape.ran if any(launch.grid)]
    if not all(is_grid(grid) for grid in grids):
        return None
    return explain(shape.observed, gpu, shape.main.library)


def _only_named(main: KernelSignature) -> str:
    """Why a kernel that no library's rules launch has no prediction."""
    what = f"{main.library} {main.family}" if main.family else main.library
    if main.role == "backward":
        return f"{what}, a backward pass: the forward pass alone is predicted"
    return f"{what}, of which only the name is known"


def _reading(shape: ObservedShape, gpu: GpuFacts, told: ReadBack | None) -> Reading:
    main = shape.main
    if shape.beside:
        more = " + ".join(_kernels(shape.beside))
        return Reading(Verdict.UNEXPLAINED, f"{more} ran beside {main.kernel}, which no call launches")
    if main.family.endswith("_combine"):
        return Reading(Verdict.UNEXPLAINED, f"{main.kernel} ran without a split kernel before it")
    if main.role == "scheduler" and len(shape.launches) > 1:
        after = shape.signatures[1].kernel
        return Reading(Verdict.UNEXPLAINED, f"{main.kernel} and {after} ran without a main kernel between")
    if told is None:
        wrong = next((launch for launch in shape.launches if not is_grid(launch.grid)), None)
        if main.modelled and wrong is not None and any(wrong.grid):
            return Reading(Verdict.UNEXPLAINED, f"no GPU takes the grid {'x'.join(map(str, wrong.grid))}")
        if gpu.vendor == "amd" and main.modelled and only_on_nvidia(main.library):
            return Reading(
                Verdict.NOT_MODELLED, f"{main.library}, whose launches are known on NVIDIA GPUs alone"
            )
        if template_fields(shape.launches[0].kernel) is not None:
            return Reading(
                Verdict.NOT_RECORDED, f"{main.library}, of a build whose launches are not modelled"
            )
        why = named_only(shape.launches[0].kernel)
        return Reading(Verdict.NOT_MODELLED, why or _only_named(main))
    combined = len(shape.launches) > 1
    split = main.flag("Split") if main.family == "fwd_splitkv" else False if main.family == "fwd" else None
    if split is not None and split != combined:
        wanted = "without its combine kernel" if split else "followed by a combine kernel"
        return Reading(Verdict.UNEXPLAINED, f"{main.kernel} ran {wanted}")
    unread = " and ".join(told.unread)
    if not told.explanations:
        if "template arguments" in told.unread:
            return Reading(Verdict.NOT_READ, f"the {unread} cannot be read")
        wrong_field = told.nearest or "its kernels"
        return Reading(Verdict.UNEXPLAINED, f"no call launches this; the nearest has another {wrong_field}")
    if told.shared:
        return Reading(Verdict.NOT_MODELLED, told.shared)
    inferred = _inferred(shape, told)
    if set(told.unread) - {"SM count"}:
        return Reading(Verdict.NOT_READ, f"the trace does not hold the {unread}", inferred)
    if gpu.num_sms is None:
        return Reading(Verdict.EXPLAINED, "the SM count is not in the trace: no KV length can be told", None)
    whose = f"{told.of} {main.kernel}" if told.of else ""
    detail = whose if told.chosen else _not_chosen(told)
    return Reading(Verdict.EXPLAINED, detail, inferred, told.share, whose)


def _not_chosen(told: ReadBack) -> str:
    """Said where the library cannot have chosen the split count from a KV length."""
    count = told.explanations[0].num_splits
    if count == 1:
        return "one split, which the varlen entry and callers who ask for it get"
    return f"{count} splits, which only callers who ask for them get: no KV length leads there"


def _inferred(shape: ObservedShape, told: ReadBack) -> InferredCall | None:
    """The KV lengths for which the library would choose the split count, with the grid's batch and heads."""
    first = told.explanations[0]
    if first.batch_heads is None:
        return None
    low = min(explanation.seqlen_q.low for explanation in told.explanations)
    high = max(explanation.seqlen_q.high or low for explanation in told.explanations)
    blocks = range(ceil_div(low, SPLIT_BLOCK_M), ceil_div(high, SPLIT_BLOCK_M) + 1)
    return InferredCall(first.num_splits, first.batch_heads, tuple(blocks), told.seqlen_k)


def _kernels(launches: object) -> list[str]:
    from attnprof.dispatch.names.kernel_names import parse_kernel_name

    return [parse_kernel_name(launch.kernel).kernel for launch in launches]  # type: ignore[attr-defined]
