"""FlashInfer as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping

from attnprof.dispatch.library import LibraryOfVersions
from attnprof.model import Entry

_FUNCTIONS: Mapping[Entry, str] = {
    "batch_paged": "BatchPrefillWithPagedKVCacheWrapper",
    "batch_decode": "BatchDecodeWithPagedKVCacheWrapper",
    "batch_mla": "BatchMLAPagedAttentionWrapper",
    "single_prefill": "single_prefill_with_kv_cache",
    "single_decode": "single_decode_with_kv_cache",
}


class FlashInfer(LibraryOfVersions):
    """The plans and launches of the flashinfer-python package."""

    folder = "attnprof.dispatch.flashinfer"
    entries = tuple(_FUNCTIONS)
    functions = _FUNCTIONS
    packages = ("flashinfer-python",)
    modelled = "its plans of paged batches, single calls and trtllm-gen kernels are modelled"


LIBRARY = FlashInfer()
