"""Library versions installed beside attnprof, told without importing the libraries."""

from __future__ import annotations

import ast
import importlib.util
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from attnprof.dispatch import default_version, flash_attn3
from attnprof.dispatch.flash_attn3.interface import UNKNOWN, Interface, identify
from attnprof.dispatch.predict import rules_known

_PACKAGES = {"flash_attn": "flash-attn", "flash_attn_3": "flash-attn-3", "torch": "torch"}
_OTHERS = ("transformers", "nvtx", "kernels")
NVTX_PIN = "pip install 'nvtx>=0.2.11,<0.2.12'"
_FA3_MODULE = "flash_attn_interface"
_FA3_CONFIG = "flash_attn_config.py"
_FA3_FOLDER_OF_JULY_2026 = "flash_attn_3/__init__.py"  # came 24 days before the other grid
# flash_attn_3's own package, and what it was called before 2.8.0.
_FA3_PACKAGES = ("flash-attn-3", "flash-attn", "flashattn-hopper")
_FA3_OLD_VERSION = re.compile(r"3\.0\.0\.?b")
_WITHOUT_EFFECT = ("BACKWARD",)  # on the forward launches


@dataclass(frozen=True, slots=True)
class FlashAttention3:
    """An installed flash_attn_3.

    ``version`` is the repository's, "unknown" where its rules are not known; ``package`` what the package
    calls itself, None without one. ``note`` says in one sentence what is not as the package's version tells,
    "" where nothing is.
    """

    version: str
    package: str | None
    note: str


def package_versions(package: str) -> list[str]:
    """What the installed distributions of this name call themselves."""
    return [found.version for found in metadata.distributions(name=package) if found.version]


def installed_version(library: str) -> str | None:
    """The installed version of an attention library; None where there is none, or it is not modelled.

    Of flash_attn_3 it is the repository's version, not the package's.
    """
    if library == "flash_attn_3":
        found = find_flash_attention_3()
        return found.version if found else None
    versions = package_versions(_PACKAGES[library]) if library in _PACKAGES else []
    if library == "flash_attn":
        versions = [version for version in versions if not _FA3_OLD_VERSION.match(version)]
    return versions[0] if versions else None


def version_to_predict(library: str) -> str:
    """The installed version of an attention library; the default where none is, or its rules are not known.

    Raises UsageError for a library that is not modelled.
    """
    version = installed_version(library)
    return version if version and rules_known(library, version) else default_version(library)


def versions() -> dict[str, str | None]:
    """Installed versions by import name, None where absent; torch's with its build tag.

    ``flash_attn_3`` is the version of the repository that its interface has, ``flash_attn_3_package`` what
    the package calls itself.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    torch = sys.modules.get("torch")
    found["torch"] = str(torch.__version__) if torch else installed_version("torch")
    found["cuda"] = torch.version.cuda if torch else None
    found |= {package: next(iter(package_versions(package)), None) for package in _OTHERS}
    flash_attention_3 = find_flash_attention_3()
    found["flash_attn"] = installed_version("flash_attn")
    found["flash_attn_3"] = flash_attention_3.version if flash_attention_3 else None
    found["flash_attn_3_package"] = flash_attention_3.package if flash_attention_3 else None
    return found


def find_flash_attention_3() -> FlashAttention3 | None:
    """The installed flash_attn_3, judged by its interface; None where there is none."""
    package, path = _fa3_package(), _module_path(_FA3_MODULE)
    if path is None and package is None:
        return None
    interface = _interface(path)
    called = f"flash_attn_3 {package}" if package else "flash_attn_3"
    if interface.version is None or not _may_be(package):
        what = f"it has the interface of {interface.source}" if path else f"it has no {_FA3_MODULE}.py"
        if interface.version is not None:
            what = "nobody has read its rules yet"
        return FlashAttention3(flash_attn3.UNKNOWN, package, f"{called} is not modelled: {what}")
    notes, left_out = [], _left_out(path)
    if package is None or package.partition("+")[0] != interface.version:
        notes.append(f"has the interface of {interface.source}")
    if left_out:
        notes.append(f"was built without {', '.join(left_out)}")
    if path and (path.parent / _FA3_FOLDER_OF_JULY_2026).exists():
        notes.append("may combine packed queries on another grid, as its commits since 2026-07-27 do")
    whole = "a full build of " if left_out else ""
    note = f"{called} {' and '.join(notes)}: predicted as {whole}{interface.version}" if notes else ""
    return FlashAttention3(interface.version, package, note)


def _interface(path: Path | None) -> Interface:
    with suppress(OSError, UnicodeDecodeError):
        return identify(path.read_text(encoding="utf-8")) if path else UNKNOWN
    return UNKNOWN


def _fa3_package() -> str | None:
    own, *older = (package_versions(package) for package in _FA3_PACKAGES)
    old = [version for versions in older for version in versions if _FA3_OLD_VERSION.match(version)]
    return next(iter([*own, *old]), None)


def _may_be(package: str | None) -> bool:
    """Whether a package of this version can hold rules that are known: a later release cannot."""
    public = (package or flash_attn3.NEWEST).partition("+")[0]
    return public == flash_attn3.NEWEST or bool(_FA3_OLD_VERSION.match(public))


def _module_path(module: str) -> Path | None:
    """Where a top-level module lies, without importing it."""
    loaded = sys.modules.get(module)
    try:
        spec = importlib.util.find_spec(module) if loaded is None else None
    except (ImportError, ValueError):
        return None
    origin = getattr(loaded, "__file__", None) if spec is None else spec.origin
    return Path(origin) if origin else None


def _left_out(interface: Path | None) -> tuple[str, ...]:
    """What flash_attn_3 was built without, as its flash_attn_config.py says: "SPLIT", "HDIM96"."""
    if interface is None:
        return ()
    try:
        text = interface.with_name(_FA3_CONFIG).read_text(encoding="utf-8")
        (given,) = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
        flags: dict[str, bool] = ast.literal_eval(given.value)["build_flags"]
        disabled = [name.partition("_DISABLE_")[2] for name, value in flags.items() if value]
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(name for name in disabled if name and name not in _WITHOUT_EFFECT)
