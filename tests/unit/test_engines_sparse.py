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
        ("b200", forced("FLASHINFER_MLA_SPARSE"), DECODE, None, "the known table of them lacks"),
        ("b200", FEW, DECODE, None, "over gathered keys, which were not"),
        ("5090", forced("FLASHINFER_MLA_SPARSE_SM120"), DECODE, None, "built when first called"),
        ("b200", SPARSE, Step(2, 900, 900), None, "are attended densely where all ranks' heads fit"),
        ("h100", forced("FLASHMLA_SPARSE"), DECODE, "0.20.2", "of vLLM 0.20.2 calls is not modelled"),
        ("h100", DENSE, DECODE, "0.20.2", "the FlashMLA that vLLM 0.20.2 ships was not recorded"),
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
        "148 SMs / 1 queries a request",
        "1x148x1",
        "get_mla_metadata",
    ):
        assert part in said
