"""Every kernel name seen in the wild is recognised for what it is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprof.dispatch.names.families import FAMILIES, Family, family_of
from attnprof.dispatch.names.kernel_names import parse_kernel_name, short_name
from tests.conftest import golden_rows

NAMES = golden_rows("kernel_names.jsonl")
# vLLM's fork launches kernels of the same names; no name tells them apart.
SAME_NAMES = {"vllm-flash-attn": "flash-attn"}


@pytest.mark.parametrize("row", NAMES, ids=[f"{row['family']}-{n}" for n, row in enumerate(NAMES)])
def test_classifies_library_and_family(row: dict[str, Any]) -> None:
    signature = parse_kernel_name(row["name"])
    assert signature.family == row["family"]
    if row["family"] != "not_attention":
        assert signature.library == SAME_NAMES.get(row["library"], row["library"])
    else:
        assert not signature.is_attention


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in NAMES
        if row["family"] in ("fwd", "fwd_splitkv", "fwd_splitkv_combine") and not row.get("truncated")
    ],
    ids=lambda row: row["name"][:60],
)
def test_reads_the_template_fields_of_flash_attention_2(row: dict[str, Any]) -> None:
    signature = parse_kernel_name(row["name"])
    if "<" not in row["name"] and not row["name"].startswith("_Z"):
        assert signature.head_dim is None
        return
    assert signature.head_dim in (64, 128, 256)
    assert signature.block_m in (64, 128)
    assert signature.warps == 4
    assert signature.dtype in ("fp16", "bf16")
    assert signature.flags


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.library}-{family.name}")
@given(st.data())
def test_no_name_that_a_row_matches_is_passed_over(family: Family, data: st.DataObject) -> None:
    name = data.draw(st.from_regex(family.pattern.compiled))
    assert not family.matches(name) or family_of(name) is not None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (
            "std::enable_if<(((8)>(0)))&&vllm::_typeConvert<c10::BFloat16>::exists, void>::type "
            "vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>(c10::BFloat16*, long)",
            "fused_add_rms_norm_kernel",
        ),
        (
            "void at::native::<unnamed>::CatArrayBatchedCopy<at::native::<unnamed>::OpaqueType<4>>(T1 *)",
            "CatArrayBatchedCopy",
        ),
        (
            "void (anonymous namespace)::elementwise_kernel_with_index<int, at::x()::{lambda()#1}>(int)",
            "elementwise_kernel_with_index",
        ),
        ("std::enable_if<cut", "enable_if"),
    ],
)
def test_other_kernels_are_called_by_their_functions(name: str, short: str) -> None:
    assert short_name(name) == short
