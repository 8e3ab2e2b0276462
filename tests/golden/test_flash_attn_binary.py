"""The kernels that a compiled flash_attn holds, against the names that are predicted."""

from __future__ import annotations

import gzip
import json
import re

from attnprof.analysis.kernel_resources import resources_of
from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from benchmarks.flash_attn_kernels import as_predicted, predicted_kernels
from benchmarks.gpu_evidence.calls import matrix
from benchmarks.gpu_evidence.vllm import as_vllm
from tests.conftest import TESTS, golden_rows

BINARY = TESTS / "data" / "golden" / "fa2_kernels_2.8.3.post2_sm90.jsonl.gz"


def in_the_binary() -> dict[str, dict[str, int]]:
    with gzip.open(BINARY, "rt") as file:
        return {row.pop("kernel"): row for row in map(json.loads, file)}


def test_every_predicted_kernel_is_in_the_binary() -> None:
    there, predicted = set(in_the_binary()), predicted_kernels("2.8.3.post2", [128], ["bf16"])
    assert len(predicted) > 40
    assert predicted <= there
    assert {name.partition("<")[0] for name in predicted} == {name.partition("<")[0] for name in there}


def test_a_name_that_is_spelled_otherwise_is_not_found() -> None:
    there = set(in_the_binary())
    predicted = predicted_kernels("2.8.3.post2", [128], ["bf16"])
    spellings = (("bfloat16_t", "half_t"), ("flash::", ""), ("<128, ", "<96, "), (", 4, ", ", 8, "))
    for spelled, otherwise in spellings:
        assert not {name.replace(spelled, otherwise) for name in predicted if spelled in name} & there
    # Kernels of another version: before 2.8.0 ALiBi left even_MN on, before 2.6.0 there was no Is_softcap.
    assert not predicted_kernels("2.5.9.post1", [128], ["bf16"]) & there


def test_the_return_type_is_all_that_a_demangled_name_has_more() -> None:
    assert as_predicted("void flash::kernel<1>(flash::Params)") == "flash::kernel<1>(flash::Params)"


def test_every_kernel_predicted_of_vllms_evidence_is_in_its_wheel() -> None:
    gpu = gpu_by_name("h100")
    predictions = [predict(call, gpu, "fa3") for call in as_vllm(matrix(1000, "vllm_flash_attn", seed=5))]
    assert not any(prediction.error for prediction in predictions)
    predicted = {launch.kernel for prediction in predictions for launch in prediction.launches}
    # The table is read from the wheel's binaries, without what only plans: that one was seen to be launched,
    # and the symbols of the wheel have it for 1, 2, 4, 8, 16 and 32 warps.
    warps = re.compile(r"(?<=prepare_varlen_num_blocks_kernel<)(1|2|4|8|16|32)(?=,)")
    plans = {kernel for kernel in predicted if warps.search(kernel)}
    rows = golden_rows("vllm_flash_attn_wheel_0.33.0.jsonl.gz")
    launched = {warps.sub("", each["kernel"]) for row in rows for each in row["expect"]["launches"]}
    assert plans
    assert {warps.sub("", kernel) for kernel in plans} <= launched
    main = predicted - plans
    assert len(main) > 200
    assert [kernel for kernel in main if not resources_of(kernel, gpu, "vllm_flash_attn", "fa3")] == []
    # An A100's kernels are another binary's.
    assert not resources_of(next(iter(main)), gpu_by_name("a100"), "vllm_flash_attn", "fa3")
