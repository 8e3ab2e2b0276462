"""vLLM's and SGLang's choice of a backend against the selectors of their released wheels, over every row."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import pytest

from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.sglang import engine as sglang
from attnprof.dispatch.engines.sglang.selector import deterministic as deterministic_fallback
from attnprof.dispatch.engines.vllm import old_mla, old_selector, rocm
from attnprof.dispatch.engines.vllm.conditions import reasons
from attnprof.dispatch.engines.vllm.engine import VERSIONS, version_of
from attnprof.dispatch.engines.vllm.mla_prefill import prefill_backend, prefill_flash_attention
from attnprof.dispatch.engines.vllm.selector import priorities
from attnprof.dispatch.vllm_flash_attn.versions import predict
from attnprof.errors import UsageError
from attnprof.gpus import make_gpu
from attnprof.model import AttentionCall, KernelLaunch
from tests.conftest import GOLDEN, golden_rows
from tests.support.flash_attn3 import recorded_call

LISTS = ("0.33.0", "0.20.2")
DECODE, PREFILL = Step(4, 1, 1024), Step(4, 128, 1024)


def rows(name: str) -> list[dict[str, str]]:
    with gzip.open(GOLDEN / name, "rt") as lines:
        return list(csv.DictReader(lines))


def layer_of(row: dict[str, str]) -> Layer:
    number = {name: int(text) for name, text in row.items() if text.isdigit()}
    return Layer(
        number["num_heads"], number["num_heads_k"], number["head_dim"], row["dtype"], row["kv_dtype"],
        number.get("block_size"), bool(number["sinks"]), bool(number["mla"]), bool(number["sparse"]),
        bool(number["mm_prefix"]), bool(number["per_head_scales"]), row["attn_type"],
        1024 if number["window"] else None, bool(number["non_causal"]), bool(number["batch_invariant"]),
        bool(number["alibi"]), 50.0 if number["softcap"] else 0.0, number["nope"], number["rope"],
        number["v_dim"], number["topk"], number["fa_asked"] or None,
    )  # fmt: skip


def sm_of(row: dict[str, str]) -> tuple[int, int]:
    major, minor = row["sm"].split(".")
    return int(major), int(minor)


@pytest.mark.parametrize("version", LISTS)
def test_every_reason_of_every_backend_and_the_choice_are_upstreams(version: str) -> None:
    recorded, known = rows(f"vllm_backends_{version}.csv.gz"), version_of(version)
    taken: Counter[str] = Counter()
    wrong = []
    for row in recorded:
        layer, sm = layer_of(row), sm_of(row)
        listed = priorities(layer, sm, newest=known.newest)
        ruled_out = {each.name: reasons(each, layer, sm, checks_window=known.newest) for each in listed}
        ours = " | ".join(f"{name}: {'; '.join(why)}" for name, why in ruled_out.items() if why)
        choice = known.choose(layer, sm)
        taken[choice.backend or "none"] += 1
        if (ours, choice.backend or "") != (row["reasons"], row["backend"]):
            wrong.append((row, ours, choice.backend))
    assert wrong == []
    assert len(recorded) == 6000
    assert len(taken) >= 10, taken


@pytest.mark.parametrize("version", LISTS)
def test_the_flash_attention_version_is_what_its_implementation_settles_on(version: str) -> None:
    rules, seen = version_of(version).rules, set()
    recorded = [row for row in rows(f"vllm_backends_{version}.csv.gz") if row["backend"] == "FLASH_ATTN"]
    for row in recorded:
        layer, sm = layer_of(row), sm_of(row)
        refusal = rules.flash_refusal(layer, sm)
        ours = f"refused: {refusal}" if refusal else str(rules.flash_version(layer, sm).version or "")
        assert ours == row["fa"], row
        seen.add(row["fa"])
    assert seen >= {"2", "3", "4"}


@pytest.mark.parametrize("version", LISTS)
def test_flashinfers_kernels_are_those_its_builder_chooses(version: str) -> None:
    rules, seen = version_of(version).rules, set()
    recorded = [row for row in rows(f"vllm_backends_{version}.csv.gz") if row["backend"] == "FLASHINFER"]
    for row in recorded:
        layer, sm = layer_of(row), sm_of(row)
        ours = rules.flashinfer(layer, DECODE, sm)[0], rules.flashinfer(layer, PREFILL, sm)[1]
        assert ours == (row["decode"], row["prefill"]), row
        seen.add(ours)
    assert len(seen) >= 3


@pytest.mark.parametrize(("version", "count"), [("0.33.0", 2006), ("0.20.2", 2011)])
def test_every_reason_and_choice_on_amd_gpus_is_upstreams(version: str, count: int) -> None:
    recorded, taken = rows(f"vllm_rocm_backends_{version}.csv.gz"), set()
    newest = version_of(version).newest
    for row in recorded:
        layer = replace(layer_of(row), aiter=row["aiter"] == "1")
        sm = {"gfx90a": (9, 0), "gfx942": (9, 4), "gfx950": (9, 5)}[row["arch"]]
        listed = rocm.priorities(layer, sm, newest=newest)
        ruled_out = {each.name: reasons(each, layer, sm, checks_window=newest) for each in listed}
        ours = " | ".join(f"{name}: {'; '.join(why)}" for name, why in ruled_out.items() if why)
        choice = rocm.choose(layer, sm, "an MI300X", newest=newest)
        told = " | ".join(one for one in row["reasons"].split(" | ") if not one.startswith("TURBOQUANT"))
        assert (ours, choice.backend or "") == (told, row["backend"]), row
        taken.add(choice.backend)
    assert len(recorded) == count
    assert len(taken) >= 7, taken


def test_the_chain_of_0_10_ends_where_upstreams_does() -> None:
    recorded = rows("vllm_backends_0.10.2.csv.gz")
    taken: Counter[str] = Counter()
    for row in recorded:
        layer, sm = layer_of(row | {"batch_invariant": "0"}), sm_of(row)
        backend = old_selector.choose(layer, sm).backend
        assert backend is not None
        assert old_selector.CLASSES[backend] == row["backend"], row
        if backend == "FLASH_ATTN":
            assert str(old_selector.flash_attn_version(layer, sm).version or "") == row["fa"], row
        taken[backend] += 1
    assert len(recorded) == 4264
    assert len(taken) == len(old_selector.CLASSES)


def test_the_pages_and_the_backend_that_0_10_sets_for_mla_are_upstreams() -> None:
    recorded = rows("vllm_mla_pages_0.10.2.csv.gz")
    for row in recorded:
        layer = Layer(
            128, 1, 576, mla=True, block_size=int(row["given"] or 0) or None, backend=row["asked"] or None
        )
        layer = old_mla.configured(layer, sm_of(row))
        taken = old_selector.choose(layer, sm_of(row)).backend
        assert taken is not None
        assert old_selector.CLASSES[taken] == row["backend"], row
        assert (layer.block_size or old_selector.DEFAULT_BLOCK) == int(row["page"]), row
    assert len(recorded) == 300


@pytest.mark.parametrize(("version", "count"), [("0.20.2", 100), ("0.10.2", 50)])
def test_mlas_prefill_before_there_was_a_list_is_upstreams(version: str, count: int) -> None:
    recorded, seen = rows(f"vllm_mla_prefill_{version}.csv.gz"), set()
    for row in recorded:
        sizes = {"qk_nope_head_dim": int(row["nope"]), "qk_rope_head_dim": int(row["rope"])}
        layer = Layer(
            16, 16, 576, row["dtype"], mla=True, batch_invariant=row["batch_invariant"] == "1",
            v_head_dim=int(row["v_dim"]), **sizes,
        )  # fmt: skip
        taken, chosen = old_mla.prefill(layer, sm_of(row), version_of(version).rules)
        assert (taken, str(chosen.version or "")) == (row["backend"], row["fa"]), row
        if chosen.version is not None:
            padded = old_mla.head_dim_v(layer, chosen.version, sm_of(row)) == sum(sizes.values())
            assert padded == (row["padded"] == "1") or sum(sizes.values()) == layer.v_head_dim, row
        seen.add((taken, chosen.version))
    assert len(recorded) == count
    assert len(seen) >= 3, seen


def test_wheels_that_share_rules_decide_by_the_same_files_and_no_other_does() -> None:
    with (GOLDEN / "vllm_wheels.csv").open() as lines:
        wheels = {row["version"]: row for row in csv.DictReader(lines)}
    alike = {version for version, row in wheels.items() if row["digest"] == wheels["0.20.2"]["digest"]}
    assert alike == {"0.20.0", "0.20.1", "0.20.2"}
    assert len({row["digest"] for row in wheels.values()}) == len(wheels) - 2
    for version, known in VERSIONS.items():
        assert known.rules.flashinfer_package == wheels[version]["flashinfer"]


def test_wheels_between_the_known_ones_choose_otherwise_and_are_refused() -> None:
    """Of each the first rows drawn and those of the rest where the choice is not 0.33.0's."""
    agree: dict[str, set[str]] = {"0.20.2": set(), "0.33.0": set()}
    recorded = rows("vllm_backends_between.csv.gz")
    between = {row["version"] for row in recorded}
    for rules, versions in agree.items():
        known = version_of(rules)
        versions |= between
        for row in recorded:
            if known.choose(layer_of(row), sm_of(row)).backend != (row["backend"] or None):
                versions.discard(row["version"])
    assert agree == {"0.20.2": set(), "0.33.0": {"0.32.0"}}
    assert len(between) == 14
    for version in between:
        with pytest.raises(UsageError, match="is not modelled"):
            version_of(version)


