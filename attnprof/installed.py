"""Library versions installed beside attnprof."""

from __future__ import annotations

from importlib import metadata

from attnprof.dispatch import default_version
from attnprof.dispatch.predict import rules_known

_PACKAGES = {"flash_attn": "flash-attn", "flash_attn_3": "flash-attn-3", "torch": "torch"}


def version_to_predict(library: str) -> str:
    """The installed version of an attention library; the default where none is, or its rules are not known.

    Raises UsageError for a library that is not modelled.
    """
    try:
        version = metadata.version(_PACKAGES[library])
    except (KeyError, metadata.PackageNotFoundError):
        return default_version(library)
    return version if rules_known(library, version) else default_version(library)
