"""vLLM's fork of FlashAttention as the registry knows it."""

from __future__ import annotations

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.gpus import DEFAULT_GPU, gpu_by_name


class VllmFlashAttention(LibraryOfVersions):
    """The two extensions that come with vLLM; ``version`` is one of them, or "auto"."""

    folder = "attnprof.dispatch.vllm_flash_attn"
    entries = ("varlen_fwd",)

    def check_version(self, version: str) -> None:
        from attnprof.dispatch.vllm_flash_attn.versions import extension_for

        extension_for(gpu_by_name(DEFAULT_GPU), version)

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_attn2 import read_back as flash_attn2
        from attnprof.dispatch.flash_attn3 import read_back as flash_attn3
        from attnprof.dispatch.vllm_flash_attn.versions import builds, fa3_builds

        told = flash_attn2.read_back(seen, gpu, builds())
        return flash_attn3.read_back(seen, gpu, fa3_builds()) if told is None else told


LIBRARY = VllmFlashAttention()