def test_sglangs_default_and_deterministic_backends_are_upstreams() -> None:
    recorded = rows("sglang_backends_0.5.23.csv.gz")
    for row in recorded:
        platform, deterministic = row["platform"], row["deterministic"] == "1"
        gpu = make_gpu("AMD Instinct MI300X", 9, 4, 304)
        if platform != "hip":
            gpu = make_gpu("a GPU", *sm_of({"sm": platform}), 100)
        layer = Layer(
            128, int(row["num_heads_k"]), 128, sinks=row["sinks"] == "1", mla=row["mla"] == "1",
            batch_invariant=deterministic, v_head_dim=64 if row["asymmetric_kv"] == "1" else None,
        )  # fmt: skip
        known = deterministic_fallback(layer, gpu) if deterministic else sglang.choose(layer, gpu, "0.5.23")
        assert known.backend == row["backend"], row
    assert len(recorded) == 432
    assert {row["backend"] for row in recorded} == {
        "fa3",
        "fa4",
        "trtllm_mha",
        "flashinfer",
        "triton",
        "aiter",
    }


def test_each_version_that_is_known_was_recorded() -> None:
    files = {path.name for path in GOLDEN.glob("vllm_backends_[0-9]*.csv.gz")}
    series = {name.rpartition(".")[0] for name in VERSIONS}
    assert {
        name.removeprefix("vllm_backends_").split(".csv")[0].rpartition(".")[0] for name in files
    } == series


