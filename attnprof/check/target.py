"""What recorded calls are predicted for: the GPU, the library and its version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.check.compare import compare
from attnprof.check.observed_shape import ObservedShape
from attnprof.check.recording import Recording
from attnprof.check.verdicts import Verdict
from attnprof.dispatch.explanation import GpuFacts
from attnprof.dispatch.libraries import (
    DEFAULT_LIBRARY,
    LIBRARIES,
    default_version,
    explain,
    predict,
    predicted_for,
    versions_spelling,
)
from attnprof.dispatch.versions import Version, parse_version
from attnprof.errors import RunError, UsageError
from attnprof.gpus import DEFAULT_GPU, gpu_by_name
from attnprof.model import AttentionCall, Gpu, Library, Prediction

_PAIRS_WEIGHED = 64  # recorded calls with what they launched, to tell a version from


@lru_cache(maxsize=65536)
def _predict(call: AttentionCall, gpu: Gpu, version: str) -> Prediction:
    return predict(call, gpu, version)


@dataclass(frozen=True, slots=True)
class Target:
    """What recorded calls are predicted for.

    ``library`` and ``version`` are what somebody asked for. Where they are None, a call made on a GPU is
    predicted for its own library at the version in ``installed``, any other for flash_attn.
    ``heads`` are the model's (num_heads, num_heads_k, head_dim): of a call that scaled_dot_product_attention
    got with each K head repeated, as from transformers before 4.54, another library gets the model's own.
    """

    gpu: Gpu
    library: Library | None = None
    version: str | None = None
    installed: Mapping[str, str | None] = field(default_factory=dict)
    heads: tuple[int, int, int] | None = None

    def of(self, record: CallRecord) -> tuple[Library, str]:
        """Library and version that the record's call is predicted for."""
        library = self.library or predicted_for(record.library, on_gpu=record.on_cuda)
        return library, self.version or self.installed.get(library) or default_version(library)

    def predict(self, record: CallRecord) -> NotModelled | tuple[AttentionCall, Prediction]:
        """The call as the library takes it, and what it should launch.

        Raises UsageError where somebody asked for a version whose rules are not known.
        """
        try:
            library, version = self.of(record)
            call = attention_call(record, library)
            if isinstance(call, NotModelled):
                return call
            if self.heads is not None and repeats_heads(record, self.heads) and library != record.library:
                call = replace(call, num_heads_k=self.heads[1])
            predicted = _predict(call, self.gpu, version)
            # What the library refuses as predicted has raised, too.
            raised = None if predicted.error else record.fields.get("raised")
            return NotModelled(f"the call raised {raised}") if raised else (call, predicted)
        except UsageError as error:
            if self.library or self.version:
                raise
            return NotModelled(error.message)

    def most(self, records: Sequence[CallRecord]) -> tuple[Library, str]:
        """Library and version of most of the records."""
        libraries = Counter(self.library or predicted_for(r.library, on_gpu=r.on_cuda) for r in records)
        library = next((name for name, _ in libraries.most_common() if name in LIBRARIES), DEFAULT_LIBRARY)
        return library, self.version or self.installed.get(library) or default_version(library)


def repeats_heads(record: CallRecord, heads: tuple[int, int, int]) -> bool:
    """Whether torch's function was given every K head of a model with these as often as there are queries."""
    num_heads, num_heads_k, head_dim = heads
    fields = record.fields
    q: list[int] = fields.get("q") or []
    k: list[int] = fields.get("k") or []
    if fields["entry"] != "sdpa" or record.layer is None or len(q) != 4 or len(k) != 4:
        return False
    return num_heads_k < num_heads and (q[1], k[1], q[3]) == (num_heads, num_heads, head_dim)


def model_heads(workload: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(num_heads, num_heads_k, head_dim) of a run's one model; None where it has several."""
    model = workload.get("model") or {}
    heads = tuple(model.get(name) for name in ("num_heads", "num_heads_k", "head_dim"))
    if len(workload.get("models") or ()) > 1 or not all(type(number) is int and number for number in heads):
        return None
    return heads  # type: ignore[return-value]


def choose_target(
    recording: Recording,
    *,
    gpu: Gpu | None = None,
    library: Library | None = None,
    version: str | None = None,
) -> Target:
    """What to predict for: the arguments, else what the run was asked for, else what it ran on.

    Raises RunError where run.json names a GPU that is none.
    """
    wanted = recording.config.get("predict") or {}
    workload = recording.config.get("workload") or {}
    chosen = gpu or recording.gpu
    if chosen is None:
        known = workload.get("gpu") or wanted.get("gpu")
        chosen = _recorded_gpu(known) if known else gpu_by_name(DEFAULT_GPU)
    if library is None and version is None:
        library, version = wanted.get("library"), wanted.get("version")
    installed = workload.get("versions") or ({} if version else _versions_by_launches(recording, chosen))
    return Target(chosen, library, version, installed, model_heads(workload))


def _recorded_gpu(known: dict[str, Any]) -> Gpu:
    try:
        return Gpu(**known)
    except (TypeError, ValueError) as error:
        raise RunError(f"run.json names a GPU that is none: {error}", hint="give --gpu NAME") from error


def _versions_by_launches(recording: Recording, gpu: Gpu) -> dict[str, str | None]:
    """For each library, the newest version that launches most of the recorded calls as a trace shows them.

    A trace states no versions; most of its calls tell them, so that a call which does not go with the rest
    stays a finding.
    """
    observed, target = recording.observed, Target(gpu)
    shapes = dict(zip(observed.seq.tolist(), observed.shape.tolist(), strict=True))
    pairs: dict[Library, Counter[tuple[AttentionCall, int]]] = {}
    for record in recording.records:
        library = target.of(record)[0]
        call = attention_call(record, library) if record.seq in shapes and record.on_cuda else None
        if isinstance(call, AttentionCall):
            pairs.setdefault(library, Counter())[call, shapes[record.seq]] += 1
    found: dict[str, str | None] = {}
    for library, counted in pairs.items():
        most = counted.most_common(_PAIRS_WEIGHED)
        possible = _possible_versions(library, {observed.shapes[shape] for (_, shape), _ in most}, gpu)
        scores = {
            version: sum(
                count
                for (call, shape), count in most
                if compare(_predict(call, gpu, version), observed.shapes[shape])[0] is Verdict.MATCH
            )
            for version in possible
        }
        if scores:
            found[library] = max(scores, key=lambda version: (scores[version], _newness(version)))
    return found


def _newness(version: str) -> Version:
    try:
        return parse_version(version)
    except UsageError:  # a build that is no release
        return ()


def _possible_versions(library: str, shapes: set[ObservedShape], gpu: Gpu) -> list[str]:
    """The versions that may have launched some of these, one for each set of rules."""
    facts = GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor))
    possible: dict[str, None] = {}
    for shape in shapes:
        spelling = versions_spelling(shape.launches[0].kernel).get(library, ())
        told = None if spelling else explain(replace(shape.observed, before=None), facts, shape.main.library)
        builds = told.builds if told else ()
        possible |= dict.fromkeys(spelling or (since for name, (since, _) in builds if name == library))
    return list(possible)
