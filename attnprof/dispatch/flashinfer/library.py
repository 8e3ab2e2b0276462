"""FlashInfer as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping

from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {"batch_paged": "BatchPrefillWithPagedKVCacheWrapper"}


class FlashInfer(LibraryOfVersions):
    """The fa2 plan of paged batches, of the flashinfer-python package."""

    folder = "attnprof.dispatch.flashinfer"
    entries = ("batch_paged",)
    functions = _FUNCTIONS
    packages = ("flashinfer-python",)
    modelled = "its fa2 plan of paged batches is modelled"


LIBRARY = FlashInfer()
