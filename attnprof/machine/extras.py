"""Packages that only recording needs, and the line that installs them."""

from __future__ import annotations

import importlib.util
import shlex
from importlib import metadata

from attnprof.errors import UsageError

RUN = "run"  # the extra in pyproject.toml


def install_line(extra: str = RUN) -> str:
    """What to type for the packages of one extra, with the versions that attnprof's own metadata asks for."""
    try:
        required = metadata.requires("attnprof") or []
    except metadata.PackageNotFoundError:  # a source tree that nobody installed
        required = []
    wanted = [
        specifier.strip()
        for specifier, _, marker in (one.partition(";") for one in required)
        if f'extra=="{extra}"' in "".join(marker.split()).replace("'", '"')
    ]
    return "pip install " + (shlex.join(wanted) if wanted else f"'attnprof[{extra}]'")


def require(what: str, *modules: str) -> None:
    """Raises UsageError where one of ``modules`` is not installed, which ``what`` needs; none is imported."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        raise UsageError(
            f"{what} needs {' and '.join(absent)}, which {verb} not installed", hint=install_line()
        )
