"""What a user expects of a run, beyond what the library's rules say: for gates in CI."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnprof.check.check_run import CheckResult
from attnprof.check.coverage import Coverage
from attnprof.check.verdicts import FAILED, CheckedCall, Verdict
from attnprof.errors import EXIT_CANNOT_TELL, EXIT_CHECK_FAILED, EXIT_OK, UsageError
from attnprof.model import STEP_PHASES
from attnprof.nouns import count_of

BACKENDS: dict[str, tuple[str, ...]] = {
    "flash": ("fwd", "fwd_splitkv"),
    "nosplit": ("fwd",),
    "splitkv": ("fwd_splitkv",),
    "flash3": ("fa3_fwd", "fa3_fwd_sm80", "fa3_fwd_early"),
    "efficient": ("mem_efficient_fwd",),
    "cudnn": ("cudnn_fwd",),
}
MISMATCH = "mismatch"
_UNREAD_HINT = "record the arguments: attnprof run, or torch.profiler with record_shapes=True"


@dataclass(frozen=True, slots=True)
class Expectation:
    """``backend`` is a key of BACKENDS; ``num_splits`` the one split count allowed; ``phase`` limits both.

    ``fail_on`` are the verdicts that fail a run, "mismatch" standing for every contradiction.
    ``min_compared`` is how many of a hundred calls must have been compared.
    """

    backend: str | None = None
    num_splits: int | None = None
    phase: str | None = None
    fail_on: frozenset[Verdict] | None = None
    min_compared: float | None = None

    def __post_init__(self) -> None:
        if self.backend is not None and self.backend not in BACKENDS:
            raise UsageError(f"--expect {self.backend} is none of {', '.join(BACKENDS)}")
        if self.phase is not None and self.phase not in STEP_PHASES:
            raise UsageError(f"--phase {self.phase} is none of {', '.join(STEP_PHASES)}")
        if self.min_compared is not None and not 0 <= self.min_compared <= 100:
            raise UsageError(f"--min-compared {self.min_compared:g} is no percentage from 0 to 100")

    @property
    def asks(self) -> bool:
        """Whether anything is expected of the kernels."""
        return self.backend is not None or self.num_splits is not None


def parse_fail_on(text: str) -> frozenset[Verdict]:
    """Verdicts from a comma-separated list; spaces in their names may be dashes. Raises UsageError."""
    named: set[Verdict] = set()
    for word in (part.strip().replace("-", " ") for part in text.split(",")):
        if word == MISMATCH:
            named |= {verdict for verdict in Verdict if verdict.failed}
        elif word in {verdict.value for verdict in Verdict}:
            named.add(Verdict(word))
        elif word != "none":
            known = ", ".join(verdict.value.replace(" ", "-") for verdict in Verdict)
            raise UsageError(f"--fail-on {word!r} is no verdict", hint=f"{MISMATCH}, none, or any of {known}")
    return frozenset(named)


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a run fails: a label, the call it is about (None for the run as a whole), and what is wrong.

    What one sentence says of many calls is one finding about the first of ``calls``.
    """

    label: str
    call: CheckedCall | None
    detail: str
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Judgement:
    """A check measured against what was expected of it.

    ``coverage`` is of the calls that were judged; ``as_expected`` of how many something was asked, and is so.
    """

    findings: tuple[Finding, ...]
    coverage: Coverage
    cannot_tell: str
    hint: str
    as_expected: int = 0

    @property
    def calls(self) -> int:
        """How many calls were judged."""
        return self.coverage.calls

    @property
    def exit_code(self) -> int:
        if self.findings:
            return EXIT_CHECK_FAILED
        return EXIT_CANNOT_TELL if self.cannot_tell else EXIT_OK


def judge(result: CheckResult, expectation: Expectation) -> Judgement:
    """The verdicts that fail the run, and every call that is not as expected."""
    failing = FAILED if expectation.fail_on is None else expectation.fail_on
    found = [call for call in result.having(failing) if expectation.phase in (None, call.phase)]
    findings = [Finding(call.verdict.value, call, call.detail) for call in found if not _shared(call)]
    findings += [Finding(group[0].verdict.value, group[0], why, len(group)) for why, group in _alike(found)]
    coverage = result.coverage_in(expectation.phase)
    cannot_tell, hint = result.cannot_tell, result.hint
    if expectation.phase is not None and result.calls and not coverage.calls:
        cannot_tell = result.disbelief or f"there is no attention call in {expectation.phase}"
        hint = "attnprof report shows the phases there are"
    elif not cannot_tell and expectation.phase is not None:
        cannot_tell, hint = coverage.nothing_compared()
    least = expectation.min_compared
    if least is not None and coverage.compared and coverage.percent < least:
        findings.append(Finding("coverage", None, f"{coverage.percent:.3g} % were compared, not {least:g} %"))
    seen, unread = 0, ""
    if expectation.asks:
        for call in result.calls:
            if expectation.phase in (None, call.phase) and call.observed is not None:
                seen += 1
                unread = unread or _unread(call, expectation)
                if why := _unlike(call, expectation):
                    findings.append(Finding("expected", call, why))
        if seen and unread:
            cannot_tell, hint = unread, _UNREAD_HINT
        elif seen and not result.unseen:
            cannot_tell, hint = "", ""  # what ran is known
        elif result.only_other_kernels:
            findings.append(
                Finding("expected", None, f"{result.cannot_tell}: attention may have run as plain GEMMs")
            )
    as_expected = 0 if unread else seen
    return Judgement(tuple(findings), coverage, cannot_tell, hint, as_expected)


def _unread(call: CheckedCall, expectation: Expectation) -> str:
    """Why what was expected of a call's splits cannot be told; "" where it can, or nothing was."""
    if expectation.num_splits is None or call.num_splits is not None:
        return ""
    assert call.observed is not None
    return f"the launch of {call.observed.main.kernel} does not show how many splits it ran"


def _shared(call: CheckedCall) -> bool:
    """Whether the call's detail is about the whole run of calls it belongs to."""
    return call.verdict is Verdict.FROZEN


def _alike(calls: Iterable[CheckedCall]) -> list[tuple[str, list[CheckedCall]]]:
    """The calls that share a detail, by detail."""
    groups: dict[str, list[CheckedCall]] = {}
    for call in filter(_shared, calls):
        groups.setdefault(call.detail, []).append(call)
    return list(groups.items())


def _unlike(call: CheckedCall, expectation: Expectation) -> str:
    """How an observed call is not as expected; empty where it is."""
    assert call.observed is not None
    main = call.observed.main
    if expectation.backend is not None and main.family not in BACKENDS[expectation.backend]:
        return f"ran {main.kernel} ({main.library}), not {expectation.backend}"
    if expectation.num_splits is not None and call.num_splits not in (None, expectation.num_splits):
        return f"ran {count_of(call.num_splits, 'split')}, not {expectation.num_splits}"
    return ""
