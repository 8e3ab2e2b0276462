"""vLLM's backends for sparse MLA, and FlashMLA: from the engine to the grid, or why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.outcome import outcome
from attnprof.gpus import gpu_by_name
from tests.support.command import attnprof

SPARSE = Layer(128, 128, 576, mla=True, sparse=True, index_topk=2048)
DENSE = replace(SPARSE, sparse=False, index_topk=0, backend="FLASHMLA")
FEW = replace(SPARSE, num_heads=16)  # for which Blackwell's list begins with FA4
DECODE = Step(64, 1, 4096, seqlens_k=(4096, 100) * 32)


def made(gpu: str, layer: Layer, step: Step = DECODE, version: str | None = None) -> Any:
    return outcome("vllm", version, layer, step, gpu_by_name(gpu))


def grids(found: Any) -> list[tuple[int, int, int]]:
    return [one.grid for one in found.prediction.launches]


def forced(backend: str, **more: Any) -> Layer:
    return replace(SPARSE, backend=backend, **more)


@pytest.mark.parametrize(
    ("gpu", "layer", "step", "call", "expected"),
    [
        ("h100", SPARSE, DECODE, ("vllm_flash_attn", 64, 1, 2048), [(1, 1, 1), (132, 1, 1), (1088, 4, 1)]),
        ("h100", forced("FLASHMLA_SPARSE"), DECODE, ("flash_mla", 64, 1, 4096), [(128, 1, 1)]),
        (
            "h100", forced("FLASHMLA_SPARSE", kv_dtype="fp8_ds_mla"), DECODE, ("flash_mla", 64, 1, 4096),
            [(1, 1, 1), (2, 1, 66), (64, 1, 16)],
        ),
        (  # fewer than 32 heads: padded to 64, and all tokens one request
            "h100", forced("FLASHMLA_SPARSE", kv_dtype="fp8", num_heads=16), DECODE,
            ("flash_mla", 1, 64, 4096), [(1, 1, 1), (1, 64, 2), (1, 64, 8)],
        ),
        (  # a prompt's: the cache made bf16 again
            "h100", forced("FLASHMLA_SPARSE", kv_dtype="fp8", num_heads=64), Step(2, 3000, 3000),
            ("flash_mla", 2, 3000, 3000), [(6000, 1, 1)],
        ),
        ("b200", SPARSE, DECODE, ("flash_mla", 64, 1, 4096), [(128, 1, 1)]),
        (
            "b200", forced("FLASHMLA_SPARSE", kv_dtype="nvfp4_ds_mla"), DECODE, ("flash_mla", 64, 1, 4096),
            [(1, 1, 1), (1, 148, 1), (1, 148, 1), (64, 1, 16)],
        ),
        (
            "h100", forced("FLASHINFER_MLA_SPARSE_SM90"), DECODE, ("flashinfer", 64, 1, 2048), [(2, 66, 1)],
        ),
        (
            "b200", forced("FLASHINFER_MLA_SPARSE"), DECODE, ("flashinfer", 64, 1, 2048),
            [(2, 1, 64)],
        ),
        (
            "b300", forced("FLASHINFER_MLA_SPARSE", kv_dtype="fp8", num_heads=16), Step(2, 3, 9000),
            ("flashinfer", 6, 1, 2048), [(8, 2, 6)],
        ),
        (
            "b200", replace(FEW, backend="FLASH_ATTN_MLA_SPARSE_FA4"), DECODE, ("flash_attn_4", 64, 1, 2048),
            [(128, 1, 1), (128, 4, 1)],
        ),
        (  # prompts: FlashAttention-4 takes steps of decode alone
            "b200", replace(FEW, num_heads=8, backend="FLASH_ATTN_MLA_SPARSE_FA4"), Step(1, 3000, 3000),
            ("flashinfer", 3000, 1, 2048), [(1, 1, 3000)],
        ),
        ("h100", DENSE, DECODE, ("flash_mla", 64, 1, 4096), [(1, 1, 1), (2, 1, 66), (64, 1, 16)]),
        (
            "h100", replace(DENSE, kv_dtype="fp8"), DECODE, ("flash_mla", 64, 1, 4096),
            [(1, 1, 1), (2, 1, 66), (8192, 1, 1)],
        ),
    ],
)  # fmt: skip
def test_from_the_backend_to_the_grid(
    gpu: str, layer: Layer, step: Step, call: tuple[Any, ...], expected: list[Any]
) -> None:
    found = made(gpu, layer, step)
    reached = found.call
    assert (reached.library, reached.batch, reached.seqlen_q, reached.seqlen_k) == call
    assert reached.num_heads_k == 1
    assert grids(found) == expected


@pytest.mark.parametrize(
    ("gpu", "layer", "queries", "library", "head_dims"),
    [
        ("b200", SPARSE, 1100, "flash_attn_4", (192, 128)),
        ("h100", SPARSE, 300, "vllm_flash_attn", (192, 128)),
        (
            "b200",
            replace(SPARSE, num_heads=64, qk_nope_head_dim=192, v_head_dim=256),
            300,
            "flashinfer",
            (256, 256),
        ),
    ],
)
def test_prompts_with_no_more_keys_than_are_picked_are_attended_densely(
    gpu: str, layer: Layer, queries: int, library: str, head_dims: tuple[int, int]
) -> None:
    """Of more queries than count as decode; with a cached part in a further call."""
    found = made(gpu, layer, Step(2, queries, queries + 500))
    assert (found.call.library, found.call.head_dim, found.call.head_dim_v) == (library, *head_dims)
    assert (found.call.num_heads_k, found.call.causal) == (layer.num_heads, True)
    (cached,) = found.more
    assert (cached.call.seqlen_q, cached.call.seqlen_k, cached.call.causal) == (queries, 500, False)
    assert cached.prediction.launches
    assert made(gpu, layer, Step(2, 100, 600)).call.library != library or gpu == "h100"


def test_tokenspeeds_decode_is_split_by_the_longest_request() -> None:
    layer = replace(DENSE, backend="TOKENSPEED_MLA", kv_dtype="fp8", num_heads=16)
    found = made("b200", layer, Step(4, 1, 4096))
    assert (found.call.library, found.call.dtype, found.library_version) == ("tokenspeed_mla", "fp8", "2.0.3")
    assert grids(found) == [(1, 4, 32), (32, 1, 4)]


def test_each_query_of_a_decode_step_has_at_most_the_keys_picked() -> None:
    assert made("h100", SPARSE).call.seqlens_k == (2048, 100) * 32


@pytest.mark.parametrize(
    ("gpu", "layer", "step", "version", "said"),
    [
        ("5090", forced("FLASHINFER_MLA_SPARSE_SM120"), DECODE, None, "times its kernels"),
        ("b200", SPARSE, Step(2, 4096, 4096), None, "under a mask of the keys picked are not modelled"),
        ("b200", replace(SPARSE, num_heads=32), Step(2, 1100, 3000), None, "under a mask of the keys"),
        ("b200", forced("FLASHINFER_MLA_SPARSE"), DECODE, "0.20.2", "of vLLM 0.20.2 calls is not modelled"),
        ("h100", DENSE, DECODE, "0.10.2", "the FlashMLA that vLLM 0.10.2 ships was not recorded"),
        (
            "h100", forced("FLASHINFER_MLA_SPARSE_SM90", kv_dtype="fp8"), DECODE, None,
            "known for a bf16 cache with rows of 576",
        ),
    ],
)  # fmt: skip
def test_what_is_not_modelled_is_said(gpu: str, layer: Layer, step: Step, version: str, said: str) -> None:
    found = made(gpu, layer, step, version)
    assert found.prediction is None
    assert said in found.not_predicted


def test_the_command_answers_from_the_model_to_the_grid() -> None:
    asked = ("--engine", "vllm", "--model", "deepseek-v3.2", "--gpu", "b200", "--kv-dtype", "fp8_ds_mla")
    done = attnprof("explain", *asked, "--batch", "64", "--seqlen-k", "4096")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    for part in (
        "takes FLASHMLA_SPARSE",
        "148 SMs / 1 query a request",
        "1x148x1",
        "get_mla_metadata",
    ):
        assert part in said


@pytest.mark.parametrize("layer", [replace(SPARSE, kv_dtype="fp8"), replace(DENSE, backend="TRITON_MLA")])
def test_of_prompts_and_decode_together_the_prompts_are_told(layer: Layer) -> None:
    step = Step(3, 1500, 2000, seqlens_q=(1, 1500, 1200), seqlens_k=(1900, 1500, 2000))
    found = made("b200", layer, step)
    assert (found.call.batch, found.call.seqlens_q) == (2, (1500, 1200))
    (cached,) = found.more
    assert (cached.call.batch, cached.call.seqlens_q, cached.call.seqlens_k) == (1, (1200,), (800,))
    (note,) = [one for one in found.notes if one.rule == "not told here"]
    assert note.value == "1 request"
