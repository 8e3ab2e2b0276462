"""Which flash_attn_3 is installed: its package says 3.0.0b1 whatever it was built from."""

from __future__ import annotations

import ast
import re

from attnprof.dispatch.flash_attn3.interface import UNKNOWN, identify
from attnprof.dispatch.library import Evidence, InstalledLibrary

MODULE = "flash_attn_interface"
_CONFIG = "flash_attn_config.py"
_FOLDER_OF_JULY_2026 = "flash_attn_3/__init__.py"  # came 24 days before the other grid
FILES = (_CONFIG, _FOLDER_OF_JULY_2026)
PACKAGES = ("flash-attn-3", "flash-attn", "flashattn-hopper")  # its own, and what it was called before 2.8.0
NOT_MODELLED = "unknown"  # an installed one whose interface is of no version with known rules
NEWEST = "3.0.0"
_OLD_VERSION = re.compile(r"3\.0\.0\.?b")
_WITHOUT_EFFECT = ("BACKWARD",)  # on the forward launches


def judge(evidence: Evidence) -> InstalledLibrary | None:
    """The installed flash_attn_3, judged by its interface; None where there is none."""
    package, files = _package(evidence), evidence.files or {}
    if evidence.module is None and package is None:
        return None
    interface = UNKNOWN if evidence.module is None else identify(evidence.module)
    called = f"flash_attn_3 {package}" if package else "flash_attn_3"
    if interface.version is None or not _may_be(package):
        what = f"it has the interface of {interface.source}"
        if evidence.module is None:
            what = f"it has no {MODULE}.py"
        if interface.version is not None:
            what = "nobody has read its rules yet"
        return InstalledLibrary(NOT_MODELLED, package, f"{called} is not modelled: {what}")
    notes, left_out = [], _left_out(files.get(_CONFIG))
    if package is None or package.partition("+")[0] != interface.version:
        notes.append(f"has the interface of {interface.source}")
    if left_out:
        notes.append(f"was built without {', '.join(left_out)}")
    if files.get(_FOLDER_OF_JULY_2026) is not None:
        notes.append("may combine packed queries on another grid, as its commits since 2026-07-27 do")
    whole = "a full build of " if left_out else ""
    note = f"{called} {' and '.join(notes)}: predicted as {whole}{interface.version}" if notes else ""
    return InstalledLibrary(interface.version, package, note)


def _package(evidence: Evidence) -> str | None:
    own, *older = (evidence.packages.get(package, ()) for package in PACKAGES)
    old = [version for versions in older for version in versions if _OLD_VERSION.match(version)]
    return next(iter([*own, *old]), None)


def _may_be(package: str | None) -> bool:
    """Whether a package of this version can hold rules that are known: a later release cannot."""
    public = (package or NEWEST).partition("+")[0]
    return public == NEWEST or bool(_OLD_VERSION.match(public))


def _left_out(config: str | None) -> tuple[str, ...]:
    """What it was built without, as its flash_attn_config.py says: "SPLIT", "HDIM96"."""
    try:
        (given,) = [node for node in ast.parse(config or "").body if isinstance(node, ast.Assign)]
        flags: dict[str, bool] = ast.literal_eval(given.value)["build_flags"]
        disabled = [name.partition("_DISABLE_")[2] for name, value in flags.items() if value]
    except (ValueError, SyntaxError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(name for name in disabled if name and name not in _WITHOUT_EFFECT)
