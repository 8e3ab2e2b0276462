"""The options of ``attnprof run --engine``, as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ENGINE_ALONE = frozenset({"requests", "concurrency", "engine_python"})
_TAKEN = ENGINE_ALONE | {"model", "max_new_tokens", "prompt_tokens", "layers", "seed"}


def engine_workload(engine: str, kind: str | None, given: dict[str, Any]) -> tuple[Any, tuple[str, ...], str]:
    """(the program that serves, notes, the stem of the run's name). Raises UsageError."""
    from attnprof.errors import UsageError
    from attnprof.workloads.engine_options import EngineOptions, parse_lengths
    from attnprof.workloads.presets import find_preset, preset_name
    from attnprof.workloads.spec import Program

    foreign = ["workload"] if kind is not None else [name for name in given if name not in _TAKEN]
    if foreign:
        flag = foreign[0].replace("_", "-")
        raise UsageError(f"--{flag} means nothing to --engine {engine}", hint="leave it out")
    fields = {"python" if name == "engine_python" else name: value for name, value in given.items()}
    if "prompt_tokens" in fields:
        fields["prompt_tokens"] = parse_lengths(fields["prompt_tokens"])
    options = EngineOptions(engine, **fields)
    options.require()
    python, arguments = options.program()
    asked = {
        "requests": options.requests,
        "max_new_tokens": options.max_new_tokens,
        "seed": options.seed,
        "concurrency": options.concurrency or options.requests,
    }
    stem = preset_name(options.model) if find_preset(options.model) else Path(options.model).name
    return Program("other", python, arguments, kind=engine, asked=asked), (), f"{engine}-{stem}"


def whole_number(given: dict[str, Any], name: str) -> dict[str, Any]:
    """The same with ``name`` as an integer, where it is given. Raises UsageError where it is none."""
    from attnprof.errors import UsageError

    if name not in given:
        return given
    try:
        return {**given, name: int(given[name])}
    except ValueError:
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} {given[name]} is no whole number", hint=f"{flag} 512") from None
