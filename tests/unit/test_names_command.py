"""attnprof names: what the names of attention kernels state, of a trace or as given."""

from __future__ import annotations

import json

import pytest

from attnprof.dispatch.names.stated_fields import stated_fields
from tests.conftest import TESTS, golden_rows
from tests.support.command import attnprof

B200 = TESTS / "data/traces/torch_b200_vllm_eager_trtllmgen_fmha.json.gz"
H100 = TESTS / "data/traces/torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"
TRTLLM = "fmhaSm100aKernel_QkvE4m3OBfloat16H64PagedKvCausalP16VarSeqQ128Kv128PersistentContext"
CUDNN = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x64x128_4x1x1_kernel0_0"


def test_the_names_of_a_trace_are_read_field_by_field() -> None:
    rows = json.loads(attnprof("names", str(B200), "--format", "json").out)
    (causal,) = [row for row in rows if row["name"] == TRTLLM]
    assert (causal["library"], causal["role"], causal["launches"]) == ("trtllm-gen", "main", 18)
    wanted = {
        "dtype": "fp8", "out_dtype": "bf16", "head_dim": 64, "kv_layout": "paged", "page_size": 16,
        "mask": "causal", "block_m": 128, "block_n": 128, "scheduler": "persistent", "multi_cta": "no",
    }  # fmt: skip
    assert causal["states"].items() >= wanted.items()
    told = " ".join(attnprof("names", str(B200)).out.split())
    assert "mask sliding or" in told


def test_a_template_is_read_with_its_flags() -> None:
    (row,) = json.loads(attnprof("names", str(H100), "--format", "json").out)
    assert row["states"].items() >= {"head_dim": 64, "block_m": 128, "dtype": "bf16"}.items()
    assert row["states"]["Is_causal"] in (True, False)


def test_names_are_given_too_and_what_attends_to_nothing_is_said() -> None:
    done = attnprof("names", "--kernel", CUDNN, "--kernel", "kernel_unified_attention", "--kernel", "gemm_1")
    told = [line.split() for line in done.out.splitlines()]
    assert any("wgmma," in line for line in told)
    assert any({"triton_unified", "nothing"} <= set(line) for line in told)
    assert any(line[:1] == ["gemm_1"] and line[-2:] == ["no", "attention"] for line in told)
    csv = attnprof("names", "--kernel", CUDNN, "--format", "csv").out
    assert "head_dim 128" in csv
    assert CUDNN in csv


def test_a_cut_name_states_what_is_left_of_it() -> None:
    """Never a field that the whole name gives another value; a flag cut away is one not set."""
    for row in golden_rows("kernel_names.jsonl"):
        name = row["name"]
        whole = dict(stated_fields(name))
        for at in range(len(name) - 1, 20, -17):
            for field, value in stated_fields(name[:at]):
                if value is False or field == "phase":  # which follows from a flag
                    continue
                assert field not in whole or str(whole[field]).startswith(str(value)), (name[:at], field)


@pytest.mark.parametrize("arguments", [(str(B200), "--kernel", "x"), (str(TESTS / "nowhere"),)])
def test_what_cannot_be_asked_is_refused(arguments: tuple[str, ...]) -> None:
    assert attnprof("names", *arguments).code == 2


def test_a_trace_without_attention_cannot_tell() -> None:
    done = attnprof("names", str(TESTS / "data/traces/nsys2024.2_nvtx_only_python.sqlite.gz"))
    assert (done.code, "no attention kernel" in done.err) == (3, True)
