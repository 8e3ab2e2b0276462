"""What an engine does with a layer and a step, from its choice to the library's launches."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from attnprof.dispatch.engines import ENGINES as ENGINES
from attnprof.dispatch.engines.layer import Further, Layer, Outcome, Step
from attnprof.dispatch.libraries import LIBRARIES, library, predict
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu


def engine(name: str) -> Any:
    """The engine called ``name``. Raises UsageError where it is not modelled."""
    if name not in ENGINES:
        raise UsageError(f"engine {name!r} is not modelled", hint=f"modelled: {', '.join(ENGINES)}")
    return import_module(ENGINES[name])


def outcome(name: str, version: str | None, layer: Layer, step: Step, gpu: Gpu) -> Outcome:
    """From the engine to the launches. Raises UsageError for what the engine does not know or has not."""
    asked = engine(name)
    rules = asked.version_of(version)
    known = version or asked.DEFAULT_VERSION
    choice = asked.choose(layer, gpu, rules)
    reached = asked.reach(choice, layer, step, gpu, rules)
    made = Outcome(name, known, gpu, layer, step, choice, reached.notes, not_predicted=reached.why_not)
    if reached.call is None:
        return made
    if reached.call.library not in LIBRARIES:
        why_not = f"the launches of {reached.call.library} are not modelled"
        return replace(made, not_predicted=why_not)
    library_version = reached.version or library(reached.call.library).default_version
    further = tuple(_further(call, gpu, library_version) for call in reached.more)
    reach = {"call": reached.call, "library_version": library_version, "more": further}
    try:
        prediction = predict(reached.call, gpu, library_version, explain=True)
    except UsageError as error:
        return replace(made, **reach, not_predicted=error.message)
    return replace(made, **reach, prediction=prediction)


def _further(call: AttentionCall, gpu: Gpu, version: str) -> Further:
    try:
        return Further(call, predict(call, gpu, version, explain=True))
    except UsageError as error:
        return Further(call, not_predicted=error.message)
