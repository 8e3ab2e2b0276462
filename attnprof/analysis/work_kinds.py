"""What each kernel works for (attention, MLP, norm, communication, sampling, …) and what tells it.

Three things tell: a range of the module that launched it, the kernel's own name, and its place between two
attention calls where layers repeat. What none of them tells is said to be of no recorded module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attnprof.analysis.kernel_groups import kernel_group
from attnprof.analysis.layer_positions import Role, placed
from attnprof.analysis.phases import (
    FIRST_DECODE,
    PART_NAMES,
    STEADY_DECODE,
    Steps,
    Sums,
    build_steps,
    kernel_parts,
)
from attnprof.arrays import blocks, occurring
from attnprof.model import MODULE_KINDS
from attnprof.trace.module_launches import launching_modules
from attnprof.trace.timeline import Timeline

# An attention module's work around what attends: projections, rope, writing the cache.
PROJECTIONS, MATRIX, REST = "QKV/output/rope", "matrix product", "other"
WORK_KINDS = (
    "attention", PROJECTIONS, "MLP", "router", "experts", "norm", "embedding", "LM head", "sampling",
    "communication", MATRIX, "elementwise", REST, "whole graph",
)  # fmt: skip
UNTOLD = frozenset({MATRIX, "elementwise", REST})  # of which module is not recorded
# With all of which the module is not recorded as one, and the place there of each of WORK_KINDS.
NOT_TOLD = "module not told"
SHOWN_KINDS = (*(kind for kind in WORK_KINDS if kind not in UNTOLD), NOT_TOLD)
KIND_SHOWN = np.array(
    [SHOWN_KINDS.index(NOT_TOLD if kind in UNTOLD else kind) for kind in WORK_KINDS], np.int64
)
EVIDENCE = ("range", "name", "position", "")
_RANGE, _NAME, _POSITION, _NOTHING = range(4)
_KIND_OF_GROUP = {
    "attention": "attention", "communication": "communication", "whole graph": "whole graph",
    "matrix product": MATRIX, "elementwise": "elementwise",
}  # fmt: skip
# A module around a kernel that does not itself attend; its attention is what attends.
_KIND_OF_MODULE = np.array(
    [
        -1 if not kind else WORK_KINDS.index(PROJECTIONS if kind == "attention" else kind)
        for kind in MODULE_KINDS
    ],
    np.int8,
)
_BY_NAME = (  # what a kernel's name states by itself; the first that it contains
    (PROJECTIONS, r"rotary|(?<![a-z])rope(?![a-z])|(?:reshape|concat)_and_cache|kv_?cache|append_paged_kv"),
    ("router", r"top_?k_?gating|gating_softmax|grouped_topk|moe_?(?:fused_)?gate"),
    ("experts", r"moe|grouped_?gemm|group_?gemm|expert"),
    ("norm", r"(?:rms|layer|group|batch|l2)_?norm|triton_(?:red|per)_fused\w{0,200}rsqrt|norm_kernel|\bbn_"),
    ("MLP", r"(?:silu|gelu|swiglu)\w{0,20}_(?:and_)?mul|act_and_mul"),
    ("sampling", r"argmax|multinomial|(?<!down)(?<!up)sampling|gumbel|apply_penalt|top_?k_?top_?p"),
    ("embedding", r"embedding"),
)  # fmt: skip
_NAMED = tuple((kind, re.compile(rule, re.IGNORECASE)) for kind, rule in _BY_NAME)
_ACTIVATION = re.compile(r"silu|gelu|swiglu|swish", re.IGNORECASE)
_ROOT = re.compile(r"rsqrt", re.IGNORECASE)
_FOREIGN = re.compile(r"conv|scan|ssm|mamba|delta|chunk_|recurren|backward|bwd|grad", re.IGNORECASE)
_LONGEST = 4096  # characters of a name that are looked at

Codes = npt.NDArray[np.int8]


@lru_cache(maxsize=65536)
def named_kind(name: str) -> tuple[str, bool]:
    """(one of WORK_KINDS, whether the name states it) of a kernel that no range tells of."""
    group = kernel_group(name)
    if group in ("attention", "communication", "whole graph"):
        return _KIND_OF_GROUP[group], True
    text = name[:_LONGEST]
    for kind, rule in _NAMED:
        if rule.search(text):
            return kind, True
    return _KIND_OF_GROUP.get(group, REST), False


@lru_cache(maxsize=65536)
def _role(name: str) -> int:
    """The part that a kernel of this name plays in a layer, as far as layers are told by it."""
    kind, text = named_kind(name)[0], name[:_LONGEST]
    if kind == "attention":
        return Role.FOREIGN if _FOREIGN.search(text) else Role.ATTENTION
    if kind == "communication":
        return Role.NONE
    if kind in ("sampling", "embedding") or _FOREIGN.search(text):
        return Role.FOREIGN
    if kind == "norm" or (kind in (MATRIX, "elementwise", REST) and _ROOT.search(text)):
        return Role.NORM
    if kind in ("MLP", "experts", "router") or (kind == "elementwise" and _ACTIVATION.search(text)):
        return Role.MLP
    return Role.MATRIX if kind == MATRIX else Role.NONE


@dataclass(frozen=True, slots=True)
class KernelWork:
    """Per kernel: ``kind``, a place in WORK_KINDS, and ``told_by``, a place in EVIDENCE."""

    kind: Codes
    told_by: Codes


def kernel_work(timeline: Timeline) -> KernelWork:
    """What every kernel of a timeline works for."""
    trace = timeline.trace
    by_name = np.full((3, len(trace.strings) + 1), 0, np.int8)  # kind, evidence, role in a layer
    for index in occurring(trace.kernels.name, len(trace.strings)).tolist():
        kind, stated = named_kind(trace.strings[index])
        by_name[:, index] = WORK_KINDS.index(kind), _NAME if stated else _NOTHING, _role(trace.strings[index])
    name = trace.kernels.name
    kind, told_by = by_name[0][name], by_name[1][name]
    own = [WORK_KINDS.index(one) for one in ("attention", "communication", "whole graph")]
    free = ~(np.isin(kind, own) & (told_by == _NAME))
    inside = free & (timeline.call >= 0)  # an attention call that is made of others' kernels
    kind[inside], told_by[inside] = WORK_KINDS.index("attention"), _RANGE
    modules = launching_modules(timeline)
    if modules is not None:
        of_module = _KIND_OF_MODULE[modules]
        known = free & ~inside & (of_module >= 0)
        kind[known], told_by[known] = of_module[known], _RANGE
    place = placed(timeline, by_name[2][name])
    for part, found in ((PROJECTIONS, place.attention), ("MLP", place.mlp)):
        rows = found[told_by[found] == _NOTHING]
        kind[rows], told_by[rows] = WORK_KINDS.index(part), _POSITION
    return KernelWork(kind, told_by)


@dataclass(frozen=True, slots=True)
class WorkTotal:
    """Kernels of one phase that work for one of WORK_KINDS; ``told_ns`` is their GPU time by EVIDENCE.

    ``phase`` is of PART_NAMES with all decode steps together as "decode"; ``steps`` are the phase's, 0
    outside every step; ``phase_ns`` is the GPU time of all its kernels. Times in ns.
    """

    phase: str
    kind: str
    steps: int
    kernels: int
    gpu_ns: int
    phase_ns: int
    told_ns: tuple[int, ...]

    @property
    def share(self) -> float | None:
        """Of the phase's GPU time, 0 to 1."""
        return self.gpu_ns / self.phase_ns if self.phase_ns else None


