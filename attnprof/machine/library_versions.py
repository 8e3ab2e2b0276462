"""Library versions installed beside attnprof, told without importing the libraries."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import sys
from itertools import repeat
from pathlib import Path

from attnprof.dispatch.libraries import all_libraries, default_version, library, rules_known
from attnprof.dispatch.library import Evidence, InstalledLibrary

_SEPARATORS = re.compile("[-_.]+")
_OTHERS = ("transformers", "nvtx", "kernels")


def package_versions(package: str) -> list[str]:
    """What the installed distributions of this name call themselves."""
    if not any(map(_holds, sys.path, repeat(_normal(package)))):
        return []
    from importlib import metadata  # which takes longer than a prediction

    return [found.version for found in metadata.distributions(name=package) if found.version]


def _holds(folder: str, package: str) -> bool:
    """Whether a distribution may lie in an entry of sys.path: what is no folder may hold any."""
    try:
        names = os.listdir(folder or ".")  # noqa: PTH208  # a Path per name takes ten times as long
    except OSError:
        return Path(folder).is_file()
    begins = package[:1]
    return any(
        name[:1].lower() == begins
        and name.endswith((".dist-info", ".egg-info"))
        and _normal(name.rpartition(".")[0].partition("-")[0]) == package
        for name in names
    )


def _normal(name: str) -> str:
    """A distribution's name as all its spellings have it."""
    return _SEPARATORS.sub("_", name).lower()


def find_installed(name: str) -> InstalledLibrary | None:
    """The installed attention library of this name; None where there is none.

    Raises UsageError for a library that is not modelled.
    """
    asked = library(name)
    module = _module_path(asked.module) if asked.module else None
    return asked.installed(
        Evidence(
            {package: tuple(package_versions(package)) for package in asked.packages},
            _text(module) if module else None,
            {file: _text(module.parent / file) if module else None for file in asked.files},
        )
    )


def installed_version(name: str) -> str | None:
    """The installed version of an attention library whose rules hold; None where there is none."""
    found = find_installed(name)
    return found.version if found else None


def version_to_predict(name: str) -> str:
    """The installed version of an attention library; the default where none is, or its rules are not known.

    Raises UsageError for a library that is not modelled.
    """
    version = installed_version(name)
    return version if version and rules_known(name, version) else default_version(name)


def versions() -> dict[str, str | None]:
    """Installed versions by import name, None where absent; torch's with its build tag.

    Of a library whose module tells more than its package, what the package calls itself stands under
    ``NAME_package``.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    torch = sys.modules.get("torch")
    found["torch"] = str(torch.__version__) if torch else next(iter(package_versions("torch")), None)
    found["cuda"] = torch.version.cuda if torch else None
    found |= {package: next(iter(package_versions(package)), None) for package in _OTHERS}
    for name, each in all_libraries().items():
        if name in found or not each.packages:
            continue
        installed = find_installed(name)
        found[name] = installed.version if installed else None
        if each.module:
            found[f"{name}_package"] = installed.package if installed else None
    return found


def _module_path(module: str) -> Path | None:
    """Where a top-level module lies, without importing it."""
    loaded = sys.modules.get(module)
    try:
        spec = importlib.util.find_spec(module) if loaded is None else None
    except (ImportError, ValueError):
        return None
    origin = getattr(loaded, "__file__", None) if spec is None else spec.origin
    return Path(origin) if origin else None


def _text(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
