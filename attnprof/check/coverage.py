"""How much of a run was compared at all: what stands before every verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from attnprof.check.verdicts import Verdict

_NOT_COMPARED = {  # why, in the order in which it is said
    Verdict.EXPLAINED: "arguments not recorded",
    Verdict.NOT_RECORDED: "arguments not recorded",
    Verdict.NOT_MODELLED: "not modelled",
    Verdict.NOT_READ: "not read",
    Verdict.NOT_OBSERVED: "not observed",
}
_RECORD = "record the arguments: attnprof run, or torch.profiler with record_shapes=True"
_HINTS = {
    Verdict.EXPLAINED: _RECORD,
    Verdict.NOT_RECORDED: _RECORD,
    Verdict.NOT_MODELLED: "attnprof report names the kernels and says why",
    Verdict.NOT_READ: "capture whole kernel names, grids and blocks, or record the arguments: attnprof run",
    Verdict.NOT_OBSERVED: "run it on a machine with an NVIDIA GPU to see what really ran",
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many attention calls got each verdict; those with an outcome were compared.

    A call is compared where its own arguments, or what no call can launch, decided: its verdict is a match or
    a contradiction. One that is explained was not: other calls would have passed as well.
    """

    counts: Mapping[Verdict, int]

    @property
    def calls(self) -> int:
        return sum(self.counts.values())

    @property
    def compared(self) -> int:
        return sum(number for verdict, number in self.counts.items() if verdict not in _NOT_COMPARED)

    @property
    def percent(self) -> float:
        """Compared calls per hundred; 0 where there is no call."""
        return 100 * self.compared / self.calls if self.calls else 0.0

    @property
    def sentence(self) -> str:
        """As ``compared 24 of 34 calls: 24 match; 10 not compared: arguments not recorded``."""
        outcomes = [(v, n) for v, n in self.counts.items() if n and v not in _NOT_COMPARED]
        outcomes.sort(key=lambda item: (not item[0].failed, -item[1]))
        said = f"compared {self.compared:,} of {self.calls:,} calls"
        if outcomes:
            said += ": " + ", ".join(f"{number:,} {verdict.value}" for verdict, number in outcomes)
        left = self.calls - self.compared
        return f"{said}; {left:,} not compared: {self._reasons()}" if left else said

    def nothing_compared(self) -> tuple[str, str]:
        """Why no call was compared, and what to do; empty where one was, or there is none."""
        if self.compared or not self.calls:
            return "", ""
        most = max(_NOT_COMPARED, key=lambda verdict: self.counts.get(verdict, 0))
        return f"nothing was compared: {self._reasons()}", _HINTS[most]

    def _reasons(self) -> str:
        reasons: Counter[str] = Counter()
        for verdict, why in _NOT_COMPARED.items():
            reasons[why] += self.counts.get(verdict, 0)
        given = [(why, number) for why, number in reasons.items() if number]
        if len(given) == 1:
            return given[0][0]
        return ", ".join(f"{number:,} {why}" for why, number in given)
