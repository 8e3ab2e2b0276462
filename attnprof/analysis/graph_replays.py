"""What a CUDA graph froze at its capture, against what its replays hold: predicted, from a run's records.

A call that an engine captured says with how many splits; a step says which graph replays it, and each
request's lengths. Called anew at these lengths the library would choose for itself. vLLM sets aside room for
so many splits at capture, and its FlashAttention-3 takes no more in any replay: the cap. FlashInfer plans for
each step but keeps its grid, whose thread blocks beyond the plan's work items find nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attnprof.check.recording import Recording
from attnprof.check.target import choose_target
from attnprof.dispatch.libraries import library as library_of
from attnprof.dispatch.libraries import predict
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Library, Prediction


@dataclass(frozen=True, slots=True)
class GraphReplays:
    """The replays of the graph for so many ``tokens``, for one kind of its layers; pairs are fewest and most.

    ``requests`` and ``seqlen_k``, the longest request's, are of the ``steps`` that it replays. ``captured``
    splits it launches, where ``capped`` as room for at most so many; ``anew`` are those of a call made for
    such a step alone. ``work_items`` of ``padded`` in the grid, for each KV head, have work; None for a
    library that plans none.
    """

    tokens: int
    library: str
    steps: int
    requests: tuple[int, int]
    seqlen_k: tuple[int, int]
    captured: int | None
    capped: bool
    anew: tuple[int, int] | None
    padded: int | None = None
    work_items: tuple[int, int] | None = None


def graph_replays(run: Recording, gpu: Gpu | None = None) -> list[GraphReplays]:
    """By tokens, a row for each kind of layer; [] where no step replays a recorded capture."""
    steps = (run.config.get("workload") or {}).get("steps") or ()
    replayed: dict[int, list[Mapping[str, Any]]] = {}
    for step in steps if not run.disbelief else ():
        if step.get("graph") == "full" and step.get("graph_tokens") and step.get("seqlens_k"):
            replayed.setdefault(step["graph_tokens"], []).append(step)
    if not replayed:
        return []
    target = choose_target(run, gpu=gpu)
    found: dict[tuple[int, AttentionCall], GraphReplays] = {}
    for record in run.records:
        fields = record.fields
        tokens = int(fields["q"][0]) if fields.get("stage") == "capture" and fields.get("q") else 0
        answer = target.predict(record) if tokens in replayed else None
        if not isinstance(answer, tuple) or answer[1].error or (tokens, answer[0]) in found:
            continue
        row = _row(tokens, *answer, replayed[tokens], target.gpu, *target.of(record))
        if row is not None:
            found[tokens, answer[0]] = row
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def _row(
    tokens: int, call: AttentionCall, prediction: Prediction, steps: Sequence[Mapping[str, Any]],
    gpu: Gpu, library: Library, version: str,
) -> GraphReplays | None:  # fmt: skip
    capped = library_of(library).caps_splits and call.num_splits > 1
    padded = dict(prediction.plan).get("padded_batch_size") if call.cuda_graph else None
    anew, items = [], []
    for step in steps:
        lengths = tuple(step["seqlens_q"]), tuple(step["seqlens_k"])
        try:
            if padded is None:
                own = replace(_of(call, *lengths), num_splits=0 if capped else call.num_splits)
                anew.append(predict(own, gpu, version).num_splits)
            else:
                items.append(_work_items(call, *lengths, gpu, version))
        except (UsageError, ValueError):
            return None
    splits = [count for count in anew if count is not None]
    counted = [count for count in items if count is not None]
    return GraphReplays(
        tokens=tokens,
        library=library,
        steps=len(steps),
        requests=_span(len(step["seqlens_k"]) for step in steps),
        seqlen_k=_span(max(step["seqlens_k"]) for step in steps),
        captured=prediction.num_splits if padded is None else None,
        capped=capped,
        anew=_span(splits) if splits and len(splits) == len(anew) else None,
        padded=padded if isinstance(padded, int) else None,
        work_items=_span(counted) if counted and len(counted) == len(steps) else None,
    )


def _of(call: AttentionCall, seqlens_q: tuple[int, ...], seqlens_k: tuple[int, ...]) -> AttentionCall:
    return replace(
        call, batch=len(seqlens_q), seqlen_q=max(seqlens_q), seqlen_k=max(seqlens_k), total_q=sum(seqlens_q),
        seqlens_q=seqlens_q, seqlens_k=seqlens_k,
    )  # fmt: skip


def _work_items(
    call: AttentionCall, seqlens_q: tuple[int, ...], seqlens_k: tuple[int, ...], gpu: Gpu, version: str
) -> int | None:
    """Of the step's requests. The batch is as large as captured; its rest has no keys, and an item each."""
    rest = max(call.batch - len(seqlens_q), 0)
    planned = _of(call, seqlens_q + (1,) * rest, seqlens_k + (0,) * rest)
    found = dict(predict(planned, gpu, version).plan).get("num_work_items")
    return found - rest if isinstance(found, int) else None


def _span(values: Iterable[int]) -> tuple[int, int]:
    known = list(values)
    return min(known), max(known)
