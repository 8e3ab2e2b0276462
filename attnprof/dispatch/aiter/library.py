"""AITER as the registry knows it."""

from __future__ import annotations

from typing import Literal

from attnprof.dispatch.library import LibraryOfVersions


class Aiter(LibraryOfVersions):
    """Composable Kernel's forward and MLA's split count, of the amd-aiter package."""

    folder = "attnprof.dispatch.aiter"
    entries = ("fwd", "varlen_fwd", "fwd_kvcache")
    packages = ("amd-aiter",)
    vendor: Literal["nvidia", "amd", "any"] = "amd"
    modelled = "its split counts are modelled"


LIBRARY = Aiter()
