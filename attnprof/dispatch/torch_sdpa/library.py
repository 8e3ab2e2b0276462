"""PyTorch's flash backend as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.flash_attn2.library import read_back, splits_at, template_fields
from attnprof.dispatch.heuristic import MAX_SPLITS, SplitChoice, split_choice
from attnprof.dispatch.library import AnswerTo, Backend, KeyEdges, LibraryOfVersions, SplitCounter
from attnprof.dispatch.replay import ReplaySource, tensor
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu

if TYPE_CHECKING:
    from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
    from attnprof.dispatch.intervals import InferredCall, Interval

_KERNELS = "pytorch-bundled-flash"
_FUNCTION = "scaled_dot_product_attention"
_BACKENDS = {  # whose kernels -> the backend that launches them
    _KERNELS: "flash", f"{_KERNELS}-v1": "flash", "pytorch-mem-efficient": "efficient", "cudnn": "cudnn",
}  # fmt: skip


class TorchSdpa(LibraryOfVersions):
    """The copy of FlashAttention-2 inside torch."""

    folder = "attnprof.dispatch.torch_sdpa"
    kernels = (_KERNELS,)
    entries = ("fwd", "varlen_fwd")
    packages = ("torch",)
    modelled = "the launches of its flash backend are modelled"

    def replay(self, call: AttentionCall) -> ReplaySource | None:
        """By the flash backend, where there is one."""
        if call.entry != "fwd" or call.window != (-1, -1) or call.dropout_p:
            return None
        shape = call.batch, call.num_heads_k, call.seqlen_k
        lines = (
            tensor("q", call.batch, call.num_heads, call.seqlen_q, call.head_dim),
            tensor("k", *shape, call.head_dim),
            tensor("v", *shape, call.head_dim_v or call.head_dim),
            "backends = [SDPBackend.FLASH_ATTENTION, *([SDPBackend.MATH] if device == 'cpu' else [])]",
            "", "",
            "def call():",
            "    with sdpa_kernel(backends):",
            f"        return {_FUNCTION}(q, k, v, is_causal={call.causal},"
            f" enable_gqa={call.num_heads != call.num_heads_k})",
        )  # fmt: skip
        imports = (
            "from torch.nn.attention import SDPBackend, sdpa_kernel",
            f"from torch.nn.functional import {_FUNCTION}",
        )
        return ReplaySource(imports, lines)

    def backend(self, call: AttentionCall, gpu: Gpu, version: str) -> Backend | None:
        from attnprof.dispatch.torch_sdpa.backend import SdpaInputs, choose_backend

        if call.entry != "fwd" or call.dtype == "fp8" or call.dtype == "nvfp4":
            return None
        inputs = SdpaInputs(
            call.batch, call.num_heads, call.seqlen_q, call.seqlen_k, call.head_dim, call.num_heads_k,
            call.head_dim_v, call.dtype, call.causal, dropout_p=call.dropout_p,
            enable_gqa=call.num_heads != call.num_heads_k,
        )  # fmt: skip
        try:
            choice = choose_backend(inputs, gpu, version)
        except UsageError:
            return None
        return Backend(choice.backend, _FUNCTION, choice.ruled_out)

    def backend_of_record(self, record: Mapping[str, Any], gpu: Gpu, version: str) -> Backend | None:
        from attnprof.dispatch.torch_sdpa.backend import SdpaInputs, choose_backend

        q, k, v = (record.get(name) or [] for name in "qkv")
        if not all(len(sizes) == 4 and -1 not in sizes for sizes in (q, k, v)):
            return None
        heads, length = (1, 2) if record["entry"] == "sdpa" else (2, 1)
        mask = record.get("mask")
        try:
            inputs = SdpaInputs(
                q[0], q[heads], q[length], k[length], q[3], k[heads], v[3], record["dtype"],
                bool(record["causal"]), None if mask is None else tuple(mask), float(record["dropout_p"]),
                enable_gqa=bool(record.get("enable_gqa", q[heads] != k[heads])),
            )  # fmt: skip
            choice = choose_backend(inputs, gpu, version)
        except (UsageError, ValueError):  # a version or a mask that the rules say nothing of
            return None
        return Backend(choice.backend, _FUNCTION, choice.ruled_out)

    def backend_of_kernel(self, kernels: str) -> str:
        return _BACKENDS.get(kernels, "")

    def weigh(self, thread_blocks: int, slots: int, key_blocks: int) -> SplitChoice | None:
        return split_choice(thread_blocks, slots, key_blocks, MAX_SPLITS)

    def key_block(self, call: AttentionCall) -> int | None:
        from attnprof.dispatch.flash_attn2.rules import block_n

        return block_n(call.head_dim)

    def alike(self, call: AttentionCall, gpu: Gpu, version: str) -> AnswerTo:
        from attnprof.dispatch.flash_attn2.alike import CallsAlike
        from attnprof.dispatch.torch_sdpa.versions import rules_for

        return CallsAlike(call, gpu, rules_for(version))

    def key_edges(self, call: AttentionCall) -> KeyEdges | None:
        from attnprof.dispatch.flash_attn2.array import key_edges

        return key_edges(call)

    def split_counter(self, version: str) -> SplitCounter | None:
        from attnprof.dispatch.flash_attn2.array import counter_of
        from attnprof.dispatch.torch_sdpa.versions import rules_for

        return counter_of(rules_for(version))

    def versions_spelling(self, kernel: str) -> tuple[str, ...]:
        from attnprof.dispatch.torch_sdpa.versions import torch_versions_of

        return torch_versions_of(kernel)

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        return template_fields(kernel, _KERNELS)

    def read_back(self, kernel: str, grid: tuple[int, int, int], num_sms: int) -> InferredCall | None:
        return read_back(kernel, grid, num_sms, _KERNELS)

    def splits_at(self, kernel: str, call: InferredCall, num_sms: int, seqlen_k: Interval) -> set[int]:
        return splits_at(kernel, call, num_sms, seqlen_k, _KERNELS)

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        from attnprof.dispatch.flash_attn2.read_back import read_back
        from attnprof.dispatch.torch_sdpa.versions import builds

        return read_back(seen, gpu, builds())


LIBRARY = TorchSdpa()
