"""An engine's answer explained, and swept: backend, call, split count, and where each changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from attnprof.analysis.explain import Explanation, explain
from attnprof.analysis.sum_order import launched
from attnprof.dispatch.engines.layer import Layer, Outcome, Step
from attnprof.dispatch.engines.outcome import outcome
from attnprof.errors import UsageError
from attnprof.model import Gpu

_MOST_POINTS = 300_000
_KEYS_PER_BLOCK = 16  # no tile, page or chunk of a paged batch is narrower, but where pages are


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """An engine's outcome, and the explanation of its call where its launches are predicted.

    ``more``: of its further calls of the step, None where a call's launches are not predicted.
    """

    outcome: Outcome
    explanation: Explanation | None
    more: tuple[Explanation | None, ...] = ()


def explain_engine(name: str, version: str | None, layer: Layer, step: Step, gpu: Gpu) -> EngineAnswer:
    """From the engine to the grid. Raises UsageError for what the engine does not know."""
    found = outcome(name, version, layer, step, gpu)
    known = found.library_version
    if found.call is None or known is None:
        return EngineAnswer(found, None)
    first = None if found.prediction is None else explain(found.call, gpu, known)
    more = tuple(None if each.prediction is None else explain(each.call, gpu, known) for each in found.more)
    return EngineAnswer(found, first, more)


@dataclass(frozen=True, slots=True)
class EngineQuestion:
    """What is asked at every value of a sweep; the swept field of ``step`` means nothing."""

    name: str
    version: str | None
    layer: Layer
    step: Step
    gpu: Gpu


@dataclass(frozen=True, slots=True)
class EngineStretch:
    """Neighbouring values, both ends included, with one backend, kernel and split count.

    ``num_splits`` is None and ``why_not`` a sentence where launches are not predicted.
    """

    question: EngineQuestion
    low: int
    high: int
    backend: str | None
    runs: str
    num_splits: int | None
    why_not: str


def sweep_engine(
    questions: Sequence[EngineQuestion], along: str, values: Sequence[int]
) -> Iterator[EngineStretch]:
    """The stretches of every question along ``seqlen_k``, ``batch`` or ``seqlen_q``; values ascend.

    Raises UsageError for a sweep that would take minutes.
    """
    points = len(questions) * len(values)
    if points > _MOST_POINTS:
        raise UsageError(
            f"{points:,} answers of an engine would take minutes",
            hint=f"widen the steps until at most {_MOST_POINTS:,} are left, e.g. --seqlen-k 1:8192:64",
        )
    for question in questions:
        found = [(value, _answer(question, along, value)) for value in _deciding(question, along, values)]
        ends = [*(value for value, _ in found[1:]), values[-1] + 1]
        spans = [(low, _last_before(values, end), told) for (low, told), end in zip(found, ends, strict=True)]
        for told, same in groupby(spans, key=lambda span: span[2]):
            run = list(same)
            yield EngineStretch(question, run[0][0], run[-1][1], *told)


def _deciding(question: EngineQuestion, along: str, values: Sequence[int]) -> list[int]:
    """The values at which something can change: of keys, those that begin a block, or fill one."""
    width = 1
    if along == "seqlen_k":
        made = outcome(
            question.name, question.version, question.layer, _at(question, along, values[0]), question.gpu
        )
        page = made.call.page_block_size if made.call else None
        width = _KEYS_PER_BLOCK if page is None or page % _KEYS_PER_BLOCK == 0 else 1
    found, last = [], None
    for value in values:
        blocks = (value + width - 1) // width, value // width
        if blocks != last:
            found.append(value)
        last = blocks
    return found


def _last_before(values: Sequence[int], end: int) -> int:
    from bisect import bisect_left

    return values[bisect_left(values, end) - 1]


def _at(question: EngineQuestion, along: str, value: int) -> Step:
    swept: dict[str, Any] = {along: value}
    return replace(question.step, **swept)


Told = tuple[str | None, str, int | None, str]


def _answer(question: EngineQuestion, along: str, value: int) -> Told:
    """(backend, what runs, split count, why it is not predicted) at one value."""
    step = _at(question, along, value)
    made = outcome(question.name, question.version, question.layer, step, question.gpu)
    if made.prediction is None:
        return made.choice.backend, kernel_in_words(made), None, made.not_predicted
    if made.prediction.error is not None:
        return made.choice.backend, "", None, made.prediction.error
    predicted = [made.prediction, *(each.prediction for each in made.more if each.prediction is not None)]
    launches = tuple(launch for each in predicted for launch in each.launches)
    method = next((f"{note.value}, " for note in made.notes if note.rule == "forward method"), "")
    return made.choice.backend, f"{method}{launched(launches)}", made.num_splits, ""


def kernel_in_words(made: Outcome) -> str:
    """What runs of a backend whose launches are not predicted, as far as the engine decides it."""
    told = {note.rule: note.value for note in made.notes}
    if "FlashAttention" in told and told["FlashAttention"] != "none":
        return f"FlashAttention {told['FlashAttention']}"
    return next((value for rule, value in told.items() if rule.endswith(" kernel")), "")
