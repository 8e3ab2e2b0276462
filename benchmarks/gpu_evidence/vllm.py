"""Step: the same through vLLM's FlashAttention-3, its wheel's extension among the packages, without vLLM."""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnprof.model import AttentionCall
from benchmarks.gpu_evidence.calls import cumulative, matrix, random_tensor
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.matrix import observe_matrix
from benchmarks.pack_vllm_fa3 import PACKAGE, unpack

_INTERFACE = f"{PACKAGE}.flash_attn_interface"
_PAGE = 16
_HOPPER = 9
_CUDA_GRAPH_CAP = 32  # what vLLM passes as num_splits where it captures graphs


def run(evidence: Evidence) -> None:
    """Packed calls as vLLM's layers make them: paged or not, planned ahead or not, capped and not."""
    gpu, _ = evidence.environment()
    if gpu.sm_major != _HOPPER:
        evidence.skip("vllm_fa3", f"{gpu.name} is no Hopper, and vLLM's FlashAttention-3 is built for sm_90")
        return
    with interface(sys.path) as found:
        if isinstance(found, str):
            evidence.skip("vllm_fa3", found)
            return
        calls = as_vllm(matrix(evidence.scale.matrix_calls // 2, "vllm_flash_attn", seed=5))
        observe_matrix(evidence, "vllm_fa3", "vllm_flash_attn", "fa3", calls, thunks(found))


@contextmanager
def interface(folders: list[str]) -> Iterator[Any]:
    """vLLM's ``flash_attn_interface`` on its unpacked extension; a str says why there is none.

    ``folders``: where ``pack_vllm_fa3`` may have put them.
    """
    with tempfile.TemporaryDirectory() as folder:
        if not any(unpack(Path(packages), Path(folder)) for packages in folders):
            yield "vLLM's extension is not among the packages (python -m benchmarks.pack_vllm_fa3)"
            return
        sys.path.insert(0, folder)
        try:
            module = importlib.import_module(_INTERFACE)
            yield module if module.FA3_AVAILABLE else f"it does not load: {module.FA3_UNAVAILABLE_REASON}"
        finally:
            sys.path.remove(folder)
            for name in (_INTERFACE, PACKAGE):
                sys.modules.pop(name, None)


def as_vllm(calls: list[AttentionCall]) -> list[AttentionCall]:
    """The calls, packed; of three two in pages of 16; some planned ahead, some with a given split count."""
    rng = random.Random(6)
    packed = []
    for call in calls:
        paged = rng.random() < 2 / 3
        packed.append(
            replace(
                call, entry="varlen_fwd", total_q=call.batch * call.seqlen_q,
                page_block_size=_PAGE if paged else None,
                scheduler_metadata=paged and rng.random() < 0.4,
                num_splits=rng.choice((0, 0, 0, 1, _CUDA_GRAPH_CAP)),
            )
        )  # fmt: skip
    return list(dict.fromkeys(packed))


def thunks(module: Any) -> Callable[[AttentionCall], Callable[[], Any]]:
    """Calls through the module's ``flash_attn_varlen_func``; plans are made at once, outside of them."""

    def thunk(call: AttentionCall) -> Callable[[], Any]:
        plan = _plan(module, call) if call.scheduler_metadata else None

        def make() -> Any:
            shape = (call.num_heads_k, call.head_dim)
            more: dict[str, Any] = {"cu_seqlens_k": cumulative(call.batch, call.seqlen_k)}
            rows: tuple[int, ...] = (call.batch * call.seqlen_k,)
            if call.page_block_size is not None:
                pages = -(-call.seqlen_k // call.page_block_size)
                rows = (call.batch * pages, call.page_block_size)
                more = {"seqused_k": _lengths(call), "block_table": _numbered(call.batch, pages)}
            q = random_tensor(call, call.batch * call.seqlen_q, call.num_heads, call.head_dim)
            k, v = (random_tensor(call, *rows, *shape) for _ in "kv")
            return module.flash_attn_varlen_func(
                q, k, v, call.seqlen_q, cumulative(call.batch, call.seqlen_q), call.seqlen_k,
                causal=call.causal, window_size=list(call.window), softcap=call.softcap,
                num_splits=call.num_splits, scheduler_metadata=plan, fa_version=3, **more,
            )  # fmt: skip

        return make

    return thunk


def _plan(module: Any, call: AttentionCall) -> Any:
    """What vLLM computes ahead of a step for this call."""
    import torch

    return module.get_scheduler_metadata(
        call.batch, call.seqlen_q, call.seqlen_k, call.num_heads, call.num_heads_k, call.head_dim,
        _lengths(call), {"bf16": torch.bfloat16, "fp16": torch.float16}[call.dtype],
        cu_seqlens_q=cumulative(call.batch, call.seqlen_q), page_size=call.page_block_size,
        causal=call.causal, window_size=call.window, has_softcap=call.softcap > 0,
        num_splits=call.num_splits,
    )  # fmt: skip


def _lengths(call: AttentionCall) -> Any:
    """int32 [batch]: the keys of each sequence."""
    import torch

    return torch.full((call.batch,), call.seqlen_k, device="cuda", dtype=torch.int32)


def _numbered(batch: int, pages: int) -> Any:
    """int32 [batch, pages]: a block table in which no two sequences share a page."""
    import torch

    return torch.arange(batch * pages, device="cuda", dtype=torch.int32).view(batch, pages)