def test_the_split_counts_of_the_shipped_flash_attention_3() -> None:
    recorded = rows("vllm_fa3_num_splits_0.33.0.csv.gz")
    assert len(recorded) == 3000
    for row in recorded:
        number: dict[str, Any] = {name: int(text) for name, text in row.items() if text}
        call = AttentionCall(
            "vllm_flash_attn", "varlen_fwd", number["batch"], number["max_seqlen_q"],
            number["max_seqlen_k"], number["num_heads"], number["num_heads_k"], number["head_dim"],
            causal=bool(number["causal"]), page_block_size=number.get("page_block_size"),
            window=(number["window_left"], 0) if "window_left" in number else (-1, -1),
        )  # fmt: skip
        gpu = make_gpu("a Hopper", 9, 0, number["num_sms"])
        assert predict(call, gpu, "fa3").num_splits == number["num_splits"], row


@pytest.mark.parametrize("wheel", ["0.33.0", "0.20.2", "0.10.2"])
def test_every_launch_of_the_shipped_extensions_is_predicted(wheel: str) -> None:
    recorded = golden_rows(f"vllm_flash_attn_wheel_{wheel}.jsonl.gz")
    counted = Counter(row["call"]["version"] for row in recorded)
    assert counted == {"fa2": 888 if wheel == "0.33.0" else 1073, "fa3": 248}
    refused, state = 0, version_of(wheel).rules.wheel
    for row in recorded:
        call, gpu, version = recorded_call(row)
        prediction, expect = predict(call, gpu, f"{version}{state}"), row["expect"]
        ours = [launch_as_recorded(launch, version) for launch in prediction.launches]
        theirs = [without_memory(launch, version) for launch in expect["launches"]]
        assert (prediction.error, ours) == (expect["error"], theirs), row["call"]
        refused += expect["error"] is not None
    assert 0 < refused < 400


