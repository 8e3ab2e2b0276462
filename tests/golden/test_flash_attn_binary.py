"""The kernels that a compiled flash_attn holds, against the names that are predicted."""

from __future__ import annotations

import gzip
import json

from benchmarks.flash_attn_kernels import as_predicted, predicted_kernels
from tests.conftest import TESTS

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
