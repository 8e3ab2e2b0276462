"""What to do: at most five findings, those that could save most time first, each with evidence and a command.

Time that could be saved is never more than what was observed to be spent, and said to be at most that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from attnprof.analysis.kernel_groups import kernel_group
from attnprof.analysis.layer_kinds import kinds_of_calls
from attnprof.analysis.other_versions import Otherwise, of_other_versions, with_splits
from attnprof.analysis.phases import PhaseTotal
from attnprof.dispatch.libraries import library
from attnprof.dispatch.names.kernel_names import short_name
from attnprof.report.profiling import ncu_words
from attnprof.report.tables import Column, Table, duration, percent
from attnprof.safety.next_command import next_command, next_explanation
from attnprof.safety.redact import redact

if TYPE_CHECKING:
    from attnprof.analysis.kernels import KernelTotal
    from attnprof.analysis.layer_kinds import LayerKind
    from attnprof.analysis.roofline import RooflineRow
    from attnprof.analysis.split_cost import SplitCost
    from attnprof.analysis.splits import SplitRow
    from attnprof.check.check_run import CheckedCall, CheckResult
    from attnprof.check.recording import Recording

    _Recorded = dict[tuple[str, int, int | None], CheckedCall]  # by phase, kind of layer and split count

_MOST = 5
_WORTH_SAYING = 0.02  # of all GPU or wall time
_FEW_SMS = 0.5
_PROGRAM = "PROGRAM"


@dataclass(frozen=True, slots=True)
class Advice:
    """``at_most_ns``: what could be saved at most, None where that is not known, of ``of_ns``."""

    what: str
    evidence: str
    command: str
    at_most_ns: int | None = None
    of_ns: int | None = None

    @property
    def share(self) -> float | None:
        """What could be saved at most, as a share."""
        return self.at_most_ns / self.of_ns if self.at_most_ns is not None and self.of_ns else None


def advice(
    run: Recording,
    result: CheckResult,
    phases: Sequence[PhaseTotal],
    splits: Sequence[SplitRow],
    read: Sequence[RooflineRow],
    costs: Sequence[SplitCost],
    totals: Sequence[KernelTotal],
    kinds: Sequence[LayerKind] = (),
) -> list[Advice]:
    """The findings, those that could save most first, then those of which that is not known."""
    gpu_ns = sum(phase.gpu_ns for phase in phases)
    if not gpu_ns:
        return []
    found = [*_failures(run, result), *_changes(run, splits)]
    of_calls = (run, result, _recorded(run, result, kinds), gpu_ns)
    timed = [*_waiting(run, phases), *_few_sms(read, *of_calls), *_asked_for(read, *of_calls)]
    timed += [*_combining(costs, *of_calls), *_communication(run, totals, gpu_ns)]
    worth = [one for one in timed if (one.share or 0) >= _WORTH_SAYING]
    return [*sorted(worth, key=lambda one: -(one.at_most_ns or 0)), *found][:_MOST]


def _waiting(run: Recording, phases: Sequence[PhaseTotal]) -> Iterator[Advice]:
    """Decode, or a trace without steps, in which the GPU waits for launches."""
    named = {phase.phase: phase for phase in phases}
    phase = named.get("steady decode") or (named.get("other") if len(phases) == 1 else None)
    if phase is None or not phase.waiting_ns or not phase.device_wall_ns:
        return
    name = "steady decode" if phase.phase != "other" else "the trace"
    yield Advice(
        "launch in CUDA graphs or larger batches",
        f"in {name} the GPU waits for the CPU to launch {duration(phase.waiting_ns)} of "
        f"{duration(phase.device_wall_ns)}, as recorded (recording slows launches)",
        next_command("report", run.argument, "--plot", "step.png", "--figure", "step"),
        phase.waiting_ns,
        phase.device_wall_ns,
    )


def _few_sms(
    read: Sequence[RooflineRow], run: Recording, result: CheckResult, recorded: _Recorded, gpu_ns: int
) -> Iterator[Advice]:
    """Recorded calls that leave most SMs without a thread block."""
    for row in read:
        if not row.sms_busy or row.sms_busy > row.num_sms * _FEW_SMS:
            continue
        call = recorded.get((row.phase, row.kind, row.num_splits))
        if call is None:
            continue
        others = [one for one in _others(call, result) if one.num_splits > (call.num_splits or 1)][:1]
        given = _filling(call, result)
        yield Advice(
            f"split {row.phase} attention further" + _in_words([*others, *given]),
            f"{row.calls:,} {row.phase} calls with {_splits(row.num_splits)} keep at most "
            f"{row.sms_busy} of {row.num_sms} SMs at work and take {duration(row.gpu_ns)}",
            _command(run, call, others),
            row.gpu_ns * (row.num_sms - row.sms_busy) // row.num_sms,
            gpu_ns,
        )


def _asked_for(
    read: Sequence[RooflineRow], run: Recording, result: CheckResult, recorded: _Recorded, gpu_ns: int
) -> Iterator[Advice]:
    """Recorded calls whose caller asked for fewer splits than the library's own rule gives."""
    for row in read:
        checked = recorded.get((row.phase, row.kind, row.num_splits))
        call = checked.call if checked else None
        if checked is None or call is None or call.num_splits <= 1 or not result.gpu or not result.version:
            continue
        own = with_splits(call, result.gpu, result.version, 0)
        if own is None or own.num_splits <= call.num_splits:
            continue
        own = replace(own, whose="the library's own choice")
        others = [one for one in _others(checked, result) if one.num_splits > call.num_splits][:1]
        yield Advice(
            f"let {row.phase} attention split further" + _in_words([own, *others]),
            f"{row.calls:,} {row.phase} calls were asked for at most {call.num_splits} splits and take "
            f"{duration(row.gpu_ns)}",
            _command(run, checked, []),
            row.gpu_ns * (own.num_splits - call.num_splits) // own.num_splits,
            gpu_ns,
        )


