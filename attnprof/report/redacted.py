"""A recording without anything shaped like a secret, to be drawn or handed on.

Of a trace only names of kernels and ranges are text; these and the run's configuration are redacted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from attnprof.check.observed_calls import observe
from attnprof.check.recording import Recording
from attnprof.safety.redact import redact, redact_all, redact_command


def redacted(recording: Recording) -> Recording:
    """The recording, its trace and configuration too, with every text that could carry a secret redacted."""
    timeline, info = recording.timeline, recording.trace.info
    info = replace(
        info,
        path=redact(Path(info.path).name),
        nvtx_domains=_texts(info.nvtx_domains),
        notes=_texts(info.notes),
    )
    trace = replace(recording.trace, strings=[redact(text) for text in recording.trace.strings], info=info)
    shared = replace(timeline, trace=trace, notes=_texts(timeline.notes))
    return replace(
        recording,
        name=redact(recording.name),
        timeline=shared,
        observed=observe(shared),
        config=_redact_config(recording.config),
    )


def _texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(redact(text) for text in texts)


def _redact_config(value: Any, key: str = "") -> Any:
    """The configuration; command lines show no value of an environment variable, paths no folder."""
    if isinstance(value, dict):
        return {name: _redact_config(item, name) for name, item in value.items()}
    if key == "command" and isinstance(value, list):
        return redact_command([str(part) for part in value])
    if key == "path" and isinstance(value, str):
        value = Path(value).name
    return redact_all(value)
