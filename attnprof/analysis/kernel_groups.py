"""GPU time by kind of kernel (attention, matrix products, communication, …), per phase and per step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attnprof.analysis.phases import PART_NAMES, Steps, Sums, build_steps, kernel_parts
from attnprof.arrays import blocks, look_up, occurring
from attnprof.check.check_run import CheckedCall
from attnprof.dispatch.names.kernel_names import is_attention_kernel
from attnprof.trace.tables import WHOLE_GRAPH, Int64
from attnprof.trace.timeline import Timeline
from attnprof.trace.whole_graphs import are_whole_graphs

GROUPS = (
    "attention", "matrix product", "communication", "normalisation", "elementwise", "whole graph", "other",
)  # fmt: skip
# After attention; the first pattern that a name contains decides.
_PATTERNS = tuple(
    (group, re.compile(pattern, re.IGNORECASE))
    for group, pattern in (
        (
            "communication",
            r"nccl|rccl|all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|nvshmem|deep_?ep|internode|intranode",
        ),
        (
            "matrix product",
            r"gemm|gemv|nvjet|cublas|cutlass|splitKreduce|xmma|wgmma|cijk_|_matmul|_mm_|bmm_|moe",
        ),
        ("normalisation", r"norm|softmax|\bbn_"),
        (
            "elementwise",
            r"elementwise|triton_poi|silu|gelu|rotary|rope|copy|cast|fill|cat|index|scatter|gather|quant",
        ),
    )
)


@lru_cache(maxsize=65536)
def kernel_group(name: str) -> str:
    """Which of GROUPS a kernel belongs to, by its name."""
    if is_attention_kernel(name):
        return "attention"
    if name == WHOLE_GRAPH:
        return "whole graph"
    return next((group for group, pattern in _PATTERNS if pattern.search(name)), "other")


def group_indices(timeline: Timeline) -> npt.NDArray[np.int8]:
    """Per kernel, the index into GROUPS."""
    trace = timeline.trace
    of_name = np.zeros(len(trace.strings) + 1, np.int8)
    for index in occurring(trace.kernels.name, len(trace.strings)).tolist():
        of_name[index] = GROUPS.index(kernel_group(trace.strings[index]))
    return look_up(of_name, trace.kernels.name)


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """One phase: GPU time in ns of each of GROUPS, and its number of steps, 0 where the trace names none."""

    phase: str
    steps: int
    gpu_ns: tuple[int, ...]


def group_totals(timeline: Timeline, steps: Steps | None = None) -> list[GroupTotals]:
    """The phases that have kernels, in order."""
    steps = build_steps(timeline) if steps is None else steps
    kernels = timeline.trace.kernels
    groups, sums = group_indices(timeline), Sums(len(PART_NAMES) * len(GROUPS))
    for rows in blocks(len(kernels)):
        parts = kernel_parts(timeline, steps, rows).astype(np.int64)
        sums.add(parts * len(GROUPS) + groups[rows], kernels.end[rows] - kernels.start[rows])
    count, spent = (values.reshape(-1, len(GROUPS)) for values in (sums.count, sums.total))
    return [
        GroupTotals(phase, int((steps.part == code).sum()), tuple(spent[code].tolist()))
        for code, phase in enumerate(PART_NAMES)
        if count[code].any()
    ]


@dataclass(frozen=True, slots=True)
class StepShares:
    """Decode steps with kernels, one element each.

    ``share``: attention's part of the step's GPU time, 0 to 1.  ``seqlen_k``: KV length in tokens, -1 where
    no call was recorded.  ``num_splits``: the most splits of its calls, -1 where unknown.
    """

    number: Int64
    share: npt.NDArray[np.float64]
    seqlen_k: Int64
    num_splits: Int64


def step_shares(timeline: Timeline, calls: Sequence[CheckedCall], steps: Steps | None = None) -> StepShares:
    """Attention's share of each decode step's GPU time, against what its calls say.

    Steps with CUDA graphs recorded whole are left out: what attention took in them is not known.
    """
    steps = build_steps(timeline) if steps is None else steps
    hidden = np.zeros(len(steps) + 1, np.bool_)  # the last one is what -1 finds
    hidden[steps.of_kernel[are_whole_graphs(timeline.trace)]] = True
    decode = (steps.part > 0) & (steps.gpu > 0) & ~hidden[:-1]
    number = steps.number[decode].astype(np.int64)
    lengths: dict[int, int] = {}
    splits: dict[int, int] = {}
    for call in calls:
        if call.phase == "decode" and call.step is not None:
            if call.call is not None:
                lengths[call.step] = max(lengths.get(call.step, -1), call.call.seqlen_k)
            if call.num_splits is not None:
                splits[call.step] = max(splits.get(call.step, -1), call.num_splits)
    return StepShares(
        number=number,
        share=steps.attention[decode] / steps.gpu[decode],
        seqlen_k=np.array([lengths.get(step, -1) for step in number.tolist()], np.int64),
        num_splits=np.array([splits.get(step, -1) for step in number.tolist()], np.int64),
    )
