"""XQA's splits and grids against what FlashInfer's compiled launchers launched (benchmarks/record_xqa.py).

Resting on reading alone: that a server's page table is as wide as its longest context, and which head dims
and pages are refused.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.outcome import outcome
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from tests.conftest import GOLDEN

STEP = AttentionCall("flashinfer", "batch_decode", 8, 1, 4096, 32, 8, 128, page_block_size=64, backend="xqa")
H100 = gpu_by_name("h100")


SM = {"mha": 9, "mha_sm90": 9, "mha_64": 10, "mha_512": 9, "mha_drafts_1": 9, "mha_drafts_8": 10}  # others 12


def call_of(row: dict[str, str]) -> AttentionCall:
    batch, heads_k, room, queries, group, dim = (
        int(row[name]) for name in ("batch", "num_heads_k", "room", "seqlen_q", "group", "head_dim")
    )
    fp8 = row["kernel"].startswith("mha_sm90") or row["kernel"] in ("mha_512", "mha_drafts_5", "mla")
    dtype: Any = "nvfp4" if "nvfp4" in row["kernel"] else "fp8" if fp8 else "bf16"
    call = replace(
        STEP, batch=batch, num_heads=group * heads_k, num_heads_k=heads_k, seqlen_k=room, seqlen_q=queries,
        head_dim=dim, dtype=dtype,
    )  # fmt: skip
    return replace(call, entry="batch_mla", head_dim_v=512) if dim == 576 else call


def gpu_of(row: dict[str, str]) -> Gpu:
    major = 9 if row["kernel"].startswith("mha_sm90") else SM.get(row["kernel"], 12)
    return make_gpu("", major, 0, int(row["sms"]))


@cache
def rows() -> tuple[dict[str, str], ...]:
    with gzip.open(GOLDEN / "flashinfer_xqa_0.7.2.post1.csv.gz", "rt") as lines:
        return tuple(csv.DictReader(lines))


def test_every_recorded_launch_is_predicted() -> None:
    counts, splits = Counter(row["kernel"] for row in rows()), set()
    assert len(counts) == 14
    assert counts.total() == 1980
    for row in rows():
        made = libraries.predict(call_of(row), gpu_of(row))
        (one,) = made.launches
        told = (one.kernel, "/".join(map(str, one.grid)), "/".join(map(str, one.block)))
        assert told == (row["name"], row["grid"], row["block"]), row
        splits.add(made.num_splits)
    assert len(splits) > 20


def test_every_recorded_launch_is_read_back_and_not_claimed() -> None:
    """Its requests, KV heads, splits and keys are among what is said, and TensorRT-LLM's name beside it."""
    for row in rows():
        call, gpu = call_of(row), gpu_of(row)
        (launch,) = libraries.predict(call, gpu).launches
        for facts in (GpuFacts(gpu.num_sms, (gpu.sm_major, 0)), GpuFacts(gpu.num_sms)):
            back = libraries.explain(Observed(launch), facts)
            assert back is not None
            assert "TensorRT-LLM's own" in back.shared
            assert any(
                one.entry == call.entry
                and one.batch in (None, call.batch)
                and one.heads in (None, call.num_heads_k)
                and one.batch_heads in (None, call.batch * call.num_heads_k)
                and call.seqlen_q in one.seqlen_q
                and call.head_dim in one.head_dim
                and one.num_splits == int(row["grid"].split("/")["sm90" in row["kernel"]] if dim else 1)
                and one.has_length(call.seqlen_k)
                for dim in (call.entry != "batch_mla",)
                for one in back.explanations
            ), row


@pytest.mark.parametrize(
    ("grid", "block", "sm"),
    [
        ((17, 8, 17), (128, 1, 2), (9, 0)),  # more splits than 132 SMs have for 17 requests
        ((2, 8, 8), (128, 1, 2), (8, 0)),
        ((2, 8, 8), (128, 1, 4), (9, 0)),
        ((1, 4, 64), (128, 1, 3), (9, 0)),
        ((1, 2, 64), (128, 1, 3), (10, 0)),
        ((4, 2, 3), (384, 1, 1), (12, 0)),
        ((4, 1, 3), (384, 1, 1), (9, 0)),
        ((0, 8, 8), (128, 1, 2), (9, 0)),
    ],
)
def test_launches_that_flashinfer_does_not_make_are_left_to_others(
    grid: tuple[int, int, int], block: tuple[int, int, int], sm: tuple[int, int]
) -> None:
    assert libraries.explain(Observed(KernelLaunch("kernel_mha", grid, block)), GpuFacts(132, sm)) is None


def test_a_kernel_beside_it_is_not_flashinfers() -> None:
    launch = KernelLaunch("kernel_mha", (2, 8, 8), (128, 1, 2))
    assert libraries.explain(Observed(launch), GpuFacts(132, (9, 0))) is not None
    assert libraries.explain(Observed(launch, launch), GpuFacts(132, (9, 0))) is None


