"""Of which libraries there are scenes of servers, and why of others there are none: the one table."""

from __future__ import annotations

from attnprof.model import Library
from tests.spoil import amd_scenes, cute_scenes, flashinfer_scenes, mla_scenes, triton_scenes
from tests.spoil.served import Family

SERVED: dict[Library, Family] = {
    "flash_mla": Family(("vllm-0.33.0",), mla_scenes.flash_mla),
    "tokenspeed_mla": Family(("2.0.3",), mla_scenes.tokenspeed_mla),
    "cutlass_mla": Family(("0.33.0",), mla_scenes.cutlass_mla),
    "flashinfer": Family(flashinfer_scenes.VERSIONS["flashinfer"], mla_scenes.flashinfer),
    "vllm_triton": Family(triton_scenes.VERSIONS["vllm_triton"], mla_scenes.vllm_triton),
    "sglang_triton": Family(triton_scenes.VERSIONS["sglang_triton"], mla_scenes.sglang_triton),
    "vllm_flash_attn": Family(("fa2", "fa3"), mla_scenes.vllm_flash_attn),
    "flash_attn_4": Family(cute_scenes.VERSIONS["flash_attn_4"], cute_scenes.flash_attn_4),
    "flex_attention": Family(cute_scenes.VERSIONS["flex_attention"], cute_scenes.flex_attention),
    "aiter": Family(("0.1.7",), amd_scenes.aiter),
    "aiter_paged": Family(amd_scenes.UNIFIED, amd_scenes.aiter_paged),
    "vllm_rocm": Family(("0.33.0",), amd_scenes.vllm_rocm),
}
NO_SCENES: dict[Library, str] = {}  # a library of the registry without, and why it has none
