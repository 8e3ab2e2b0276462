"""A recorded call of FlashMLA: dense or sparse, its cache's format, or why it is not predicted."""

from __future__ import annotations

from typing import Any

import pytest

from attnprof.calls.record_fields import require_record
from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.dispatch import libraries
from attnprof.dispatch.library import Evidence
from attnprof.gpus import gpu_by_name

RECORD: dict[str, Any] = {
    "seq": 0, "step": 0, "phase": "decode", "layer": 0, "library": "flash_mla", "entry": "fwd_kvcache",
    "device": "cuda:0", "dtype": "bf16", "q": [3, 1, 128, 576], "k": [100, 64, 1, 656],
    "v": [100, 64, 1, 512], "causal": False, "window": [-1, -1], "softcap": 0.0, "dropout_p": 0.0,
    "alibi": False, "return_softmax": False, "num_splits": 0, "has_cache_seqlens": False,
    "cache_batch_idx": False, "block_table": None, "kv_dtype": "uint8", "sparse": True, "index_topk": 2048,
    "extra_cache": False, "function": "vllm.third_party.flashmla.flash_mla_interface.flash_mla_with_kvcache",
}  # fmt: skip


def call_of(**changed: Any) -> Any:
    fields = RECORD | changed
    require_record(fields)
    return attention_call(CallRecord(0, 0, "decode", 0, fields), "flash_mla")


def test_a_sparse_call_is_predicted_from_its_record() -> None:
    call = call_of()
    assert (call.index_topk, call.backend, call.batch) == (2048, "fp8_ds_mla", 3)
    made = libraries.predict(call, gpu_by_name("h100"))
    assert [one.grid for one in made.launches] == [(1, 1, 1), (2, 1, 66), (3, 1, 16)]
    assert call_of(k=[100, 64, 1, 352]).backend == "nvfp4_ds_mla"
    assert call_of(disable_split_kv=True).disable_split_kv
    assert call_of(has_cache_seqlens=True).cache_seqlens  # a count of keys per request


def test_a_second_cache_is_predicted_from_its_record() -> None:
    call = call_of(
        extra_cache=True, extra_topk=512, extra_counted=True, q=[3, 1, 64, 512], k=[100, 64, 1, 584],
        index_topk=128,
    )  # fmt: skip
    assert (call.backend, call.extra_topk, call.extra_counted) == ("v4", 512, True)
    metadata, *_ = libraries.predict(call, gpu_by_name("h100")).launches
    assert metadata.kernel.endswith("<false, true, true>")
    assert len(libraries.predict(call, gpu_by_name("b200")).launches) == 1  # 640 keys in both are not split


def test_a_sparse_prefill_is_predicted_from_its_record() -> None:
    fields = {
        "entry": "varlen_fwd", "q": [300, 64, 576], "k": [900, 1, 576], "v": [900, 1, 512], "batch": 1,
        "max_seqlen_q": 300, "max_seqlen_k": 900, "counted": True,
    }  # fmt: skip
    call = call_of(**fields)
    assert (call.index_topk, call.cache_seqlens) == (2048, True)
    (launch,) = libraries.predict(call, gpu_by_name("h100")).launches
    assert launch.grid == (300, 1, 1)
    assert "576, true" in launch.kernel
    told = call_of(**fields, index_topk=None)
    assert isinstance(told, NotModelled)
    assert "does not tell" in told.why


def test_sglang_kernels_build_is_told_by_its_package() -> None:
    found = libraries.library("flash_mla").installed(Evidence({"sglang-kernel": ("0.4.10",)}))
    assert found is not None
    libraries.library("flash_mla").check_version(found.version)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            {"function": "flash_mla.flash_mla_interface.flash_mla_with_kvcache"},
            "a package or a half of it whose launches were not recorded",
        ),
        ({"extra_cache": True}, "the keys of its second cache"),
        ({"index_topk": None}, "does not tell"),
        ({"k": [100, 64, 1, 576]}, "does not tell"),
        ({"sparse": False, "index_topk": None, "kv_dtype": "float8_e4m3fn"}, "a KV cache of float8_e4m3fn"),
    ],
)
def test_what_is_not_predicted_is_said(changed: dict[str, Any], why: str) -> None:
    told = call_of(**changed)
    assert isinstance(told, NotModelled)
    assert why in told.why
