"""FlashAttention-4 as the registry knows it."""

from __future__ import annotations

from attnprof.dispatch.library import FLASH_ATTN_FUNCTIONS, LibraryOfVersions


class FlashAttention4(LibraryOfVersions):
    """``flash_attn.cute`` of the flash-attn-4 package."""

    folder = "attnprof.dispatch.flash_attn4"
    entries = ("fwd", "varlen_fwd")
    functions = FLASH_ATTN_FUNCTIONS
    packages = ("flash-attn-4",)
    modelled = "its launches are modelled, and agree with the host code of the package"


LIBRARY = FlashAttention4()
