"""The kernels that released packages hold: no attention kernel is missed, none other is taken for one."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from typing import Any

import pytest

from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.symbols import own_name
from tests.conftest import GOLDEN, golden_rows

CENSUS = golden_rows("kernel_census.jsonl.gz")
PACKAGES = sorted({row["package"] for row in CENSUS})
# What a file is for, whatever its kernels are called: neither label nor parser decided this.
ATTENTION_FILES = re.compile(
    r"_vllm_fa[23]_C|_flashmla(?:_extension)?_C|^flash_ops|^flashmla_ops|^infllm_ops|/fmha_v3_(?:fwd|bwd)|/mla$|/pa$"
    r"|^flash_attn\.cute"
)
BESIDE_ATTENTION = re.compile(r"permute_(?:wv|q_b)_proj_kernel")  # projections fused into FlashMLA's prefill
OTHER_FILES = re.compile(r"_moe_C|_qutlass_C|libtorch_cuda_linalg|libtorch_nvshmem|/fmoe|gemm$|/topksoftmax")
NAMES_2026 = golden_rows("kernel_names_2026.jsonl")


def kind_of(name: str) -> str:
    signature = parse_kernel_name(name)
    if signature.role in ("scheduler", "metadata"):
        return "planning"
    if signature.family == "linear_attention":
        return "linear"
    return "attention" if signature.is_attention else "other"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_kernel_of_a_package_is_told_for_what_it_is(package: str) -> None:
    rows = [row for row in CENSUS if row["package"] == package]
    told = [(row["where"], row["name"][:90]) for row in rows if kind_of(row["name"]) != row["kind"]]
    assert rows
    assert told == []


@pytest.mark.parametrize("package", PACKAGES)
def test_attention_kernels_are_named_by_library_and_role(package: str) -> None:
    rows = [row for row in CENSUS if row["package"] == package and row["kind"] != "other"]
    signatures = [(row, parse_kernel_name(row["name"])) for row in rows]
    wrong = [
        row["name"][:90] for row, s in signatures if (s.library, s.role) != (row["library"], row["role"])
    ]
    assert wrong == []
    assert [row["name"] for row, s in signatures if not s.family or len(s.kernel) > 100] == []


def test_a_file_of_attention_kernels_holds_no_other_and_other_files_hold_none() -> None:
    found = defaultdict(set)
    for row in CENSUS:
        kind = kind_of(row["name"])
        if ATTENTION_FILES.search(row["where"]) and not BESIDE_ATTENTION.search(row["name"]):
            found["attention files"].add(kind)
        if OTHER_FILES.search(row["where"]):
            found["other files"].add(kind)
    assert found == {"attention files": {"attention", "planning"}, "other files": {"other"}}


@pytest.mark.parametrize("row", NAMES_2026, ids=lambda row: row["what"])
def test_names_seen_in_2026(row: dict[str, Any]) -> None:
    signature = parse_kernel_name(row["name"])
    assert signature.is_attention is row["attention"]
    if row["attention"]:
        assert signature.library
        assert signature.role in ("main", "combine", "backward")


def trtllm_names() -> list[str]:
    with gzip.open(GOLDEN / "trtllm_gen_forms_0.6.13.txt.gz", "rt") as lines:
        return lines.read().split()


def test_every_form_of_a_trtllm_gen_name_is_read_in_full() -> None:
    elements = {"Bfloat16": "bf16", "Fp16": "fp16", "E4m3": "fp8", "E2m1": "nvfp4", "Int8": "int8"}
    names = trtllm_names()
    assert len(names) == 1400
    for name in names:
        signature = parse_kernel_name(name)
        stated = dict(signature.stated)
        assert stated["dtype"] == next(
            ours for theirs, ours in elements.items() if re.search(rf"_Q(?:kv|k)?{theirs}", name)
        )
        assert f"Q{stated['block_m']}Kv{stated['block_n']}" in name
        assert f"H{stated['head_dim']}" in name or f"HQk{stated['head_dim']}HV{stated['head_dim_v']}" in name
        assert stated["page_size"] is None or f"P{stated['page_size']}" in name
        assert (stated["multi_cta"] == "no") == ("MultiCtasKv" not in name)
        assert stated["scheduler"].capitalize() in name
        assert ("Causal" in name) == (stated["mask"] in ("causal", "sliding or chunked"))
        assert stated["phase"] == ("decode" if name.endswith("ForGen") else "prefill")
        assert signature.family == f"trtllm_gen_{stated['phase']}"
        assert len(signature.kernel) < 45


STATED = [
    ("cuDNN fprop", {"arch": 90, "direction": "fprop", "block_m": 64, "block_n": 128, "head_dim": 128}),
    ("aiter mla", {"q_bits": 16, "kv_bits": 16, "heads": 16, "persistent": True}),
    ("aiter pa", {"dtype": "bf16", "kv_dtype": "pertokenFp8", "group_size": 8}),
    ("aiter asm fwd", {"head_dim": 128, "dtype": "bf16", "causal": True, "varlen": True}),
    ("vLLM FA4 (renamed module)", {"arch": 100}),
    ("CUTLASS MLA sm100", {"block_m": 128, "head_dim_v": 512, "head_dim": 576, "dtype": "bf16"}),
    ("FlashInfer decode", {"head_dim": 128, "group_size": 8, "alibi": False}),
    ("FlashInfer decode mangled", {"head_dim": 64, "group_size": 1}),
    ("mem-eff", {"dtype": "f16", "block_m": 64, "block_n": 128, "arch": 80}),
]


@pytest.mark.parametrize(("what", "fields"), STATED)
def test_what_a_name_states_is_read_out(what: str, fields: dict[str, Any]) -> None:
    name = next(row["name"] for row in NAMES_2026 if row["what"] == what)
    stated = dict(parse_kernel_name(name).stated)
    assert {field: stated.get(field) for field in fields} == fields


def test_composable_kernels_state_their_tile_and_element() -> None:
    name = next(r["name"] for r in golden_rows("kernel_names.jsonl") if r["family"] == "rocm_prefill")
    stated = dict(parse_kernel_name(name).stated)
    tile = {"block_m": 128, "block_n": 128, "head_dim_v": 128}
    assert stated == {**tile, "waves": 4, "dtype": "bf16"}


@pytest.mark.parametrize(
    ("symbol", "demangled"),
    [
        (
            "_ZN5flash16flash_fwd_kernelI23Flash_fwd_kernel_traitsILi128ELi128ELi64ELi4ELb0ELb0EN7cutlass1",
            "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false>>(P)",
        ),
        (
            "_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90INS1_20Collecti",
            "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<float> > >(P)",
        ),
        (
            "_ZN7ck_tile6kentryILi2ENS_13FmhaFwdKernelINS_27BlockFmhaPipelineQRKSVSAsyncIv",
            "void ck_tile::kentry<2, ck_tile::FmhaFwdKernel<ck_tile::BlockFmhaPipelineQRKSVSAsync<x> > >(P)",
        ),
        (
            "_ZN50_GLOBAL__N__8f3a1c2d_10_fmha_cu_0000000000000000000011attn_kernelIfEEvv",
            "void (anonymous namespace)::attn_kernel<float>()",
        ),
    ],
)
def test_a_symbol_and_its_demangled_form_have_one_own_name(symbol: str, demangled: str) -> None:
    # Inside a wrapper a symbol abbreviates the namespace.
    assert own_name(symbol).rpartition("::")[2] == own_name(demangled).rpartition("::")[2]


@pytest.mark.parametrize(
    "name",
    [
        "void flashinfer::AppendPagedKVCacheDecodeKernel<128u, 8u>(P)",
        "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>(P)",
        "void vllm::concat_and_cache_mla_kernel<__nv_bfloat16>(P)",
        "reshape_and_cache_kernel_flash",
        "triton_red_fused__scaled_dot_product_efficient_attention_mean_3",
        "void ck_tile::kentry<2, ck_tile::GemmKernel<ck_tile::GemmPipeline<float> > >(P)",
        "_fused_attention_gate_kernel",
        "sm90_fp8_mqa_logits",
    ],
)
def test_what_only_stands_beside_attention_is_not_taken_for_it(name: str) -> None:
    assert not parse_kernel_name(name).is_attention