def launch_as_recorded(launch: KernelLaunch, version: str) -> dict[str, Any]:
    fields = asdict(launch)
    return without_memory({**fields, "grid": list(launch.grid), "block": list(launch.block)}, version)


def without_memory(launch: dict[str, Any], version: str) -> dict[str, Any]:
    """The launch; FlashAttention-3's shared memory is not predicted."""
    return {name: value for name, value in launch.items() if version == "fa2" or name != "dynamic_smem"}


def test_mlas_backend_of_prefill_and_its_flash_attention_are_upstreams() -> None:
    recorded = rows("vllm_mla_prefill_0.33.0.csv.gz")
    for row in recorded:
        dims = {name: int(row[name]) for name in ("nope", "rope", "v_dim")}
        layer = Layer(
            128, 1, 576, row["dtype"], mla=True, batch_invariant=row["batch_invariant"] == "1",
            qk_nope_head_dim=dims["nope"], qk_rope_head_dim=dims["rope"], v_head_dim=dims["v_dim"],
        )  # fmt: skip
        taken = prefill_backend(layer, sm_of(row))
        flash = prefill_flash_attention(layer, sm_of(row)).version if taken == "FLASH_ATTN" else None
        assert (taken, str(flash or "")) == (row["backend"], row["fa"]), row
    assert len(recorded) == 300
    assert {row["backend"] for row in recorded} == {"", "FLASH_ATTN", "TRTLLM_RAGGED"}


@pytest.mark.parametrize("version", ["0.33.0", "0.20.2", "0.10.2"])
def test_every_launch_of_mla_by_the_shipped_flash_attention_3(version: str) -> None:
    """FLASH_ATTN_MLA's decode with q_v, and prompts of 192 and 128 wide heads."""
    recorded = golden_rows(f"vllm_flash_attn_mla_{version}.jsonl.gz")
    wheel, split, prefills = version_of(version).rules.wheel, 0, 0
    for row in recorded:
        call, gpu, name = recorded_call(row)
        prediction, expect = predict(call, gpu, f"{name}{wheel}"), row["expect"]
        ours = [launch_as_recorded(launch, name) for launch in prediction.launches]
        theirs = [without_memory(launch, name) for launch in expect["launches"]]
        assert (prediction.error, ours) == (expect["error"], theirs), row["call"]
        split += len(theirs) > 2
        prefills += not call.has_qv
    assert min(split, prefills) >= 20


def test_every_launch_of_sparse_mla_by_the_shipped_flash_attention_3() -> None:
    """As vLLM's FLASH_ATTN_MLA_SPARSE calls it: each query a request, the keys picked its pages of 1."""
    recorded = golden_rows("vllm_flash_attn_mla_sparse_0.33.0.jsonl.gz")
    for row in recorded:
        call, gpu, name = recorded_call(row)
        prediction, expect = predict(call, gpu, name), row["expect"]
        ours = [launch_as_recorded(launch, name) for launch in prediction.launches]
        assert (prediction.error, ours) == (
            expect["error"], [without_memory(launch, name) for launch in expect["launches"]]
        ), row["call"]  # fmt: skip
    assert len(recorded) == 120