def _recorded(run: Recording, result: CheckResult, kinds: Sequence[LayerKind]) -> _Recorded:
    """The first call of each phase, kind of layer and split count whose arguments and kernels are known."""
    found: _Recorded = {}
    numbers = kinds_of_calls(result.calls, kinds).tolist() if run.records else []
    for call, kind in zip(result.calls, numbers, strict=False):
        if call.seq is not None and call.call and call.observed and call.duration_ns:
            found.setdefault((call.phase, kind, call.num_splits), call)
    return found


def _others(checked: CheckedCall, result: CheckResult) -> list[Otherwise]:
    """What other versions would do with a call of the library that is predicted."""
    call, gpu, version = checked.call, result.gpu, result.version
    if call is None or gpu is None or version is None or call.library != result.library:
        return []
    return of_other_versions(call, gpu, version)


def _in_words(others: Sequence[Otherwise], lead: str = ": ") -> str:
    """What each would launch, as the library's rules predict; "" of none."""
    told = [
        f"{one.whose} would launch {one.kernel} with grid {'x'.join(map(str, one.grid))}"
        if one.whose == f"num_splits={one.num_splits}"
        else f"{one.whose}: {_splits(one.num_splits)}, {one.kernel} with grid {'x'.join(map(str, one.grid))}"
        for one in others
    ]
    return f"{lead}{'; '.join(told)} (predicted)" if told else ""


def _command(run: Recording, checked: CheckedCall, others: Sequence[Otherwise]) -> str:
    """How to see more of a recorded call: another version's derivation, the call made again, or its own."""
    number = checked.seq or 0
    if run.records and others:
        return next_explanation(run.argument, number, "--version", others[0].version)
    if checked.call and library(checked.call.library).replay(checked.call) is not None:
        return next_command("replay", run.argument, "--call", str(number))
    if run.records:
        return next_explanation(run.argument, number)
    return next_command("check", run.argument, "--format", "csv")


