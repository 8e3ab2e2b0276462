"""vLLM's fork of FlashAttention as the registry knows it."""

from __future__ import annotations

from attnprof.dispatch.library import AttentionLibrary
from attnprof.gpus import DEFAULT_GPU, gpu_by_name
from attnprof.model import AttentionCall, Gpu, Prediction


class VllmFlashAttention(AttentionLibrary):
    """The two extensions that come with vLLM; ``version`` is one of them, or "auto"."""

    entries = ("varlen_fwd",)

    @property
    def default_version(self) -> str:
        from attnprof.dispatch.vllm_flash_attn.versions import DEFAULT_VERSION

        return DEFAULT_VERSION

    def check_version(self, version: str) -> None:
        from attnprof.dispatch.vllm_flash_attn.versions import extension_for

        extension_for(gpu_by_name(DEFAULT_GPU), version)

    def predict(self, call: AttentionCall, gpu: Gpu, version: str, *, explain: bool = False) -> Prediction:
        from attnprof.dispatch.vllm_flash_attn.versions import predict

        return predict(call, gpu, version, explain=explain)


LIBRARY = VllmFlashAttention()
