"""What a run holds for those who judge it and show it: plain values, no folder, nothing that is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnprof.calls.records import CallRecord
    from attnprof.check.observed_calls import ObservedCalls
    from attnprof.model import Gpu
    from attnprof.trace.tables import Trace
    from attnprof.trace.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded run or a trace.

    ``argument`` is what a command takes for it: the run's name, the trace's path.  ``ending``: how it ended,
    in words.  ``is_run``: it is a run folder, not a trace.  ``config``: run.json.
    ``records_complete``: every attention call of the program is in ``records``.
    ``keys_of_step``: the KV length of each step, as the workload counted it.
    ``gpu``: the GPU the kernels ran on, ``sms_of_devices`` the SMs of each, as far as the trace says.
    ``disbelief``: why phases and lengths of its steps could not be told; none of them is shown then.
    """

    name: str
    argument: str
    ending: str
    is_run: bool
    timeline: Timeline
    observed: ObservedCalls
    records: Sequence[CallRecord] = ()
    records_complete: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    keys_of_step: Mapping[int, int] = field(default_factory=dict)
    gpu: Gpu | None = None
    sms_of_devices: Mapping[int, int] = field(default_factory=dict)
    disbelief: str | None = None

    @property
    def trace(self) -> Trace:
        return self.timeline.trace
