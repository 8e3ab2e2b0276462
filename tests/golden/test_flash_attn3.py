"""FlashAttention-3 and vLLM's fork of it against their compiled host code and kernel types."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from typing import Any

import pytest

from attnprof.dispatch import predict
from attnprof.dispatch.flash_attn3.interface import V2_7, V2_8, identify
from attnprof.dispatch.flash_attn3.launches import Settled, main_launch
from attnprof.dispatch.flash_attn3.names import device_kernel, parse_main_kernel
from attnprof.dispatch.flash_attn3.versions import num_splits_heuristic, rules_for, should_pack_gqa
from attnprof.dispatch.vllm_flash_attn.fa3 import FA3_RULES
from attnprof.dispatch.vllm_flash_attn.wheels import COMMIT
from attnprof.model import AttentionCall, KernelLaunch
from tests.conftest import GOLDEN, golden_rows
from tests.support.flash_attn3 import interface_source, recorded_call

VERSIONS = {"2.7.4": 0, "2.8.3": 1, "3.0.0": 1}  # version -> column; heuristics.h is the same since 2.8.0
RECORDED = ("2.7.4", "2.8.3", "3.0.0")
HOST_FILES = [*(f"fa3_host_{version}.jsonl.gz" for version in RECORDED), f"vllm_fa3_host_{COMMIT}.jsonl.gz"]


# heuristics

Heuristics = list[tuple[str, list[int], list[int]]]


@pytest.fixture(scope="module")
def rows() -> Heuristics:
    """(kind, arguments, results by version) of every row."""
    with gzip.open(GOLDEN / "fa3_heuristics.csv.gz", "rt") as lines:
        return [
            (kind, [int(cell) for cell in cells[:7]], [int(cell) for cell in cells[7:]])
            for kind, *cells in list(csv.reader(lines))[1:]
        ]


def test_every_row_is_here(rows: Heuristics) -> None:
    assert len(rows) == 20_000
    assert {kind for kind, _, _ in rows} == {"splits", "pack"}


@pytest.mark.parametrize("version", VERSIONS)
def test_num_splits_equals_the_compiled_original(rows: Heuristics, version: str) -> None:
    column = VERSIONS[version]
    wrong = [
        (arguments, results)
        for kind, arguments, results in rows
        if kind == "splits" and num_splits_heuristic(*arguments, version=version) != results[column]
    ]
    assert wrong == []


@pytest.mark.parametrize("version", VERSIONS)
def test_pack_gqa_equals_the_compiled_original(rows: Heuristics, version: str) -> None:
    column = VERSIONS[version]
    wrong = [
        (arguments, results)
        for kind, arguments, results in rows
        if kind == "pack" and should_pack_gqa(*arguments[:4], version=version) != bool(results[column])
    ]
    assert wrong == []


# host code


def prepare_as_recorded(launch: KernelLaunch, recorded: dict[str, Any]) -> dict[str, Any]:
    ours: dict[str, Any] = {"kernel": launch.kernel, "grid": list(launch.grid), "block": launch.block[0]}
    named = "prepare_varlen_num_blocks_kernel"
    if "warps" in recorded:
        ours |= {"warps": recorded["warps"], "Sort": recorded["Sort"]}
        named += f"<{recorded['warps']}, {str(recorded['Sort']).lower()}>"
    ours["kernel"] = "prepare" if named in launch.kernel else launch.kernel
    return {name: ours[name] for name in recorded}


def launch_as_recorded(launch: KernelLaunch, recorded: dict[str, Any]) -> dict[str, Any]:
    """What the recording says of a launch, read from ours."""
    if recorded["kernel"] == "prepare":
        return prepare_as_recorded(launch, recorded)
    if recorded["kernel"] == "combine":
        tile = f"cute::tuple<cute::C<{recorded['block_m']}>, cute::C<{recorded['block_k']}> >"
        element = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t"}[recorded["dtype"]]
        arch = f"cutlass::arch::Sm{90 if recorded['arch'] >= 90 else 80}"
        varlen = str(recorded["Varlen"]).lower()
        log = recorded["log_max_splits"]
        functor = (
            f"flash::FlashAttnFwdCombine<{tile}, {log}, 256, 1, false, {varlen}, {element}, float, {arch}>"
        )
        matches = launch.kernel == device_kernel(functor) and list(launch.grid) == recorded["grid"]
        return recorded if matches else {"kernel": launch.kernel, "grid": list(launch.grid)}
    template = parse_main_kernel(launch.kernel)
    assert template is not None
    ours: dict[str, Any] = {"kernel": "main", **dict(template.flags)}
    for name in ("head_dim", "head_dim_v", "cluster", "dtype", "scheduler"):
        ours[name] = getattr(template, name)
    ours["arch"] = recorded["arch"] if ("Sm90" in launch.kernel) == (recorded["arch"] >= 90) else None
    ours["tile"] = [template.block_m, template.block_n]
    ours["grid"] = list(launch.grid)
    ours["block_h"] = recorded.get("block_h")
    if ours["block_h"] is not None:
        assert (
            f"false, cutlass::bfloat16_t, {ours['block_h']}>, flash::CollectiveEpilogueFwd<" in launch.kernel
        )
    return {name: ours.get(name) for name in recorded}


@pytest.mark.parametrize("name", HOST_FILES)
def test_decides_as_the_compiled_host_code(name: str) -> None:
    recorded = golden_rows(name)
    assert len(recorded) > 1900
    wrong = []
    for row in recorded:
        prediction, expect = predict(*recorded_call(row)), row["expect"]
        same = (prediction.error, prediction.num_splits) == (expect["error"], expect["num_splits"])
        pairs = list(zip(prediction.launches, expect["launches"], strict=False))
        same = same and len(prediction.launches) == len(expect["launches"])
        if not same or any(launch_as_recorded(ours, theirs) != theirs for ours, theirs in pairs):
            wrong.append((row, prediction))
    assert not wrong, f"{len(wrong)} rows differ, the first: {wrong[0]}"


# kernel types


def settled(template: dict[str, Any], version: str, seqlen_q: int) -> Settled:
    """A call that arrives at the launch templates with these arguments."""
    split, paged, head_dim = template["Split"], template["PagedKVNonTMA"], template["head_dim"]
    call = AttentionCall(
        "flash_attn_3", "fwd", 3, seqlen_q, 4096, 2 * template.get("block_h", 7), 2, head_dim,
        dtype=template["dtype"], softcap=float(template["Has_softcap"]), head_dim_v=template["head_dim_v"],
        page_block_size=16 if paged else None, seqlen_knew=1 if template["AppendKV"] else None,
    )  # fmt: skip
    fork = replace(FA3_RULES, one_mma_group=template.get("Use_one_mma_wg", False))
    return Settled(
        call, fork if version == COMMIT else rules_for(version), template["arch"], 132, template["Varlen"],
        template["Varlen"], False, template["Is_causal"], template["Is_local"], False, 5 if split else 1,
        template["PackGQA"],
    )  # fmt: skip


@pytest.mark.parametrize("version", [*RECORDED, COMMIT])
def test_names_kernels_as_the_compiler_does(version: str) -> None:
    kernels = [row for row in golden_rows("fa3_kernels.jsonl.gz") if row["version"] == version]
    assert len(kernels) >= 50
    for row in kernels:
        template = row["template"]
        # Few queries for one warp group; even and odd numbers of query blocks, with and without clusters.
        lengths = range(1, 600, 64)
        launches = [main_launch(settled(template, version, seqlen_q)) for seqlen_q in lengths]
        launch = next((one for one in launches if one.kernel == device_kernel(row["functor"])), None)
        assert launch is not None, (row, launches[0])
        assert launch.block == (row["threads"], 1, 1)
        if "PersistentTileScheduler" in row["functor"]:
            assert launch.grid == (132 * row["blocks_per_sm"], 1, 1)
        parsed = parse_main_kernel(launch.kernel)
        assert parsed is not None
        assert parsed.threads == row["threads"]
        assert parsed.flag("Split") == template["Split"]


# the interface


@pytest.mark.parametrize("row", golden_rows("fa3_interfaces.jsonl"), ids=lambda row: str(row["commit"]))
def test_an_interface_tells_which_version_it_launches_as(row: dict[str, Any]) -> None:
    interface = identify(interface_source(row))
    assert interface.version == row["launches_as"]
    if row["tags"] and interface.version:
        assert interface in (V2_7, V2_8)
