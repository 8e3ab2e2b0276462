"""Exact occupancy: registers as released binaries state them, and NVIDIA's own arithmetic from there."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from attnprof.analysis import kernel_resources
from attnprof.analysis.kernel_resources import Build, builds, resources_of, runs_on, template_key
from attnprof.analysis.sm_fill import sm_fill
from attnprof.dispatch.libraries import predict
from attnprof.dispatch.occupancy import blocks_by_registers, blocks_by_smem
from attnprof.gpus import gpu_by_name, make_gpu, resident_limits
from attnprof.model import AttentionCall, KernelLaunch
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

SQUARE = AttentionCall("torch", "fwd", 4, 1024, 1024, 32, 32, 128, causal=True)
H100 = gpu_by_name("h100")


def test_blocks_per_sm_are_those_of_nvidias_calculator() -> None:
    with gzip.open(GOLDEN / "cuda_occupancy_13.0.csv.gz", "rt") as lines:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(lines)]
    assert len(rows) > 1900
    wrong = []
    for row in rows:
        gpu = make_gpu("", row["sm_major"], row["sm_minor"], 1)
        threads, blocks = resident_limits(gpu)
        warps = -(-row["threads"] // 32)
        told = min(
            threads // 32 // warps, blocks, blocks_by_smem(row["smem"], gpu),
            blocks_by_registers(row["registers"], row["threads"]),
        )  # fmt: skip
        if row["smem"] > gpu.smem_per_block_optin:
            told = 0
        if told != row["blocks"]:
            wrong.append((row, told))
    assert wrong == []


def test_the_table_agrees_with_what_cuobjdump_said_of_another_reading() -> None:
    with gzip.open(GOLDEN / "fa2_kernels_2.8.3.post2_sm90.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        found = resources_of(row["kernel"], H100, "flash_attn", "2.8.3.post2")
        assert found is not None
        reserved = 1024 if row["static_smem"] >= 1024 else 0
        assert (found.registers, found.static_smem) == (row["registers"], row["static_smem"] - reserved)


def launched(version: str) -> Iterator[tuple[str, Any]]:
    """Kernels that torch's wheel was seen to launch for the rows of its golden file, with their GPUs."""
    with gzip.open(GOLDEN / f"torch_launches_{version}.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            gpu = row["call"]["device"]
            for launch in row["expect"]["launches"]:
                yield launch["kernel"], gpu


@pytest.mark.parametrize("version", ["2.10.0", "2.11.0", "2.13.0", "2.15.0"])
def test_every_kernel_that_a_wheel_launches_is_in_its_table(version: str) -> None:
    # sm 7.5 is left out: FlashAttention-2 is empty there.
    kernels = {
        (kernel, gpu["sm_major"], gpu["sm_minor"])
        for kernel, gpu in launched(version)
        if gpu["sm_major"] >= 8
    }
    assert len(kernels) > 100
    absent = [
        (kernel, major, minor)
        for kernel, major, minor in kernels
        if resources_of(kernel, make_gpu("", major, minor, 1), "torch", version) is None
    ]
    assert absent == []


@pytest.mark.parametrize(
    ("archs", "sm", "runs"),
    [
        (("sm_80", "sm_86", "sm_90"), (8, 9), "sm_86"),
        (("sm_80", "sm_90"), (8, 7), None),
        (("sm_90a",), (9, 0), "sm_90a"),
        (("sm_80", "sm_90"), (10, 0), None),
        (("sm_100", "sm_120"), (10, 3), "sm_100"),
        (("sm_100", "sm_120"), (12, 1), "sm_120"),
        (("sm_100a",), (10, 3), None),
    ],
)
def test_a_gpu_runs_the_code_of_its_own_major_number(
    archs: tuple[str, ...], sm: tuple[int, int], runs: str | None
) -> None:
    assert runs_on(archs, sm) == runs


def test_registers_make_what_fits_exact_and_only_where_the_build_is_known() -> None:
    launch = predict(SQUARE, H100, "2.13.0").launches[0]
    fill = sm_fill(launch, H100, "torch", "2.13.0")
    assert (fill.exact, fill.registers, fill.per_sm, fill.limited_by) == (True, 255, 2, "registers")
    assert "torch 2.13.0+cu130" in fill.source
    assert sm_fill(launch, H100, "torch", "2.13.0+cu130") == fill
    for library, version in (
        ("torch", "2.13.0+cu126"),
        ("torch", "2.9.0"),
        ("flash_attn", "2.8.3"),
        ("", ""),
    ):
        other = sm_fill(launch, H100, library, version)
        assert (other.exact, other.registers, other.source) == (False, None, "")
    volta = make_gpu("", 7, 0, 80)
    assert not sm_fill(launch, volta, "torch", "2.13.0").exact


def test_other_registers_give_another_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim broken: were the binary another, the count would be another."""
    launch = predict(replace(SQUARE, head_dim=64), H100, "2.13.0").launches[0]
    true = sm_fill(launch, H100, "torch", "2.13.0")
    key = template_key(launch.kernel)
    assert key is not None
    for registers, per_sm in ((128, 4), (168, 3), (255, 2), (64, 4)):
        made_up = Build("torch", ("2.13.0",), "", "made up", ("sm_90",), {key: ((registers, 0),)})
        monkeypatch.setattr(kernel_resources, "builds", lambda made_up=made_up: (made_up,))
        resources_of.cache_clear()
        fill = sm_fill(launch, H100, "torch", "2.13.0")
        assert (fill.per_sm, fill.registers, fill.exact) == (per_sm, registers, True)
        assert fill.slots == per_sm * 132
    resources_of.cache_clear()
    assert true.per_sm == 2


def test_where_shared_memory_is_not_known_only_a_single_block_is_exact() -> None:
    build = next(each for each in builds() if each.source.startswith("vllm 0.33.0, _vllm_fa3_C"))
    assert build.archs == ("sm_90a",)
    assert sum(key.startswith("FlashAttnFwdSm90 ") for key in build.kernels) > 900
    combine = (
        "void cutlass::device_kernel<flash::FlashAttnFwdCombine<cute::tuple<cute::C<8>, cute::C<128> >, 5, "
        "256, 1, false, true, cutlass::bfloat16_t, float, cutlass::arch::Sm90> >(Params)"
    )
    fill = sm_fill(KernelLaunch(combine, (4, 1, 1), (256, 1, 1)), H100, "vllm_flash_attn", "auto")
    assert fill.registers is not None
    assert not fill.exact
    known = sm_fill(KernelLaunch(combine, (4, 1, 1), (256, 1, 1), 20480), H100, "vllm_flash_attn", "auto")
    assert known.exact


def test_registers_of_a_gpu_are_held_against_the_table() -> None:
    from benchmarks.gpu_evidence.occupancy import against_table

    launch = predict(SQUARE, H100, "2.13.0").launches[0]
    seen = {"kernel": launch.kernel, "grid": [8, 4, 32], "block": [128, 1, 1], "shared memory": 65536}
    for registers in (255, 254):
        row = against_table({**seen, "registers per thread": registers}, H100, "torch", "2.13.0+cu130")
        assert (row["registers"], row["registers_in_table"], row["exact"]) == (registers, 255, True)
    unknown = against_table({**seen, "registers per thread": 255}, H100, "torch", "2.13.0+cpu")
    assert unknown["registers_in_table"] is None


def test_each_spelling_of_a_kernel_is_one_template() -> None:
    launch = predict(SQUARE, H100, "2.13.0").launches[0]
    as_nsys = launch.kernel.replace("<128,", "<(int)128,").replace("false", "(bool)0").replace(
        "true", "(bool)1"
    )  # fmt: skip
    assert template_key(as_nsys) == template_key(launch.kernel) is not None
    assert template_key("void at::native::vectorized_elementwise_kernel<4>(int)") is None


def test_explain_and_predict_say_which_it_is() -> None:
    call = ("--library", "torch", "--gpu", "a100", "--seqlen-q", "1024", "--seqlen-k", "1024")
    heads = ("--heads", "32", "--kv-heads", "32")
    exact = attnprof("explain", *call, *heads, "--version", "2.13.0")
    assert exact.code == 0, exact.err
    words = " ".join(exact.out.split())
    assert "registers (255 a thread), shared memory and threads, as read in torch 2.13.0+cu130" in words
    assert "≤" not in exact.out.partition("Launches")[2].partition("note")[0]
    bound = attnprof("explain", *call, *heads, "--version", "2.9.0")
    assert bound.code == 0, bound.err
    assert "≤ per SM: what threads and shared memory admit" in " ".join(bound.out.split())
    told = attnprof("predict", *call, *heads, "--version", "2.13.0")
    assert "2 per SM (255 registers a thread)" in " ".join(told.out.split())


def test_every_kernel_that_vllms_wheel_launches_where_it_has_code_is_in_the_table() -> None:
    """Of FlashAttention-3 on Hopper, and of FlashAttention-2 on sm 8.x: its wheel has code for no other."""
    with gzip.open(GOLDEN / "vllm_flash_attn_wheel_0.33.0.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    known, absent = 0, []
    for row in rows:
        device = row["call"]["device"]
        gpu = make_gpu("", device["sm_major"], device["sm_minor"], 1)
        for launch in row["expect"]["launches"]:
            kernel = launch["kernel"]
            hopper = "FlashAttnFwdSm90" in kernel and gpu.sm_major == 9
            if not (hopper or ("flash_fwd" in kernel and gpu.sm_major == 8)):
                continue
            known += 1
            found = resources_of(kernel, gpu, "vllm_flash_attn", "auto")
            if found is None or not 24 < found.registers <= 255:
                absent.append(kernel)
    assert known > 300
    assert absent == []


def test_every_kernel_of_attention_that_sglangs_copy_launches_is_in_the_table() -> None:
    seen = set()
    for row in golden_rows("sglang_fa3_0.4.10.jsonl.gz"):
        launched = {launch["kernel"] for launch in row["expect"]["launches"]}
        seen |= {kernel for kernel in launched if "prepare_varlen" not in kernel}
    found = {kernel: resources_of(kernel, H100, "flash_attn_3", "sglang-kernel-0.4.10") for kernel in seen}
    assert len(seen) > 50
    assert [kernel for kernel, stated in found.items() if stated is None] == []
    assert {stated.source for stated in found.values() if stated} == {
        "sglang-kernel 0.4.10, flash_ops.abi3.so of the PyPI wheel"
    }
    # Upstream's own build is another binary, and was not read.
    assert not resources_of(next(iter(seen)), H100, "flash_attn_3", "3.0.0")


def test_vllms_flash_attention_3_is_exactly_one_block_per_sm() -> None:
    call = AttentionCall(
        "vllm_flash_attn", "varlen_fwd", 8, 1, 4096, 28, 4, 128, page_block_size=16, total_q=8
    )
    launches = predict(call, H100).launches
    main = next(launch for launch in launches if "FlashAttnFwdSm90" in launch.kernel)
    fill = sm_fill(main, H100, "vllm_flash_attn", "auto")
    assert (fill.exact, fill.per_sm, fill.limited_by) == (True, 1, "registers")
