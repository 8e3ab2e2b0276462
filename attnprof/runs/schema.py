"""The schema of a run folder, stated in run.json and as attnprof.db's user_version; the way from older ones.

1: attnprof.db states nothing (user_version 0).
2: attnprof.db states its schema and when it was made; run.json has no name, the folder has.
3: calls say which process made them, and how much an explained one proves; a run of several processes lists
   them.
4: calls hold each request's lengths, and the splits that requests get.
5: calls say which kind of layer made them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnprof.files.untrusted import read_json, require_shape

SCHEMA = 5
STEPS = ("steps", "steps_of_others")  # of workload.json: run.json goes without

Config = dict[str, Any]

_GPU = {
    "name": str, "sm_major": int, "sm_minor": int, "num_sms": int, "smem_per_sm": int,
    "smem_per_block_optin": int, "vendor": str,
}  # fmt: skip
PROCESS = {  # of the processes of a run that has several; its keys are the columns of every table of them
    "process": int, "label": str, "pid": int, "rank": int, "command": str, "python": str, "first_seq": int,
    "calls": int, "prefill": int, "decode": int,
}  # fmt: skip
_STEPS_SHAPE: list[Any] = [{
    "step": int, "phase": str, "batch": int, "seqlen_q": int, "seqlen_k": int, "model": int, "capacity": int,
    "cache": bool, "seqlens_q": [int], "seqlens_k": [int], "requests": [int], "prefills": int, "graph": str,
    "graph_tokens": int,
}]  # fmt: skip
_MODELS_SHAPE: dict[str, Any] = {
    "models": [{"*": (str, int, float)}],
    "generations": [{
        "model": int, "first_step": int, "steps": int, "batch": int, "prompt": int, "returned": int,
        "embedded": bool, "encodes_first": bool,
    }],
}  # fmt: skip
_OF_STEPS: dict[str, Any] = {  # of what is read of workload.json
    "steps": _STEPS_SHAPE,
    "steps_of_others": [{"process": int, "steps": _STEPS_SHAPE, **_MODELS_SHAPE}],
}
SHAPE = {  # of what is read of run.json
    "schema": int, "status": str, "kind": str, "created": str, "attnprof": str, "error": str,
    "command": [str],
    "source": {"path": str, "name": str, "bytes": (int, float)},
    "capture": {"recorder": str, "version": str, "notes": [str]},
    "workload": {
        "model": {"*": (str, int, float)},
        "versions": {"*": str},
        "gpu": _GPU,
        "steps": _STEPS_SHAPE,
        **_MODELS_SHAPE,
        "prompt_lengths": [int], "batch": int, "prompt_tokens": int, "max_new_tokens": int,
        "status": str, "error": str, "hint": str, "exit_code": int, "num_calls": int,
        "processes": [PROCESS],
        "workload": str, "attn_implementation": str, "device": str, "cache": str, "seed": (int, float),
    },
    "predict": {"gpu": _GPU, "library": str, "version": str},
}  # fmt: skip


def read_config(path: Path) -> Config:
    """A run.json of any schema, checked as far as it is read. Raises OSError and ValueError."""
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError("it holds no object")
    require_shape(config, SHAPE, "run.json")
    for key in ("schema", "status"):
        if config.get(key) is None:
            raise ValueError(f"it has no {key}")
    if config["schema"] < 1:
        raise ValueError(f"there is no schema {config['schema']}")
    return config


def read_steps(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The steps that a program's recorder wrote beside its calls, and those of its further processes.

    None where it wrote none, or not whole.
    """
    try:
        workload = read_json(folder / "workload.json")
        require_shape(workload, _OF_STEPS, "workload.json")
        others = [one for one in workload.get("steps_of_others") or () if one.get("process")]
        return workload.get("steps") or [], [{**one, "steps": one.get("steps") or []} for one in others]
    except (OSError, ValueError):
        return [], []


def _from_1(config: Config) -> Config:
    return {key: value for key, value in config.items() if key != "name"}


def _from_2(config: Config) -> Config:
    return config  # of one process, as a run without a list of them is


def _from_3(config: Config) -> Config:
    return config  # calls.jsonl held the lengths before


def _from_4(config: Config) -> Config:
    return config  # told of the calls


_STEPS: dict[int, Callable[[Config], Config]] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}


def upgraded(config: Config) -> Config:
    """A run.json of any schema up to this one's, as this attnprof writes it."""
    for schema in range(int(config["schema"]), SCHEMA):
        config = _STEPS[schema](config)
    return {**config, "schema": SCHEMA}
