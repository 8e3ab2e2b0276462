"""Which backend, or which FlashAttention, takes a call: reachable from the commands, and why."""

from __future__ import annotations

import json

import pytest

from attnprof.dispatch.vllm_flash_attn.versions import preferred
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.command import attnprof

SDPA = ("--library", "torch", "--version", "2.6.0", "--heads", "16", "--kv-heads", "16", "--head-dim", "64")


def said(*arguments: str) -> str:
    done = attnprof(*arguments)
    assert done.code == 0, done.err
    return " ".join(done.out.split())


def test_on_a_t4_torch_takes_efficient_and_says_why_flash_was_ruled_out() -> None:
    words = said("explain", *SDPA, "--gpu", "t4", "--dtype", "fp16", "--seqlen-k", "512", "--seqlen-q", "512")
    assert "scaled_dot_product_attention takes its efficient backend" in words
    assert "flash is not taken: sm 7.5 is outside sm 8.0 to 9.0" in words
    assert "nothing is launched" not in words
    assert "flash_fwd" not in words


def test_flash_is_explained_where_it_is_taken() -> None:
    words = said("explain", *SDPA, "--gpu", "a100", "--seqlen-k", "512", "--seqlen-q", "512")
    assert "takes its flash backend" in words
    assert "flash_fwd_kernel runs alone" in words


def test_a_causal_mask_over_unequal_lengths_rules_flash_out() -> None:
    words = said("explain", *SDPA, "--gpu", "a100", "--seqlen-k", "512", "--seqlen-q", "1")
    assert "takes its efficient backend" in words
    assert "flash is not taken: is_causal with 1 query and 512 keys" in words


@pytest.mark.parametrize(("dtype", "backend"), [("fp32", "efficient"), ("bf16", "flash")])
def test_predict_says_the_backend_too(dtype: str, backend: str) -> None:
    arguments = (*SDPA, "--dtype", dtype, "--gpu", "a100", "--seqlen-k", "64", "--seqlen-q", "64")
    row = json.loads(attnprof("predict", *arguments, "--format", "json").out)
    assert row["backend"] == backend
    assert bool(row["launches"]) == (backend == "flash")
    assert ("not predicted: those of the efficient" in said("predict", *arguments)) == (backend != "flash")


@pytest.mark.parametrize(
    ("gpu", "head_dims", "alibi", "invariant", "taken"),
    [
        ("a100", (128, None), False, False, "fa2"),
        ("h100", (256, None), False, True, "fa3"),
        ("h100", (128, None), True, False, "fa2"),
        ("b200", (128, None), False, False, "fa4"),
        ("b200", (128, None), False, True, "fa2"),
        ("b200", (128, None), True, False, "fa2"),
        ("b200", (192, None), False, False, "fa2"),
        ("b200", (192, 128), False, False, "fa4"),
        ("b200", (256, None), False, False, "fa4"),
        ("5090", (128, None), False, False, "fa2"),
        ("thor", (128, None), False, False, "fa2"),
    ],
)
def test_vllm_takes(
    gpu: str, head_dims: tuple[int, int | None], alibi: bool, invariant: bool, taken: str
) -> None:
    """As get_flash_attn_version of vLLM 0.33.0."""
    dim, dim_v = head_dims
    call = AttentionCall(
        "vllm_flash_attn", "varlen_fwd", 2, 1, 1024, 8, 8, dim, alibi=alibi, head_dim_v=dim_v
    )
    assert preferred(gpu_by_name(gpu), call, batch_invariant=invariant)[0] == taken


VLLM = ("--library", "vllm_flash_attn", "--entry", "varlen_fwd", "--page-block-size", "16")


def test_vllms_calls_are_never_said_to_be_split_and_never_split() -> None:
    for gpu in ("h100", "a100"):
        words = said("explain", *VLLM, "--seqlen-k", "8192", "--batch", "2", "--gpu", gpu)
        assert "ways along its keys" in words
        assert "never split" not in words


def test_batch_invariant_vllm_asks_for_one_split() -> None:
    words = said("explain", *VLLM, "--seqlen-k", "8192", "--gpu", "h100", "--version", "batch-invariant")
    assert "this call is not split" in words
    words = said("explain", *VLLM, "--seqlen-k", "8192", "--gpu", "b200", "--version", "batch-invariant")
    assert "FA2 FA4 schedules by the shape of the batch, which the batch-invariant mode forbids" in words
