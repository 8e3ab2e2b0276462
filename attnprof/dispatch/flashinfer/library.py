"""FlashInfer as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.library import Launches, LibraryOfVersions
from attnprof.model import Entry

if TYPE_CHECKING:
    from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack

_FUNCTIONS: Mapping[Entry, str] = {
    "batch_paged": "BatchPrefillWithPagedKVCacheWrapper",
    "batch_ragged": "BatchPrefillWithRaggedKVCacheWrapper",
    "batch_decode": "BatchDecodeWithPagedKVCacheWrapper",
    "batch_mla": "BatchMLAPagedAttentionWrapper",
    "varlen_fwd": "trtllm_ragged_attention_deepseek",
    "single_prefill": "single_prefill_with_kv_cache",
    "single_decode": "single_decode_with_kv_cache",
}


_ENTRIES: Mapping[str, Entry] = {  # by the function that was recorded
    "trtllm_batch_decode_with_kv_cache_mla": "batch_mla",
    "trtllm_batch_decode_with_kv_cache": "batch_decode",
    "BatchMLAPagedAttentionWrapper": "batch_mla",
    "BatchPrefillWithRaggedKVCacheWrapper": "batch_ragged",
}


class FlashInfer(LibraryOfVersions):
    """The plans and launches of the flashinfer-python package."""

    folder = "attnprof.dispatch.flashinfer"
    kernels = ("flashinfer", "trtllm-gen", "tensorrt-llm")  # XQA's is called as TensorRT-LLM's own
    entries = tuple(_FUNCTIONS)
    packs_pages = False
    functions = _FUNCTIONS
    dtypes = (*LibraryOfVersions.dtypes, "nvfp4")
    packages = ("flashinfer-python",)
    modelled = "its plans of paged batches, single calls and trtllm-gen kernels are modelled"

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The backend, and the keys that an indexer picks; of packed keys the width of V."""
        told: dict[str, Any] = {
            "backend": record.get("backend") or "", "index_topk": int(record.get("index_topk") or 0),
        }  # fmt: skip
        packed = record["entry"] == "varlen_fwd"
        return told | ({"head_dim_v": record["v"][-1]} if packed else {})

    def entry_of(self, record: Mapping[str, Any]) -> Entry:
        """A decode wrapper, of which alone it is known, plans a paged batch for fa2's tensor cores."""
        known = next((entry for name, entry in _ENTRIES.items() if name in str(record["function"])), None)
        if known is not None:
            return known
        cores = record.get("tensor_cores")
        own = cores is not None and (not cores or record.get("backend") == "trtllm-gen")
        return "batch_decode" if own else "batch_paged"

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        """Of the trtllm-gen kernels whose table was read: their names state all of it."""
        from attnprof.dispatch.flashinfer.read_back_trtllm_gen import traits_of
        from attnprof.dispatch.flashinfer.trtllm_gen import stated

        return stated(kernel) if traits_of(kernel) is not None else None

    def named_only(self, kernel: str) -> str:
        from attnprof.dispatch.flashinfer.rules import OLDER
        from attnprof.dispatch.names.kernel_names import parse_kernel_name

        signature = parse_kernel_name(kernel)
        if signature.library == "trtllm-gen":
            known = f"the kernels of flashinfer-cubin {OLDER} that were read"
            return f"trtllm-gen {signature.family}, not among {known}"
        if signature.library == "flashinfer":
            return f"flashinfer {signature.family}, of which only the name is known"
        return ""

    def window_may_tell(self, one: Launches, other: Launches) -> bool:
        """A window hides keys from the plan, and so work items and chunks; trtllm-gen's names state it."""
        (main, *merge), (its, *others) = one, other
        planned = "WithPagedKVCacheKernel" in main.kernel and main.kernel == its.kernel
        sized = main.block == its.block and main.grid[1:] == its.grid[1:] and main.grid != its.grid
        return planned and sized and (merge or others) != [] and (not (merge and others) or merge == others)

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flashinfer.read_back import read_back

        return read_back(seen, gpu)


LIBRARY = FlashInfer()