def test_an_fp8_cache_takes_the_common_kernel_but_on_hopper() -> None:
    fp8 = replace(STEP, dtype="fp8")
    taken = {sm: libraries.predict(fp8, make_gpu("", sm, 0, 132)).launches[0].block for sm in (9, 10, 12)}
    assert taken == {9: (128, 1, 3), 10: (128, 1, 2), 12: (128, 1, 2)}
    assert libraries.predict(replace(fp8, head_dim=512), H100).launches[0].block == (128, 1, 2)


def test_keys_count_in_whole_pages() -> None:
    assert libraries.predict(replace(STEP, batch=1, num_heads_k=1, seqlen_k=257), H100).num_splits == 2
    assert libraries.predict(replace(STEP, batch=1, num_heads_k=1, seqlen_k=256), H100).num_splits == 1


def test_what_it_does_not_have_is_refused() -> None:
    assert "only supported on SM90" in str(libraries.predict(STEP, gpu_by_name("a100")).error)
    assert "Invalid page_size: 256" in str(libraries.predict(replace(STEP, page_block_size=256), H100).error)
    assert "Invalid head_dim: 72" in str(libraries.predict(replace(STEP, head_dim=72), H100).error)
    wide = replace(STEP, head_dim=512)
    assert "speculative decoding" in str(libraries.predict(replace(wide, seqlen_q=2), H100).error)
    assert "<= 16, got 32" in str(libraries.predict(replace(wide, num_heads_k=1), H100).error)
    assert "SM12x" in str(libraries.predict(replace(STEP, dtype="nvfp4"), H100).error)
    with pytest.raises(UsageError, match="fa2 over an NVFP4 cache"):
        libraries.predict(replace(STEP, dtype="nvfp4", backend=""), H100)
    with pytest.raises(UsageError, match="flash_attn over an NVFP4 cache"):
        libraries.predict(AttentionCall("flash_attn", "fwd", 1, 1, 1, 1, 1, 64, dtype="nvfp4"), H100)


@pytest.mark.parametrize(
    ("head_dim", "group", "seqlen_q", "compiles"),
    [  # as nvcc 13.0 was asked
        (128, 65, 1, False), (128, 64, 1, True), (256, 33, 1, False), (256, 32, 1, True), (64, 128, 1, False),
        (64, 65, 1, False), (64, 64, 1, True), (64, 112, 1, False), (256, 64, 2, True), (512, 16, 1, True),
        (128, 65, 2, False), (128, 64, 2, True),
    ],
)  # fmt: skip
def test_what_does_not_compile_is_refused(head_dim: int, group: int, seqlen_q: int, compiles: bool) -> None:
    call = replace(STEP, num_heads=group, num_heads_k=1, head_dim=head_dim, seqlen_q=seqlen_q)
    error = libraries.predict(call, H100).error
    assert error is None if compiles else error is not None and error.startswith("mha")


def test_a_draft_over_an_fp8_cache_takes_hoppers_kernel_where_its_mask_is_right() -> None:
    draft = replace(STEP, dtype="fp8", seqlen_q=9)
    of = {
        "plain": draft,
        "few rows": replace(draft, seqlen_q=8),
        "window": replace(draft, window=(127, 0)),
        "ragged": replace(draft, seqlens_q=(9, 1, 9, 9, 9, 9, 9, 9)),
        "alike": replace(draft, seqlens_q=(9,) * 8),
    }
    hopper = {name for name, call in of.items() if libraries.predict(call, H100).launches[0].block[2] == 3}
    assert hopper == {"plain", "alike"}


def test_xqas_mla_is_that_of_sm12() -> None:
    latent = replace(
        STEP, entry="batch_mla", num_heads=128, num_heads_k=1, head_dim=576, head_dim_v=512, dtype="fp8"
    )
    gpu = gpu_by_name("5090")
    said = {
        "drafts": str(libraries.predict(replace(latent, seqlen_q=2), gpu).error),
        "hopper": str(libraries.predict(latent, H100).error),
        "heads": str(libraries.predict(replace(latent, num_heads=64), gpu).error),
    }
    assert "q_len_per_request == 1, got 2" in said["drafts"]
    assert "requires SM120a" in said["hopper"]
    assert "head group ratio 128" in said["heads"]


def test_vllms_flashinfer_decodes_with_it_on_hopper() -> None:
    layer = Layer(32, 8, 128, backend="FLASHINFER")
    found = outcome("vllm", None, layer, Step(8, 1, 4096), H100)
    assert found.call is not None
    assert found.call.backend == "xqa"
    assert [one.grid for one in found.prediction.launches] == [(2, 8, 8)]
    over_fp8 = outcome("vllm", None, replace(layer, kv_dtype="fp8"), Step(8, 1, 4096), H100)
    assert [one.grid for one in over_fp8.prediction.launches] == [(1, 2, 64)]
    over_fp4 = outcome("vllm", None, replace(layer, kv_dtype="nvfp4"), Step(8, 1, 4096), gpu_by_name("5090"))
    assert [one.grid for one in over_fp4.prediction.launches] == [(2, 8, 8)]
