"""Observed against predicted: one verdict per attention call.

With call records every observed call is compared with the prediction for its own arguments. Without, the
launches are read back: what no call launches is a mismatch, and the lengths that do explain it are reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnprof.calls.records import CallRecord, NotModelled
from attnprof.check.compare import compare
from attnprof.check.coverage import Coverage
from attnprof.check.observed_calls import ObservedCalls, first_unrecorded, operators_between_launches
from attnprof.check.observed_shape import ObservedShape, joined
from attnprof.check.recording import Recording
from attnprof.check.target import Target, choose_target
from attnprof.check.unrecorded import check_unrecorded
from attnprof.check.verdicts import FAILED, CheckedCall, ReadBackCalls, Reading, Verdict
from attnprof.dispatch.explanation import GpuFacts, strength
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import EXIT_CANNOT_TELL, EXIT_CHECK_FAILED, EXIT_OK
from attnprof.gpus import make_gpu
from attnprof.model import Gpu, Library, Prediction
from attnprof.trace.tables import Device


@dataclass(frozen=True, slots=True)
class CheckResult:
    """All verdicts of a run. ``cannot_tell`` is a sentence where the trace lacks what the question needs.

    ``only_other_kernels``: the trace holds kernels, all that ran, and none is of an attention library.
    ``disbelief``: why the calls' phases could not be told.  ``unseen``: why attention may have run of which
    the trace holds no kernel, "" where none may have.
    """

    calls: Sequence[CheckedCall]
    library: Library | None
    version: str | None
    gpu: Gpu | None
    observed: bool
    cannot_tell: str = ""
    hint: str = ""
    only_other_kernels: bool = False
    disbelief: str | None = None
    unseen: str = ""

    @property
    def counts(self) -> Counter[Verdict]:
        if isinstance(self.calls, ReadBackCalls):
            return self.calls.counts
        return Counter(call.verdict for call in self.calls)

    def details(self, verdict: Verdict) -> Counter[str]:
        """How many calls got the verdict for each reason, in order of the first of them."""
        if isinstance(self.calls, ReadBackCalls):
            return self.calls.details(verdict)
        return Counter(call.detail for call in self.calls if call.verdict is verdict)

    @property
    def owners(self) -> Counter[str]:
        """How many calls launched a kernel of a name that several libraries have, by whose it may be."""
        return self.calls.owners if isinstance(self.calls, ReadBackCalls) else Counter()

    @property
    def coverage(self) -> Coverage:
        """How much was compared."""
        return Coverage(self.counts)

    def coverage_in(self, phase: str | None) -> Coverage:
        """The same of the calls of one phase; of all where that is None."""
        if phase is None:
            return self.coverage
        if isinstance(self.calls, ReadBackCalls):
            return Coverage(self.calls.counts_in(phase))
        return Coverage(Counter(call.verdict for call in self.calls if call.phase == phase))

    @property
    def several_processes(self) -> bool:
        """Whether recorded calls are of more than one process."""
        return not isinstance(self.calls, ReadBackCalls) and any(call.process for call in self.calls)

    @property
    def strengths(self) -> Counter[str]:
        """How many explained calls are "strong" and "weak" evidence, by the share of lengths that pass."""
        if isinstance(self.calls, ReadBackCalls):
            return self.calls.strengths
        explained = (call for call in self.calls if call.verdict is Verdict.EXPLAINED)
        return Counter(strength(call.share) for call in explained if call.share is not None)

    @property
    def failures(self) -> tuple[CheckedCall, ...]:
        return self.having(FAILED)

    def having(self, verdicts: frozenset[Verdict]) -> tuple[CheckedCall, ...]:
        """The calls with one of these verdicts."""
        if isinstance(self.calls, ReadBackCalls):
            return tuple(self.calls.having(verdicts))
        return tuple(call for call in self.calls if call.verdict in verdicts)

    @property
    def exit_code(self) -> int:
        if self.failures:
            return EXIT_CHECK_FAILED
        return EXIT_CANNOT_TELL if self.cannot_tell else EXIT_OK


_NODE_MODE = "capture with --cuda-graph-trace=node"


def check_recorded(
    records: Sequence[CallRecord],
    observed: ObservedCalls,
    target: Target,
    *,
    has_kernels: bool,
    complete: bool,
    whole_graphs: bool = False,
    keys_of_step: Mapping[int, int] | None = None,
    unseen_from: int | None = None,
    surely: range = range(0),
) -> tuple[CheckedCall, ...]:
    """A verdict per recorded call, and one per observed call that no record accounts for.

    ``complete`` says that every attention call of the program was recorded: then a kernel outside the records
    is a finding, and so is a record without kernel. A profiler's operators begin and end mid-way: one of
    these has kernels of its own where it lies between two that have, or where others ran inside it. A call
    captured into a CUDA graph runs as its replays; of ``whole_graphs`` not even these are in the trace.
    Of the calls from ``unseen_from`` on no kernel was recorded, whatever ran; while the calls ``surely`` were
    made, kernels were recorded.
    """
    captures = whole_graphs or bool(observed.replayed.any())
    eager = np.flatnonzero((observed.seq >= 0) & ~observed.replayed).tolist()
    by_seq: dict[int, list[int]] = {}
    for index in eager:
        by_seq.setdefault(int(observed.seq[index]), []).append(index)
    first, last = min(by_seq, default=None), max(by_seq, default=-1)
    checked, predicted = [], {}
    for record in records:
        mine = by_seq.pop(record.seq, [])
        index, own = (mine[0], mine[:1]) if mine else (None, [])
        call, prediction = None, None
        answer = target.predict(record)
        if isinstance(answer, NotModelled):
            verdict, detail = Verdict.NOT_MODELLED, answer.why
        else:
            call, prediction = answer
            predicted[record.seq] = prediction
            own = mine if _several_calls(prediction) else own
            inside = complete or (first is not None and first < record.seq < last) or record.seq in surely
            inside = inside or record.seq in observed.strangers  # the GPU was recorded while it was made
            if not has_kernels or not record.on_cuda or (index is None and not inside):
                verdict, detail = Verdict.NOT_OBSERVED, prediction.error or ""
            elif index is None and captures and prediction.launches:
                verdict, detail = Verdict.NOT_OBSERVED, "captured into a CUDA graph, if it is not missing"
            else:
                verdict, detail = compare(prediction, _shape(observed, own) if own else None)
                more = _beside(observed, record.seq, mine[len(own) :])
                if more and verdict is Verdict.MISSING:
                    verdict, detail = more[0], f"{detail}; {more[1]}"
                elif more and not verdict.failed:
                    verdict, detail = more
                # The call before may have been cut in two: its first kernel was recorded, its second not.
                if unseen_from is not None and record.seq >= unseen_from - 1 and verdict in FAILED:
                    verdict, detail = Verdict.NOT_OBSERVED, "the profiler had stopped recording the GPU"
        base = CheckedCall(
            verdict, detail, record.seq, record.step, record.phase, record.layer,
            call=call, predicted=prediction, process=record.process,
        )  # fmt: skip
        checked.append(replace(base, **_seen(observed, own)) if own else base)
    unknown = np.flatnonzero((observed.seq < 0) & ~observed.replayed).tolist()
    left = [
        *unknown,
        *(index for indices in by_seq.values() for index in indices),
        *np.flatnonzero(observed.replayed).tolist(),
    ]
    if not left:
        return tuple(checked)
    facts = {shape.device: _facts(target.gpu) for shape in observed.shapes}
    unrecorded = check_unrecorded(observed, facts, keys_of_step, predicted)
    if complete:
        for number, shape in enumerate(observed.shapes):
            rows = np.flatnonzero((observed.shape == number) & ~observed.replayed)
            why = f"{shape.main.kernel} ran outside every recorded call"
            unrecorded.read_otherwise(rows, Reading(Verdict.UNEXPECTED, why))
    return (*checked, *(unrecorded[index] for index in left))


def _several_calls(prediction: Prediction) -> bool:
    """Whether one recorded call launches what a trace shows as several: prompts, then those that decode."""
    mains = [one.kernel for one in prediction.launches if parse_kernel_name(one.kernel).role == "main"]
    return len(set(mains)) > 1


def _beside(observed: ObservedCalls, seq: int, again: Sequence[int]) -> tuple[Verdict, str] | None:
    """The verdict on a call that launched what was predicted and more; None where it launched no more."""
    more = [observed.shapes[observed.shape[index]].main.kernel for index in again]
    if more:
        return Verdict.WRONG_KERNEL, f"ran {' and '.join(more)} beside the predicted kernels"
    strangers = observed.strangers.get(seq)
    if strangers:
        return Verdict.WRONG_KERNEL, f"{' and '.join(strangers)} ran inside the call, which no rule launches"
    return None


def _shape(observed: ObservedCalls, rows: Sequence[int]) -> ObservedShape:
    return joined([observed.shapes[observed.shape[row]] for row in rows])


def _seen(observed: ObservedCalls, rows: Sequence[int]) -> dict[str, Any]:
    """What was observed of a call, as fields of CheckedCall."""
    return {
        "observed": _shape(observed, rows),
        "duration_ns": sum(int(observed.duration[row]) for row in rows),
        "num_kernels": sum(int(observed.num_kernels[row]) for row in rows),
    }


def _facts(gpu: Gpu) -> GpuFacts:
    return GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor), gpu.vendor)


def _stated(device: Device) -> GpuFacts:
    """What a trace states of a GPU."""
    sm = None if device.sm_major is None else (device.sm_major, device.sm_minor or 0)
    return GpuFacts(device.num_sms or None, sm, make_gpu(device.name or "", *(sm or (9, 0)), 1).vendor)


def check(
    recording: Recording,
    *,
    gpu: Gpu | None = None,
    library: Library | None = None,
    version: str | None = None,
) -> CheckResult:
    """All verdicts: against the call records where there are any, else read back from the launches."""
    info = recording.trace.info
    has_kernels = recording.trace.num_kernels > 0
    whole = (
        f"{info.whole_graph_launches} CUDA graph launches were recorded whole: "
        "the attention kernels inside them, if any, are not in the trace"
    )
    if recording.records:
        target = choose_target(recording, gpu=gpu, library=library, version=version)
        unseen_from = first_unrecorded(recording.timeline, recording.observed)
        recorded = check_recorded(
            recording.records,
            recording.observed,
            target,
            has_kernels=has_kernels,
            complete=recording.records_complete,
            whole_graphs=info.whole_graph_launches > 0,
            keys_of_step=recording.keys_of_step,
            unseen_from=unseen_from,
            surely=operators_between_launches(recording.timeline),
        )
        why, hint = "", ""
        if info.whole_graph_launches:
            why, hint = whole, _NODE_MODE
        elif unseen_from is not None:
            why = f"the profiler's buffer was full: it recorded no kernel from call {unseen_from} on"
            hint = "record fewer tokens or layers at a time, or with nsys"
        elif not has_kernels:
            why = "no GPU kernel was observed: every dispatch shown is a prediction"
            hint = "run it on a machine with an NVIDIA GPU to see what really ran"
        elif not any(call.observed for call in recorded):
            why = "no kernel of a recorded call was observed: every dispatch shown is a prediction"
            hint = "attnprof report lists the kernels that ran"
        unseen = why if info.whole_graph_launches or unseen_from is not None else ""
        if not why:
            why, hint = Coverage(Counter(call.verdict for call in recorded)).nothing_compared()
        library, version = target.most(recording.records)
        doubt = recording.disbelief
        return CheckResult(
            recorded, library, version, target.gpu, has_kernels, why, hint, disbelief=doubt, unseen=unseen
        )
    target_gpu = gpu or recording.gpu
    if gpu is not None:
        facts = {shape.device: _facts(gpu) for shape in recording.observed.shapes}
    else:
        named = {shape.device: info.device(shape.device) for shape in recording.observed.shapes}
        facts = {index: _stated(device) for index, device in named.items() if device is not None}
    calls = check_unrecorded(recording.observed, facts, recording.keys_of_step)
    why, hint, unseen = "", "", ""
    if info.whole_graph_launches:
        why, hint, unseen = whole, _NODE_MODE, whole
    elif not has_kernels:
        why = "the trace holds no GPU kernels"
        hint = "capture with --trace=cuda,nvtx on a machine with an NVIDIA GPU"
    elif calls and set(calls.counts) == {Verdict.NOT_MODELLED}:
        every = "the one attention call" if len(calls) == 1 else f"all {len(calls)} attention calls"
        why = f"{every} ran kernels whose launches attnprof does not model"
        hint = "attnprof report names the kernels and says why"
    elif not calls:
        count = len(recording.trace.kernels)
        none = f"none of the {count} kernels in the trace is an attention kernel attnprof knows"
        why = "the one kernel in the trace is no attention kernel attnprof knows" if count == 1 else none
        hint = "attnprof report lists the kernels there are"
    if not why:
        why, hint = Coverage(calls.counts).nothing_compared()
    other = has_kernels and not calls and not info.whole_graph_launches
    return CheckResult(calls, None, None, target_gpu, has_kernels, why, hint, other, unseen=unseen)


__all__ = ["CheckResult", "CheckedCall", "Verdict", "check", "check_recorded", "compare"]
