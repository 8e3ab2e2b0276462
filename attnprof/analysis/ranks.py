"""One trace of a job of many, in the few kilobytes that its comparison with the others needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnprof.analysis.kernel_groups import kernel_group
from attnprof.analysis.kernels import kernel_totals
from attnprof.analysis.phases import PhaseTotal, build_steps, phase_totals
from attnprof.analysis.splits import SplitRow, split_rows
from attnprof.arrays import distinct
from attnprof.check.check_run import CheckResult
from attnprof.check.recording import Recording


@dataclass(frozen=True, slots=True)
class KernelSum:
    """All executions of one kernel name on one rank; times in ns."""

    name: str
    instances: int
    total_ns: int
    min_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class RankSummary:
    """One trace of a job. Times are in ns; ``communication_ns`` is GPU time of NCCL's kernels and their like,
    ``graph_ns`` that of CUDA graphs recorded whole.

    ``step_walls`` are (step, wall time) pairs. ``error`` says why a trace could not be read; then the rest is
    empty.
    """

    label: str
    source: str
    gpu: str = ""
    kernels: int = 0
    gpu_ns: int = 0
    attention_ns: int = 0
    communication_ns: int = 0
    graph_ns: int = 0
    wall_ns: int = 0
    step_walls: tuple[tuple[int, int], ...] = ()
    phases: tuple[PhaseTotal, ...] = ()
    by_kernel: tuple[KernelSum, ...] = ()
    splits: tuple[SplitRow, ...] = ()
    verdicts: tuple[tuple[str, int], ...] = ()
    failures: int = 0
    cannot_tell: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def compute_ns(self) -> int:
        """GPU time without communication."""
        return self.gpu_ns - self.communication_ns


def summary_of(recording: Recording, result: CheckResult, label: str) -> RankSummary:
    """What a job needs of one rank."""
    totals = kernel_totals(recording.trace)
    steps = build_steps(recording.timeline)
    phases = phase_totals(recording.timeline, steps)
    names = {device.index: device.name or "" for device in recording.trace.info.devices}
    used = distinct(recording.trace.kernels.device).tolist()
    return RankSummary(
        label=label,
        source=Path(recording.trace.info.path).name,
        gpu=", ".join(filter(None, (names.get(device, "") for device in used))),
        kernels=recording.trace.num_kernels,
        gpu_ns=sum(total.total_ns for total in totals),
        attention_ns=sum(total.total_ns for total in totals if total.family),
        communication_ns=sum(t.total_ns for t in totals if kernel_group(t.name) == "communication"),
        graph_ns=sum(phase.graph_ns for phase in phases),
        wall_ns=sum(phase.wall_ns or 0 for phase in phases),
        step_walls=tuple(zip(steps.number.tolist(), steps.wall.tolist(), strict=True)),
        phases=tuple(phases),
        by_kernel=tuple(KernelSum(t.name, t.instances, t.total_ns, t.min_ns, t.max_ns) for t in totals),
        splits=tuple(split_rows(result.calls)),
        verdicts=tuple(sorted((verdict.value, count) for verdict, count in result.counts.items())),
        failures=len(result.failures),
        cannot_tell=result.cannot_tell,
        notes=recording.timeline.notes,
    )
