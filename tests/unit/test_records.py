"""From what was recorded of a call to the call a library receives."""

from __future__ import annotations

from typing import Any

import pytest

from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.model import AttentionCall

COMMON = {
    "dtype": "bf16", "device": "cuda:0", "causal": True, "window": [-1, -1], "softcap": 0.0, "dropout_p": 0.0,
    "alibi": False, "return_softmax": False,
}  # fmt: skip


def record(**fields: Any) -> CallRecord:
    return CallRecord(0, 1, "decode", 0, {**COMMON, **fields})


def sdpa(**fields: Any) -> CallRecord:
    shapes = {"q": [2, 28, 1, 128], "k": [2, 4, 300, 128], "v": [2, 4, 300, 128]}
    return record(library="torch", entry="sdpa", **{**shapes, "backend": "flash", "mask": None, **fields})


def test_fwd_is_taken_as_recorded() -> None:
    given = record(
        library="flash_attn", entry="fwd", q=[2, 1, 28, 128], k=[2, 300, 4, 128], v=[2, 300, 4, 128]
    )
    assert attention_call(given, "flash_attn") == AttentionCall(
        "flash_attn", "fwd", 2, 1, 300, 28, 4, 128, causal=True
    )


def test_a_packed_batch_dispatches_on_its_longest_sequences() -> None:
    given = record(
        library="flash_attn", entry="varlen_fwd", q=[10, 28, 128], k=[500, 4, 128], v=[500, 4, 128], batch=3,
        max_seqlen_q=6, max_seqlen_k=300, cu_seqlens_q=None, block_table=None,
    )  # fmt: skip
    call = attention_call(given, "flash_attn")
    assert call == AttentionCall("flash_attn", "varlen_fwd", 3, 6, 300, 28, 4, 128, causal=True, total_q=10)


def test_a_paged_cache_dispatches_on_the_capacity_of_its_table() -> None:
    given = record(
        library="flash_attn", entry="fwd_kvcache", q=[2, 1, 28, 128], k=[64, 256, 4, 128],
        v=[64, 256, 4, 128], block_table=[2, 16], k_new=[2, 1, 4, 128], num_splits=0, has_cache_seqlens=True,
        cache_seqlens=None, cache_batch_idx=False,
    )  # fmt: skip
    call = attention_call(given, "flash_attn")
    assert isinstance(call, AttentionCall)
    assert (call.seqlen_k, call.page_block_size, call.seqlen_knew, call.cache_seqlens) == (4096, 256, 1, True)


def test_sdpa_without_mask_is_the_same_call_to_torch_and_flash_attn() -> None:
    for library in ("torch", "flash_attn"):
        call = attention_call(sdpa(), library)
        assert isinstance(call, AttentionCall)
        assert (call.library, call.batch, call.num_heads, call.num_heads_k) == (library, 2, 28, 4)
        assert (call.seqlen_q, call.seqlen_k, call.head_dim) == (1, 300, 128)


def test_a_cpu_run_in_fp32_is_predicted_in_16_bit_which_is_all_the_kernels_take() -> None:
    call = attention_call(sdpa(device="cpu", dtype="fp32"), "flash_attn")
    assert isinstance(call, AttentionCall)
    assert call.dtype == "bf16"


def test_torch_pads_the_head_dim_before_its_flash_kernel() -> None:
    shapes = {"q": [1, 8, 1, 36], "k": [1, 8, 9, 36], "v": [1, 8, 9, 36]}
    call = attention_call(sdpa(**shapes), "torch")
    assert isinstance(call, AttentionCall)
    assert call.head_dim == 40


@pytest.mark.parametrize(
    ("given", "library", "why"),
    [
        (sdpa(mask=[2, 1, 1, 300]), "torch", "mask"),
        (sdpa(backend="efficient"), "torch", "efficient backend"),
        (sdpa(q=[2, 28, 7, 128], causal=True), "flash_attn", "top left"),
        (sdpa(v=[2, 4, 300, 64]), "torch", "differ"),
        (sdpa(q=[28, -1, 128]), "torch", "no batch x heads"),
        (record(library="flash_attn", entry="fwd"), "torch", "went to flash_attn"),
    ],
)
def test_calls_without_a_prediction_say_why(given: CallRecord, library: Any, why: str) -> None:
    answer = attention_call(given, library)
    assert isinstance(answer, NotModelled)
    assert why in answer.why
