"""A step of an engine's scheduler: the requests that one packed forward holds, each with its own lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnprof.instrument.recorder import Recorder


@dataclass(frozen=True)
class Request:
    """One request in one step: ``number`` counts them from 0 as they come; lengths are in tokens.

    ``seqlen_q`` are the tokens it was given now, ``seqlen_k`` those it has then. ``prefill``: its prompt was
    not through when the step began.
    """

    number: int | None
    seqlen_q: int
    seqlen_k: int
    prefill: bool


def begin_step(
    recorder: Recorder, requests: Mapping[str, Request], model: int, *, draft: bool = False
) -> tuple[Any, ...]:
    """Opens the step of these requests, by the engine's own names; as ``Recorder.begin_step``."""
    prefills = sum(request.prefill for request in requests.values())
    phase = "decode" if not prefills else "prefill" if prefills == len(requests) else "mixed"
    phase = "draft" if draft else phase
    facts = _facts(list(requests.values()))
    outer = recorder.begin_step(
        phase,
        max(facts["seqlens_q"]),
        max(facts["seqlens_k"]),
        len(requests),
        {"model": model, **facts, "prefills": prefills},
    )
    recorder.requests = requests
    return outer


def reorder(recorder: Recorder, names: Sequence[str] | None) -> None:
    """The requests of the open step lie in the batch in this order."""
    requests = recorder.requests
    if names is None or not requests or not recorder.open_step:
        return
    if list(names) != list(requests) and set(names) == set(requests):
        recorder.amend_step(**_facts([requests[name] for name in names]))


def _facts(requests: Sequence[Request]) -> dict[str, Any]:
    numbers = [request.number for request in requests]
    return {
        "seqlens_q": [request.seqlen_q for request in requests],
        "seqlens_k": [request.seqlen_k for request in requests],
        **({"requests": numbers} if None not in numbers else {}),
    }