def _filling(checked: CheckedCall, result: CheckResult) -> list[Otherwise]:
    """What a given ``num_splits`` that fills the SMs would launch, as the library's rules predict."""
    call, gpu, version = checked.call, result.gpu, result.version
    if call is None or gpu is None or version is None or checked.observed is None or not checked.num_splits:
        return []
    blocks = max(1, checked.observed.launches[0].grid[0] * checked.observed.launches[0].grid[2])
    size = library(call.library).key_block(call)
    most = -(-call.seqlen_k // size) if size else 0
    wanted = min(most, gpu.num_sms // blocks)
    if wanted <= checked.num_splits:
        return []
    made = with_splits(call, gpu, version, wanted)
    return [made] if made else []


def _combining(
    costs: Sequence[SplitCost], run: Recording, result: CheckResult, recorded: _Recorded, gpu_ns: int
) -> Iterator[Advice]:
    """What the combine kernels take, of each phase."""
    for phase in dict.fromkeys(cost.phase for cost in costs):
        mine = [cost for cost in costs if cost.phase == phase and cost.num_splits > 1]
        spent = int(sum(cost.rest_ns * cost.calls for cost in mine))
        if spent:
            total = sum(cost.total_ns * cost.calls for cost in mine)
            dearest = max(mine, key=lambda cost: cost.rest_ns * cost.calls)
            call = recorded.get((phase, dearest.kind, dearest.num_splits))
            known = _others(call, result) if call else []
            others = [one for one in known if one.num_splits < dearest.num_splits][:1]
            yield Advice(
                f"combine less in {phase}: fewer splits, or a kernel that sums up itself"
                + _in_words(others, "; "),
                f"the combine takes {duration(spent)}, {percent(spent / total)} of the split calls' time",
                next_command("report", run.argument, "--table", "splitting", "--format", "csv"),
                spent,
                gpu_ns,
            )


def _communication(run: Recording, totals: Sequence[KernelTotal], gpu_ns: int) -> Iterator[Advice]:
    spent = sum(total.total_ns for total in totals if kernel_group(total.name) == "communication")
    if spent:
        yield Advice(
            "overlap communication with computing",
            f"communication kernels take {duration(spent)} of {duration(gpu_ns)} GPU time",
            next_command("report", run.argument, "--plot", "phases.png", "--figure", "phases"),
            spent,
            gpu_ns,
        )


def _failures(run: Recording, result: CheckResult) -> Iterator[Advice]:
    if result.failures:
        first = result.failures[0]
        yield Advice(
            "find out why attention ran otherwise than the library's rules say",
            f"{len(result.failures):,} of {len(result.calls):,} calls, the first: {first.verdict.value}, "
            f"{first.detail}",
            next_command("check", run.argument),
        )


def _changes(run: Recording, splits: Iterable[SplitRow]) -> Iterator[Advice]:
    """The first change of dispatch that was observed, and how to profile its first launch."""
    for before, after in pairwise(splits):
        same = (before.phase, before.slots, before.processes) == (after.phase, after.slots, after.processes)
        if same and after.steps and before.observed and after.observed:
            launch = _first_launch(run, after)
            if launch is None:
                continue
            kernel, skip = launch
            yield Advice(
                f"profile the launch that changed at {after.phase} step {after.steps[0]}",
                f"{_ran(before)} until then, {_ran(after)} from there on",
                ncu_words(kernel, skip, _program(run)),
            )
            return


def _ran(row: SplitRow) -> str:
    kernel = row.kernel.partition(" + ")[0]
    return kernel if row.num_splits is None else f"{kernel} in {_splits(row.num_splits)}"


def _splits(count: int | None) -> str:
    return "an unknown split count" if count is None else f"{count} split{'' if count == 1 else 's'}"


def _first_launch(run: Recording, row: SplitRow) -> tuple[str, int] | None:
    """(kernel, earlier launches of the same kernel in its process) of a row's first call."""
    observed, trace = run.observed, run.trace
    began = min(row.steps, default=-1)
    layers = {layer for layer, _ in row.slots}
    for place, (step, layer) in enumerate(zip(observed.step.tolist(), observed.layer.tolist(), strict=True)):
        if step != began or layer not in layers:
            continue
        shape = observed.shapes[int(observed.shape[place])]
        if shape.num_splits != row.num_splits:
            continue
        main, kernels = int(observed.main[place]), trace.kernels
        names = [number for number, name in enumerate(trace.strings) if short_name(name) == shape.main.kernel]
        earlier = (kernels.start < kernels.start[main]) & (kernels.pid == kernels.pid[main])
        return shape.main.kernel, sum(int((kernels.name[earlier] == name).sum()) for name in names)
    return None


def _program(run: Recording) -> str:
    """The recorded program as it was started, where it can be told."""
    command = [str(part) for part in run.config.get("command") or ()]
    if "--" not in command:
        return _PROGRAM
    from attnprof.safety.redact import redact_command

    return redact(redact_command(command[command.index("--") + 1 :])) or _PROGRAM


def advice_table(found: Sequence[Advice]) -> Table:
    """The findings with their evidence and commands."""
    columns = (
        Column("finding", "what to do", wraps=True), Column("at_most_ns", "saves at most", right=True),
        Column("share", "of it", right=True), Column("evidence", wraps=True), Column("command"),
    )  # fmt: skip
    rows = [(one.what, one.at_most_ns, one.share, one.evidence, one.command) for one in found]
    shown = [
        [one.what, duration(one.at_most_ns), percent(one.share), one.evidence, one.command] for one in found
    ]
    return Table("advice", columns, rows, shown, "What to do (time that could be saved, at most)")
