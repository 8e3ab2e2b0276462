"""Where a library's own code divides by zero its prediction says so: none leaves it to the registry."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.heuristic import DIVIDES
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.read_back_domains import DOMAINS

CHANGES: tuple[dict[str, Any], ...] = (
    {"batch": 0}, {"seqlen_q": 0}, {"seqlen_k": 0}, {"num_heads": 1, "num_heads_k": 8}, {"batch": 4096},
    {"num_heads": 300}, {"num_heads": 300, "num_heads_k": 1}, {"num_heads_k": 300}, {"seqlen_q": 4096},
    {"seqlen_q": 0, "seqlen_k": 0, "batch": 0},
)  # fmt: skip


@pytest.mark.parametrize("name", DOMAINS)
def test_no_library_divides_by_zero(name: str) -> None:
    asked = libraries.library(name)
    for seed in range(25):
        call, gpu, version = DOMAINS[name].draw(Random(seed))
        for change in CHANGES:
            odd = replace(call, **change, seqlens_q=(), seqlens_k=(), total_q=None)
            with suppress(UsageError):  # a sentence of its own; the registry's catch is not asked here
                asked.predict(odd, gpu, version)


@pytest.mark.parametrize(
    ("library", "entry", "gpu", "changes"),
    [
        ("vllm_triton", "batch_paged", "h100", {"num_heads": 1, "num_heads_k": 8}),
        ("vllm_triton", "batch_mla", "h100", {"num_heads": 1, "num_heads_k": 8, "head_dim": 576}),
        ("aiter_paged", "batch_paged", "mi300x", {"num_heads": 1, "num_heads_k": 8}),
        (
            "aiter_paged", "batch_paged", "mi300x",
            {"num_heads": 300, "num_heads_k": 1, "window": (127, 0), "seqlen_q": 300},
        ),
    ],
)  # fmt: skip
def test_what_divides_in_python_says_it_in_its_words(
    library: str, entry: Any, gpu: str, changes: dict[str, Any]
) -> None:
    call = AttentionCall(library, entry, 4, 1, 4096, 32, 8, 128, causal=True, page_block_size=16)
    assert libraries.predict(call, gpu_by_name(gpu)).error is None
    assert libraries.predict(replace(call, **changes), gpu_by_name(gpu)).error == DIVIDES


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (AttentionCall("flashinfer", "single_prefill", 1, 0, 64, 8, 8, 128, backend="fa2"), "query tiles"),
        (AttentionCall("sglang_triton", "fwd_kvcache", 2, 1, 0, 8, 8, 128), "longest request's keys"),
    ],
)
def test_what_divides_in_compiled_code_is_refused(call: AttentionCall, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        libraries.predict(call, gpu_by_name("a100"))


def test_flash_mlas_sparse_decode_takes_no_empty_batch() -> None:
    call = AttentionCall("flash_mla", "fwd_kvcache", 0, 1, 64, 64, 1, 576, head_dim_v=512, index_topk=2048)
    assert "b > 0" in str(libraries.predict(call, gpu_by_name("h100")).error)
