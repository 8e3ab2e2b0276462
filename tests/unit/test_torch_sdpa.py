"""PyTorch's copy by version: what is recorded, what rests on reading, and versions read off kernel names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attnprof.dispatch import predict
from attnprof.dispatch.torch_sdpa import versions as torch_sdpa
from attnprof.dispatch.torch_sdpa.versions import RELEASES, rules_for, torch_versions_of
from attnprof.dispatch.versions import parse_version
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Prediction
from tests.conftest import GOLDEN, golden_rows

H100 = gpu_by_name("H100 SXM5 80GB")
RECORDED = {
    path.name.removesuffix(".jsonl.gz").rpartition("_")[2] for path in GOLDEN.glob("torch_edges_*.jsonl.gz")
}


def sdpa(**fields: Any) -> AttentionCall:
    """A call of the flash backend as F.scaled_dot_product_attention makes it."""
    known = {"batch": 1, "seqlen_q": 1, "seqlen_k": 4096, "num_heads": 32, "num_heads_k": 32, "head_dim": 128}
    return AttentionCall(library="torch", entry="fwd", **{**known, **fields})


def on_h100(version: str, **fields: Any) -> Prediction:
    return predict(sdpa(**fields), H100, version)


def kernel(prediction: Prediction) -> str:
    assert prediction.error is None
    return prediction.launches[0].kernel


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text().splitlines() if line.strip()]


NAMES = [row for row in lines("kernel_names.jsonl") if row["library"] == "pytorch-bundled-flash"]


def named(**wanted: Any) -> list[str]:
    return [row["name"] for row in NAMES if all(row.get(key) == value for key, value in wanted.items())]


def test_every_release_is_recorded() -> None:
    assert {".".join(version.split(".")[:2]) for version in RECORDED} == set(RELEASES)


def test_every_change_is_recorded_on_both_sides() -> None:
    recorded = sorted(map(parse_version, RECORDED))
    for since, _ in torch_sdpa._CHANGES:
        assert any(version[:2] == parse_version(since)[:2] for version in recorded)
        assert recorded[0] < parse_version(since)


def test_the_default_version_is_recorded() -> None:
    assert torch_sdpa.DEFAULT_VERSION in RECORDED


@pytest.mark.parametrize("version", ["2.1.2", "2.16.0", "1.13.1"])
def test_versions_nobody_read_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match="not modelled"):
        rules_for(version)


def test_local_parts_of_a_version_are_ignored() -> None:
    assert rules_for("2.8.0+cu128") is rules_for("2.8.0+cu128")
    assert rules_for("2.8.0+cu128") == rules_for("2.8.0")


def test_2_8_prints_its_names_as_profilers_saw_them() -> None:
    wanted = named(version_hint="torch 2.8.0+cu128", family="fwd")
    assert wanted
    for name in wanted:
        a100 = gpu_by_name("A100-SXM4-80GB")
        got = predict(sdpa(seqlen_q=4096, batch=2, dtype="fp16"), a100, "2.8.0+cu128")
        assert kernel(got) == name


@pytest.mark.parametrize("version", ["2.3.1", "2.4.1", "2.5.1", "2.6.0"])
def test_bert_and_qwen_prefills_launch_as_their_traces_show(version: str) -> None:
    rows = [row for row in lines("observed_launches.jsonl") if row.get("op", "").endswith("_forward")]
    assert {row["model"] for row in rows} == {"bert-small", "Qwen1.5-0.5B-Chat"}
    for row in rows:
        batch, seqlen, heads, head_dim = row["qkv_dims"][0]
        got = on_h100(
            version, batch=batch, seqlen_q=seqlen, seqlen_k=seqlen, num_heads=heads, num_heads_k=heads,
            head_dim=head_dim, causal=row["concrete_inputs"][8] == "True",
        )  # fmt: skip
        (launch,) = got.launches
        assert (launch.kernel, list(launch.grid), list(launch.block), launch.dynamic_smem) == (
            row["kernel"], row["grid"], row["block"], row["smem_bytes"],
        )  # fmt: skip


def test_decode_after_2048_tokens_splits_in_nine_from_2_5_as_seen_on_an_rtx_4080() -> None:
    split, combine = [row for row in lines("observed_launches.jsonl") if "4080" in row["gpu"]]
    call = sdpa(seqlen_k=2049, num_heads=14, num_heads_k=14, head_dim=64, dtype="fp16")
    launches = predict(call, gpu_by_name("GeForce RTX 4080"), "2.5.1").launches
    assert [list(launch.grid) for launch in launches] == [split["grid"], combine["grid"]]


def test_slots_double_in_2_5() -> None:
    assert on_h100("2.4.1", batch=4).num_splits == 1
    assert on_h100("2.5.0", batch=4).num_splits == 2


def test_template_arguments_grow_from_six_to_eight_booleans() -> None:
    counts = {
        version: kernel(on_h100(version, seqlen_q=64)).rpartition("> >,")[2].count(",") + 1
        for version in ("2.2.0", "2.3.0", "2.6.0", "2.7.0", "2.15.0")
    }
    assert counts == {"2.2.0": 6, "2.3.0": 7, "2.6.0": 7, "2.7.0": 8, "2.15.0": 8}


def test_grouped_decode_is_refused_until_2_4() -> None:
    grouped = {"num_heads_k": 8}
    for version in ("2.2.2", "2.3.1"):
        assert (on_h100(version, **grouped).error or "").startswith("q must have shape")
    assert on_h100("2.4.0", **grouped).error is None


@pytest.mark.parametrize(
    ("gpu", "first"),
    [
        ("B200", "2.7.0"),
        ("GeForce RTX 5090", "2.7.0"),
        ("B300", "2.7.0"),
        ("GB10", "2.8.0"),
        ("Jetson AGX Thor", "2.9.0"),
    ],
)
def test_blackwell_is_accepted_from_the_release_that_says_so(gpu: str, first: str) -> None:
    before = RELEASES[RELEASES.index(first.removesuffix(".0")) - 1]
    assert "Ampere" in (predict(sdpa(), gpu_by_name(gpu), before).error or "")
    assert predict(sdpa(), gpu_by_name(gpu), first).error is None


def test_head_dim_buckets_thin_out() -> None:
    assert [224 in rules_for(version).tiles for version in ("2.6.0", "2.7.0")] == [True, False]
    assert [160 in rules_for(version).tiles for version in ("2.10.0", "2.11.0")] == [True, False]


def test_a_paged_packed_call_is_split_by_the_heuristic_from_2_13() -> None:
    call = AttentionCall(
        library="torch", entry="varlen_fwd", batch=1, seqlen_q=4, seqlen_k=4096, num_heads=8, num_heads_k=8,
        head_dim=128, page_block_size=256,
    )  # fmt: skip
    assert "block_table" in (predict(call, H100, "2.11.0").error or "")
    assert predict(call, H100, "2.12.0").num_splits == 1
    assert predict(call, H100, "2.13.0").num_splits == 32


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("torch_[el]*.jsonl.gz")))
def test_the_releases_read_off_a_recorded_name_hold_its_own(name: str) -> None:
    kernels = {
        (launch["kernel"], row["call"]["version"])
        for row in golden_rows(name)
        for launch in row["expect"]["launches"]
    }
    for spelled, version in kernels:
        assert version.rpartition(".")[0] in torch_versions_of(spelled)


@pytest.mark.parametrize(
    ("name", "releases"),
    [
        (named(version_hint="torch 2.8.0+cu128", family="fwd")[0], RELEASES[5:]),
        (named(version_hint="torch 2.6+; nsys demangler")[0], RELEASES[5:]),
        (named(version_hint="vllm-openai image of 2025-07, 7 bools")[0], RELEASES[1:5]),
        (kernel(on_h100("2.2.2")), RELEASES[:1]),
        (kernel(on_h100("2.6.0", head_dim=224)), RELEASES[1:5]),
        (kernel(on_h100("2.8.0", head_dim=160)), RELEASES[5:9]),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, ...", RELEASES[5:]),
        ("pytorch_flash::flash_fwd_splitkv_kernel<...>", RELEASES),
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128", ()),
        ("ampere_sgemm_128x64_tn", ()),
    ],
)
def test_a_name_tells_the_releases_it_can_come_from(name: str, releases: tuple[str, ...]) -> None:
    assert torch_versions_of(name) == releases


def test_a_mangled_symbol_tells_as_much_as_its_demangled_name() -> None:
    traits = "Li128ELi128ELi64ELi4E"
    flags = "Lb0ELb1ELb0ELb0ELb1ELb1ELb0E"
    element = "N7cutlass10bfloat16_tE"
    symbol = (
        f"_ZN13pytorch_flash16flash_fwd_kernelINS_23Flash_fwd_kernel_traitsI{traits}Lb0ELb0E{element}"
        f"NS_19Flash_kernel_traitsI{traits}S3_EEEE{flags}EEvNS_16Flash_fwd_paramsE"
    )
    assert torch_versions_of(symbol) == RELEASES[1:5]
