"""The schema of a run folder, stated in run.json and as attnprof.db's user_version; the way from older ones.

1: attnprof.db states nothing (user_version 0).
2: attnprof.db states its schema and when it was made; run.json has no name, the folder has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SCHEMA = 2

Config = dict[str, Any]


def _from_1(config: Config) -> Config:
    return {key: value for key, value in config.items() if key != "name"}


_STEPS: dict[int, Callable[[Config], Config]] = {1: _from_1}


def upgraded(config: Config) -> Config:
    """A run.json of any schema up to this one's, as this attnprof writes it."""
    for schema in range(int(config["schema"]), SCHEMA):
        config = _STEPS[schema](config)
    return {**config, "schema": SCHEMA}
