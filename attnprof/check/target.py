"""What recorded calls are predicted for: the GPU, the library and its version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.check.observed_calls import ObservedCalls
from attnprof.check.recording import Recording
from attnprof.dispatch.libraries import DEFAULT_LIBRARY, default_version, predict, versions_spelling
from attnprof.dispatch.versions import parse_version
from attnprof.errors import RunError, UsageError
from attnprof.gpus import DEFAULT_GPU, gpu_by_name
from attnprof.model import AttentionCall, Gpu, Library, Prediction


@lru_cache(maxsize=65536)
def _predict(call: AttentionCall, gpu: Gpu, version: str) -> Prediction:
    return predict(call, gpu, version)


@dataclass(frozen=True, slots=True)
class Target:
    """What recorded calls are predicted for.

    ``library`` and ``version`` are what somebody asked for. Where they are None, a call made on a GPU is
    predicted for its own library at the version in ``installed``, any other for flash_attn.
    """

    gpu: Gpu
    library: Library | None = None
    version: str | None = None
    installed: Mapping[str, str | None] = field(default_factory=dict)

    def of(self, record: CallRecord) -> tuple[Library, str]:
        """Library and version that the record's call is predicted for."""
        library = self.library or (record.library if record.on_cuda else DEFAULT_LIBRARY)
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
        libraries = Counter(self.library or (r.library if r.on_cuda else DEFAULT_LIBRARY) for r in records)
        library = libraries.most_common(1)[0][0]
        return library, self.version or self.installed.get(library) or default_version(library)


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
    installed = workload.get("versions") or _versions_by_names(recording.observed)
    return Target(chosen, library, version, installed)


def _recorded_gpu(known: dict[str, Any]) -> Gpu:
    try:
        return Gpu(**known)
    except (TypeError, ValueError) as error:
        raise RunError(f"run.json names a GPU that is none: {error}", hint="give --gpu NAME") from error


def _versions_by_names(observed: ObservedCalls) -> dict[str, str | None]:
    """For each library, the newest version that spells all its kernels as a trace without versions does."""
    possible: dict[str, set[str]] = {}
    for shape in observed.shapes:
        for library, versions in versions_spelling(shape.launches[0].kernel).items():
            possible[library] = possible.get(library, set(versions)) & set(versions)
    return {library: max(left, key=parse_version) for library, left in possible.items() if left}
