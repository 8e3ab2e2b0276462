"""Predictions at the edges: what CUDA and float32 make of arguments that the libraries pass on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.command import attnprof

H100, A100 = gpu_by_name("h100"), gpu_by_name("a100")
TRAINING = AttentionCall("flash_attn", "fwd", 2, 512, 512, 8, 8, 64, causal=True)


@pytest.mark.parametrize("library", ["flash_attn", "torch"])
def test_dropout_of_all_is_refused(library: str) -> None:
    call = replace(TRAINING, library=library, dropout_p=1.0)  # type: ignore[arg-type]
    assert (predict(call, A100).error or "").startswith("Expected p_dropout < 1.f to be true")
    assert predict(replace(call, dropout_p=0.999999), A100).error is None
    # The nearest float32 is 1.
    assert predict(replace(call, dropout_p=1 - 1e-9), A100).error


def test_dropout_that_float32_loses_is_none_for_the_kernel() -> None:
    def flag(dropout_p: float) -> str:
        (launch,) = predict(replace(TRAINING, dropout_p=dropout_p), A100).launches
        return launch.kernel.partition("> >, ")[2].partition(",")[0]

    assert [flag(p) for p in (0.0, 1e-9, 2.9e-8, 3.0e-8, 0.1)] == ["false", "false", "false", "true", "true"]


def test_tiny_dropout_still_keeps_the_library_from_splitting() -> None:
    decode = AttentionCall("flash_attn", "fwd", 1, 1, 8192, 28, 4, 128, causal=True)
    assert (predict(decode, A100).num_splits or 0) > 1
    tiny = predict(replace(decode, dropout_p=1e-9), A100)
    assert (tiny.num_splits, [launch.grid[2] for launch in tiny.launches]) == (1, [28])
    # 1e-50 is 0 in float32, before any of the library's own comparisons.
    assert predict(replace(decode, dropout_p=1e-50), A100) == predict(decode, A100)


def test_a_grid_beyond_cudas_limits_is_not_launched_and_said_so() -> None:
    wide = replace(TRAINING, batch=65_536, seqlen_q=64, seqlen_k=64)
    assert predict(wide, A100).error == "CUDA error: invalid configuration argument"
    assert predict(replace(wide, batch=65_535), A100).error is None
    split = AttentionCall("flash_attn", "fwd_kvcache", 4096, 1, 4096, 32, 32, 128, num_splits=2)
    assert predict(split, A100).error == "CUDA error: invalid configuration argument"
    assert predict(replace(split, num_splits=1), A100).error is None
    hopper = replace(wide, library="flash_attn_3", causal=False, seqlen_q=64)
    assert predict(hopper, H100).error is None  # a persistent grid of one block per SM
    told = attnprof("explain", "--seqlen-k", "64", "--seqlen-q", "64", "--batch", "70000")
    assert "cannot be launched: no GPU takes the grid (1, 70000, 28)" in " ".join(told.out.split())


def test_upstream_main_passes_varlen_num_splits_and_aligns_one_split() -> None:
    packed = AttentionCall("flash_attn", "varlen_fwd", 2, 1, 8192, 8, 2, 128, total_q=2, num_splits=3)
    assert "takes no num_splits" in (predict(packed, A100, "2.8.3").error or "")
    assert predict(packed, A100, "2.8.4").num_splits == 3
    paged = replace(packed, num_splits=1, seqlen_q=7, total_q=14, page_block_size=256)
    (launch,) = predict(paged, A100, "2.8.4").launches
    assert "Flash_fwd_kernel_traits<128, 64, 64, 4," in launch.kernel
    (automatic,) = predict(replace(paged, num_splits=0), A100, "2.8.4").launches
    assert "Flash_fwd_kernel_traits<128, 64, 128, 4," in automatic.kernel
    refused = predict(replace(paged, num_splits=2), A100, "2.8.4")
    assert refused.error == "num_splits > 1 is not supported for varlen paged KV"