def work_totals(timeline: Timeline, steps: Steps | None = None) -> list[WorkTotal]:
    """The totals by phase, most GPU time first in each; together they are the GPU time of all kernels."""
    steps = build_steps(timeline) if steps is None else steps
    work, trace_kernels = kernel_work(timeline), timeline.trace.kernels
    shape = len(PART_NAMES), len(WORK_KINDS), len(EVIDENCE)
    sums = Sums(int(np.prod(shape)))
    for rows in blocks(len(trace_kernels)):
        parts = kernel_parts(timeline, steps, rows).astype(np.int64)
        code = (parts * shape[1] + work.kind[rows]) * shape[2] + work.told_by[rows]
        sums.add(code, trace_kernels.end[rows] - trace_kernels.start[rows])
    count, spent = sums.count.reshape(shape), sums.total.reshape(shape)
    found = []
    for phase, of_phase in _phases().items():
        steps_made = int(np.isin(steps.part, of_phase).sum())
        kernels_of, told = count[of_phase].sum(axis=(0, 2)).tolist(), spent[of_phase].sum(axis=0).tolist()
        phase_ns = sum(map(sum, told))
        totals = [
            WorkTotal(phase, kind, steps_made, kernels_of[n], sum(told[n]), phase_ns, tuple(told[n]))
            for n, kind in enumerate(WORK_KINDS)
            if kernels_of[n]
        ]
        found += sorted(totals, key=lambda total: (-total.gpu_ns, WORK_KINDS.index(total.kind)))
    return found


def _phases() -> dict[str, list[int]]:
    """The places in PART_NAMES of each phase, the first decode step with the others."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(PART_NAMES):
        found.setdefault("decode" if place in (FIRST_DECODE, STEADY_DECODE) else name, []).append(place)
    return found
