"""Traces of AMD GPUs: recognised however they name them, and what is said of kernels not known there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnprof.check.check_run import CheckResult, Verdict, compare
from attnprof.check.observed_shape import ObservedShape
from attnprof.dispatch.libraries import predict
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.runs.run import load

Launch = tuple[str, list[int], list[int]]
# What an MI300X launched in a public trace of vLLM serving gpt-oss, tests/data/traces.
UNIFIED: list[Launch] = [
    ("kernel_unified_attention_2d", [8, 48, 1], [128, 1, 1]),
    ("kernel_unified_attention_3d", [48, 8, 8], [128, 1, 1]),
    ("reduce_segments", [32, 64, 1], [64, 1, 1]),
]
ROCM = {"roctracer_version": 4.1, "hip_runtime_version": 70051831}
MI300X = {"id": 0, "name": "AMD Instinct MI300X", "computeMajor": 9, "computeMinor": 4, "numSms": 304}
BLANK = {**MI300X, "name": ""}
CK = (
    "void ck_tile::kentry<2, ck_tile::FmhaFwdKernel<ck_tile::BlockFmhaPipelineQRKSVSAsync<"
    "ck_tile::TileFmhaShape<ck_tile::sequence<128, 64, 32, 64, 32, 64>, ck_tile::sequence<{}, 1, 1>, "
    "ck_tile::sequence<32, 32, 16> > > > >(X)"
)


def checked(folder: Path, launches: list[Launch], head: dict[str, Any], device: int = 0) -> CheckResult:
    """The check of a torch trace of these launches."""
    events: list[dict[str, Any]] = []
    for number, (kernel, grid, block) in enumerate(launches, 1):
        at = {"ph": "X", "ts": 100 * number, "dur": 1, "pid": 1, "tid": 1}
        placed = {"device": device, "stream": 0, "grid": grid, "block": block}
        events += [
            {**at, "cat": "cuda_runtime", "name": "hipLaunchKernel", "args": {"correlation": number}},
            {**at, "cat": "kernel", "name": kernel, "ts": 100 * number + 5, "dur": 10, "pid": device,
             "args": {**placed, "correlation": number}},
        ]  # fmt: skip
    path = folder / "trace.json"
    path.write_text(json.dumps({"schemaVersion": 1, **head, "traceEvents": events}))
    return load(path).check()


@pytest.mark.parametrize(
    ("head", "device"),
    [
        ({**ROCM, "deviceProperties": [MI300X]}, 0),
        ({**ROCM, "deviceProperties": [{**BLANK, "id": number} for number in range(8)]}, 5),
        ({**ROCM, "deviceProperties": [BLANK]}, 5),
        ({"deviceProperties": [{**BLANK, "warpSize": 64}]}, 0),
        ({"deviceProperties": [{**MI300X, "name": "gfx942:sramecc+:xnack-"}]}, 0),
        ({**ROCM, "deviceProperties": [{**MI300X, "numSms": 0}]}, 0),
        (ROCM, 0),
        ({}, 0),
    ],
)
def test_an_amd_gpu_is_recognised_however_a_trace_names_it(
    tmp_path: Path, head: dict[str, Any], device: int
) -> None:
    whole = checked(tmp_path, UNIFIED, head, device)
    assert set(whole.counts) == {Verdict.EXPLAINED}
    broken = [UNIFIED[0], (*UNIFIED[1][:2], [192, 1, 1]), UNIFIED[2]]
    assert len(checked(tmp_path, broken, head, device).failures) == 1


def test_a_gpu_that_says_it_is_another_ones_is_no_amd_gpu(tmp_path: Path) -> None:
    h100 = {
        "id": 0,
        "name": "NVIDIA H100",
        "computeMajor": 9,
        "computeMinor": 0,
        "numSms": 132,
        "warpSize": 32,
    }
    assert checked(tmp_path, UNIFIED[1:], {"deviceProperties": [h100]}).failures


def test_a_kernel_may_be_named_by_its_descriptor(tmp_path: Path) -> None:
    named = [(f"{kernel}.kd", grid, block) for kernel, grid, block in UNIFIED]
    found = checked(tmp_path, named, {**ROCM, "deviceProperties": [MI300X]})
    assert set(found.counts) == {Verdict.EXPLAINED}


SGLANGS: list[Launch] = [
    ("_fwd_grouped_kernel_stage1", [8, 8, 8], [256, 1, 1]),
    ("_fwd_kernel_stage2", [8, 32, 1], [256, 1, 1]),
]
FLASH = (
    "void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false, cutlass::half_t, "
    "Flash_kernel_traits<128, 128, 64, 4, cutlass::half_t> >, false, true, false, false, true, false, false>"
    "(Flash_fwd_params)"
)


@pytest.mark.parametrize("head", [{**ROCM, "deviceProperties": [MI300X]}, ROCM])
def test_sglangs_decode_has_waves_of_64_there_even_where_no_gpu_is_named(
    tmp_path: Path, head: dict[str, Any]
) -> None:
    assert set(checked(tmp_path, SGLANGS, head).counts) == {Verdict.EXPLAINED}


@pytest.mark.parametrize(
    ("launches", "why"),
    [
        ([(FLASH, [4, 2, 8], [128, 1, 1])], "flash-attn, whose launches are known on NVIDIA GPUs alone"),
        ([("attn_fwd", [16, 20, 2], [256, 1, 1])], "aotriton aotriton_fwd, of which only the name is known"),
        ([("bwd_kernel_dk_dv", [4, 4, 4], [256, 1, 1])], "a backward pass: the forward pass alone"),
    ],
)
def test_what_is_not_known_on_amd_gpus_is_not_called_wrong_and_it_is_said_why(
    tmp_path: Path, launches: list[Launch], why: str
) -> None:
    found = checked(tmp_path, launches, {**ROCM, "deviceProperties": [MI300X]})
    assert set(found.counts) == {Verdict.NOT_MODELLED}
    (said,) = found.details(Verdict.NOT_MODELLED)
    assert why in said


@pytest.mark.parametrize(("waves", "threads", "right"), [(4, 256, True), (2, 128, True), (4, 128, False)])
def test_a_ck_kernels_threads_are_the_waves_that_its_name_states(
    tmp_path: Path, waves: int, threads: int, right: bool
) -> None:
    launch = (CK.format(waves), [28, 8, 1], [threads, 1, 1])
    found = checked(tmp_path, [launch], {**ROCM, "deviceProperties": [MI300X]})
    assert set(found.counts) == {Verdict.EXPLAINED if right else Verdict.UNEXPLAINED}


def test_a_call_that_launched_another_versions_kernel_is_no_match() -> None:
    call = AttentionCall(
        "aiter_paged", "batch_paged", 32, 1, 9000, 64, 8, 64, causal=True, page_block_size=64
    )  # fmt: skip
    older, newer = (predict(call, gpu_by_name("mi300x"), one) for one in ("0.1.7", "0.1.20.post1"))
    for predicted, ran in ((older, newer), (newer, older)):
        signatures = tuple(parse_kernel_name(one.kernel) for one in ran.launches)
        verdict, detail = compare(predicted, ObservedShape(ran.launches, signatures))
        assert verdict is Verdict.WRONG_TEMPLATE
        assert "spell" in detail
        own = ObservedShape(
            predicted.launches, tuple(parse_kernel_name(one.kernel) for one in predicted.launches)
        )
        assert compare(predicted, own) == (Verdict.MATCH, "")
    cut = tuple(replace(one, kernel=one.kernel[:100]) for one in newer.launches)  # as a profiler may write it
    shape = ObservedShape(cut, tuple(parse_kernel_name(one.kernel) for one in cut))
    assert compare(newer, shape)[0] is not Verdict.WRONG_TEMPLATE


def test_composable_kernels_attention_before_ck_tile_is_known_by_name() -> None:
    for name, role in (
        ("kernel_batched_gemm_softmax_gemm_xdl_cshuffle_v1", "main"),
        ("kernel_grouped_gemm_softmax_gemm_xdl_cshuffle_v1", "main"),
        ("kernel_batched_gemm_softmax_gemm_wmma_cshuffle", "main"),
        ("kernel_grouped_multihead_attention_backward_xdl_cshuffle_v2", "backward"),
    ):
        found = parse_kernel_name(f"void ck::{name}<ck::Gridwise<float> >(float const*)")
        assert (found.is_attention, found.library, found.role) == (True, "ck", role)
    other = parse_kernel_name("void ck::kernel_batched_gemm_xdl_cshuffle_v1<ck::Gridwise<float> >(float*)")
    assert not other.is_attention
