"""vLLM's fork of FlashAttention as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.library import LibraryOfVersions
from attnprof.gpus import DEFAULT_GPU, gpu_by_name
from attnprof.model import AttentionCall


class VllmFlashAttention(LibraryOfVersions):
    """The two extensions that come with vLLM; ``version`` is one of them, or "auto"."""

    folder = "attnprof.dispatch.vllm_flash_attn"
    kernels = ("flash-attn", "flash-attn-3")
    entries = ("varlen_fwd",)
    caps_splits = True

    def check_version(self, version: str) -> None:
        from attnprof.dispatch.vllm_flash_attn.versions import extension_for

        extension_for(gpu_by_name(DEFAULT_GPU), version)

    def known_versions(self) -> tuple[str, ...]:
        from attnprof.dispatch.vllm_flash_attn.versions import EXTENSIONS

        return tuple(EXTENSIONS)

    def asked_by_others(self, call: AttentionCall) -> tuple[tuple[str, AttentionCall], ...]:
        """Of a call that asks for as many splits as some vLLM sets aside under CUDA graphs: the others'."""
        from attnprof.dispatch.engines.vllm.engine import VERSIONS

        asks = {name: version.rules.graph_splits for name, version in VERSIONS.items()}
        if call.num_splits not in asks.values():
            return ()
        others = {splits: name for name, splits in reversed(asks.items()) if splits != call.num_splits}
        return tuple((f"vLLM {name}", replace(call, num_splits=splits)) for splits, name in others.items())

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """MLA's: V wider than K, or narrower, and queries against V beside those against K."""
        head_dim_v = record["v"][-1]
        return {
            "head_dim_v": None if head_dim_v == record["q"][-1] else head_dim_v,
            "has_qv": bool(record.get("qv")),
            "scheduler_metadata": bool(record.get("scheduler_metadata")),
        }

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_attn2 import read_back as flash_attn2
        from attnprof.dispatch.vllm_flash_attn.versions import builds

        told = flash_attn2.read_back(seen, gpu, builds())
        if told is not None:
            return told
        from attnprof.dispatch.flash_attn3 import read_back as flash_attn3
        from attnprof.dispatch.vllm_flash_attn.fa3 import fa3_builds

        return flash_attn3.read_back(seen, gpu, fa3_builds())


LIBRARY = VllmFlashAttention()
