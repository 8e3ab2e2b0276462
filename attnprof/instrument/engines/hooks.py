"""Which module of an engine or library is hooked by what, once the program imports it.

To add one: a file beside this one with a function ``(recorder, module) -> undo``, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from attnprof.instrument.recorder import Recorder

_HERE = __name__.rpartition(".")[0]

HOOKS: dict[str, str] = {  # module -> file of this folder and its function
    "torch": "torch_functions:patch_aten",
    "torch.nn.attention.flex_attention": "torch_functions:patch_flex",
    "flash_attn.cute.interface": "flash_attn_forks:patch_cute",
    "vllm.vllm_flash_attn.flash_attn_interface": "flash_attn_forks:patch_vllm",
    "sgl_kernel.flash_attn": "flash_attn_forks:patch_sgl_kernel",
    "flashinfer.prefill": "flashinfer:patch_prefill",
    "flashinfer.decode": "flashinfer:patch_decode",
    "flashinfer.mla": "flashinfer:patch_mla",
    "flash_mla.flash_mla_interface": "flash_mla:patch",
    "vllm.third_party.flashmla.flash_mla_interface": "flash_mla:patch",
    "sgl_kernel.flash_mla": "flash_mla:patch",
    "vllm.v1.attention.ops.triton_unified_attention": "triton_attention:patch_vllm",
    "vllm.v1.attention.ops.triton_decode_attention": "triton_attention:patch_vllm_decode",
    "sglang.kernels.ops.attention.decode_attention": "triton_attention:patch_sglang_decode",
    "sglang.kernels.ops.attention.extend_attention": "triton_attention:patch_sglang_extend",
    "sglang.srt.layers.attention.triton_ops.decode_attention": "triton_attention:patch_sglang_decode",
    "sglang.srt.layers.attention.triton_ops.extend_attention": "triton_attention:patch_sglang_extend",
    "aiter.ops.triton.attention.unified_attention": "triton_attention:patch_aiter",
    "aiter.ops.triton.unified_attention": "triton_attention:patch_aiter",
    "aiter.ops.mha": "flash_attn_forks:patch_aiter",
    "xformers.ops.fmha": "xformers:patch",
    "kernels": "hub_kernels:patch",
    "vllm._custom_ops": "vllm_cpu:patch",
    "vllm.v1.worker.gpu_model_runner": "vllm_steps:patch",
    "vllm.v1.worker.gpu.model_runner": "vllm_steps:patch",
    "sglang.srt.model_executor.model_runner": "sglang_steps:patch",
}


def hook(recorder: Recorder, module: ModuleType) -> Callable[[], None]:
    """Hooks a module of ``HOOKS``; returns what undoes it. Raises where it is not as the hook knows it."""
    file, _, function = HOOKS[module.__name__].partition(":")
    undo: Callable[[], None] = getattr(import_module(f"{_HERE}.{file}"), function)(recorder, module)
    return undo
