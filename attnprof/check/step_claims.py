"""Whether the recorded steps are to be believed: each is held against what attention itself was given.

A step says what phase it is, how many tokens came and how many keys there are. The attention calls inside it
were recorded on their own: their lengths and batch must be the step's, and a generation of N tokens must come
to one prefill and N - 1 decode steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnprof.calls.records import CallRecord

Step = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    """The lengths of one attention call: tokens, keys, and batch where the call has one to compare."""

    seqlen_q: int
    seqlen_k: int
    batch: int | None


def given_to(record: CallRecord) -> Given | None:
    """What a call was given; None where its record does not tell."""
    fields = record.fields
    q, k, entry = fields.get("q"), fields.get("k"), fields["entry"]
    if entry == "varlen_fwd":
        longest_q, longest_k = fields.get("max_seqlen_q"), fields.get("max_seqlen_k")
        return None if longest_q is None or longest_k is None else Given(longest_q, longest_k, None)
    if entry == "fwd_kvcache" or not q or not k or len(q) != 4 or -1 in (*q, *k):
        return None
    at = 2 if entry == "sdpa" else 1
    return Given(q[at], k[at], q[0])


def disbelief(
    steps: Sequence[Step], records: Iterable[CallRecord], workload: Mapping[str, Any] | None = None
) -> str | None:
    """Why phases or lengths of these steps could not be told, in words; None where nothing contradicts them.

    ``workload`` has the ``models`` that made steps, the ``generations`` they belong to, and the ``process``
    that they and their calls are of.
    """
    workload = workload or {}
    calls: dict[int, list[tuple[int | None, Given]]] = defaultdict(list)
    process = workload.get("process") or 0
    for record in records:
        mine = record.step is not None and (record.fields.get("process") or 0) == process
        if mine and (given := given_to(record)) is not None:
            calls[record.step or 0].append((record.layer, given))
    models = workload.get("models") or []
    windows = [model.get("window") for model in models] or [(workload.get("model") or {}).get("window")]
    before: dict[int, set[tuple[int | None, int]]] = {}
    for step in steps:
        of_model = int(step.get("model") or 0)
        window = windows[of_model] if 0 <= of_model < len(windows) else None
        window = window if type(window) is int else None
        why = _unlike(step, calls.get(step.get("step", -1), ()), window, before.get(of_model, set()))
        if why:
            return why
        before[of_model] = {(layer, given.seqlen_k) for layer, given in calls.get(step.get("step", -1), ())}
    generations = workload.get("generations")
    if generations is None:
        generations = _built_in(steps, workload)
    return next((why for one in generations if (why := _miscounted(one, steps))), None)


def _unlike(
    step: Step,
    calls: Sequence[tuple[int | None, Given]],
    window: int | None,
    before: set[tuple[int | None, int]],
) -> str | None:
    """How a step's own lengths differ from those of all attention calls of its layers."""
    seqlen_q, seqlen_k, batch = (step.get(name) for name in ("seqlen_q", "seqlen_k", "batch"))
    if seqlen_q is None or seqlen_k is None or step.get("seqlens_q") or step.get("phase") == "encode":
        return None
    inside = [call for call in calls if call[0] is not None] or list(calls)
    if not inside:
        return None
    where = f"step {step.get('step')} ({step.get('phase')})"
    if not any(given.seqlen_q == seqlen_q or _folded(given.seqlen_q, seqlen_q) for _, given in inside):
        return f"{where} says {seqlen_q} tokens, attention was given {inside[0][1].seqlen_q}"
    said = {seqlen_k, step.get("capacity")}
    fixed = step.get("cache") is not False  # a cache that attention is given whole has one length throughout
    for layer, given in inside:
        kept = window is not None and window - 1 <= given.seqlen_k < seqlen_k
        if given.seqlen_k in said or kept or (fixed and (layer, given.seqlen_k) in before):
            break
    else:
        known = "" if step.get("cache") is not False else ", and no cache was found"
        return f"{where} says {seqlen_k} keys, attention was given {inside[0][1].seqlen_k}{known}"
    batches = {given.batch for _, given in inside} - {None}
    if batch is not None and batches and batch not in batches:
        return f"{where} says a batch of {batch}, attention was given {min(b for b in batches if b)}"
    return None


def _folded(given: int, seqlen_q: int) -> bool:
    """Whether the query heads of a group were folded into the length: transformers does under a mask."""
    return given > seqlen_q and given % seqlen_q == 0


def _built_in(steps: Sequence[Step], workload: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The one generation of attnprof's own workload, in runs that do not name their generations."""
    new = workload.get("new_tokens")
    if workload.get("workload") != "generate" or not new or workload.get("status") not in (None, "complete"):
        return []
    prompt = workload.get("prompt_tokens")
    if prompt is None:
        return []
    whole = {"model": 0, "first_step": 0, "steps": len(steps), "batch": workload.get("batch")}
    return [{**whole, "prompt": prompt, "returned": prompt + new}]


def _miscounted(generation: Mapping[str, Any], steps: Sequence[Step]) -> str | None:
    """How the steps of one generate() differ from one prefill and a decode for each further token."""
    first, count = (int(generation.get(name) or 0) for name in ("first_step", "steps"))
    own = [step for step in steps[first : first + count] if _is_of(generation, step)]
    if first < 0 or not own:
        return None
    phases = [step.get("phase") for step in own]
    prefills = next((n for n, phase in enumerate(phases) if phase != "prefill"), len(phases))
    decodes = len(phases) - prefills
    shown = f"{prefills} prefill and {decodes} decode steps"
    new = _new_tokens(generation, own[:prefills])
    if "prefill" in phases[prefills:] or not prefills:
        return f"a generation came to prefill and decode steps in turn, from step {first} on"
    if new is None:
        return None
    without_cache = not any(step.get("cache", True) for step in own)
    if without_cache and decodes == 0:
        return None if prefills == new else f"{new} tokens without a cache came to {shown}"
    at_once = own[0].get("seqlen_q") or 0 if prefills == 1 else 0  # more than the prompt: with candidates
    several = at_once > (generation.get("prompt") or at_once)
    several = several or any(step.get("seqlen_q") != 1 for step in own[prefills:])
    beams = generation.get("batch") is not None and own[0].get("batch") != generation["batch"]
    fits = decodes <= new - 1 if several else decodes >= new - 1 if beams else decodes == new - 1
    return None if fits else f"a generation of {new} tokens came to {shown}"


def _is_of(generation: Mapping[str, Any], step: Step) -> bool:
    """Whether the step is of the model that generates, not of its encoder or its assistant."""
    own = step.get("model", 0) == generation.get("model", 0)
    return own and step.get("phase") not in ("encode", "draft")


def _new_tokens(generation: Mapping[str, Any], prefill: Sequence[Step]) -> int | None:
    """Tokens that a generate() made, where what it returned tells."""
    returned, prompt = generation.get("returned"), generation.get("prompt")
    if returned is None or generation.get("embedded"):
        return returned
    if prompt is None or generation.get("encodes_first"):
        prompt = prefill[0].get("seqlen_q") if prefill else None
    return None if prompt is None else returned - prompt
