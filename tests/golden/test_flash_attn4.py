"""FlashAttention-4 against the released wheel's own host code: configurations, and whole launches.

The launches were read off where the host code would have made them (benchmarks/record_flash_attn4.py): none
has run on a GPU.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprof.dispatch import libraries
from attnprof.dispatch.flash_attn4 import fwd_config, num_splits_heuristic
from attnprof.dispatch.flash_attn4.dispatch import predict_call
from attnprof.dispatch.flash_attn4.rules import rules_for
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Prediction
from tests.conftest import GOLDEN
from tests.support.command import attnprof

CALL = AttentionCall("flash_attn_4", "fwd", 1, 1, 65536, 28, 4, 128, num_splits=-1)


def test_tile_stages_and_splits_are_those_of_the_wheel() -> None:
    different = []
    with gzip.open(GOLDEN / "fa4_fwd_config_4.0.0b36.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 6000
    for row in rows:
        number = {name: int(value) for name, value in row.items() if value.isdigit()}
        window = tuple(number.get(f"window_{side}") for side in ("left", "right"))
        named = ("arch", "num_sms", "batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k", "head_dim")
        flags = (bool(number[name]) for name in ("pack_gqa", "causal", "local"))
        try:
            answer = fwd_config(
                *(number[name] for name in named), number["head_dim_v"], *flags, window,
                number["num_splits_arg"], "4.0.0b36",
            )  # fmt: skip
        except ValueError as error:
            same = str(error) == row["error"]
        else:
            told = tuple(number.get(name) for name in ("tile_m", "tile_n", "q_stage", "num_splits"))
            same = not row["error"] and answer == told
        if not same:
            different.append(row)
    assert different == []


ROWS = {"4.0.0b36": 1050, "vllm-0.33.0": 600}


def predicted(row: dict[str, Any], version: str) -> Prediction:
    given = row["call"]
    left, right = (-1 if bound is None else bound for bound in given["window"])
    same = (
        "entry", "batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k", "head_dim", "dtype", "causal",
        "total_q", "head_dim_v", "pack_gqa",
    )  # fmt: skip
    call = AttentionCall(
        "flash_attn_4",
        **{name: given[name] for name in same},
        window=(left, right),
        num_splits=given["num_splits_arg"] or -1,
        page_block_size=given["page_size"],
        index_topk=given.get("topk", 0),
        softcap=given.get("softcap", 0.0),
    )
    if given.get("mask_mod") and not version.startswith("vllm"):  # which keeps the masks that it is given too
        call = replace(call, causal=False, window=(-1, -1))
    gpu = make_gpu("", *divmod(given["arch"], 10), given["num_sms"])
    return predict_call(call, gpu, version, rules_for(version), clc=given["clc"])


def as_recorded(prediction: Prediction) -> list[tuple[str, list[int], list[int]]]:
    return [
        (
            launch.kernel.removeprefix("kernel_cutlass_kernel_").removesuffix("_object_at_"),
            list(launch.grid),
            list(launch.block),
        )
        for launch in prediction.launches
    ]


def recorded(version: str) -> list[dict[str, Any]]:
    """What few ask for is in a file of its own: FP8, gathered keys, soft caps, mask functions, wide heads."""
    rows = []
    for kind in ("recorded", "more"):
        with gzip.open(GOLDEN / f"fa4_{kind}_{version}.jsonl.gz", "rt") as lines:
            rows += [json.loads(line) for line in lines]
    return rows


@pytest.mark.parametrize("version", ROWS)
def test_every_launch_of_the_host_code_is_predicted(version: str) -> None:
    rows = recorded(version)
    assert len(rows) >= ROWS[version]
    wrong, asserted, kernels = [], 0, set()
    for row in rows:
        expect = row["expect"]
        launched = [(each["kernel"], each["grid"], each["block"]) for each in expect["launches"]]
        kernels |= {kernel for kernel, _, _ in launched}
        if row["call"].get("mask_mod") and row["call"]["mla"]:
            assert expect["error"] == ""  # a bare assertion, of what no call says
            continue
        prediction = predicted(row, version)
        if expect["error"] == "":
            asserted += 1
            assert str(prediction.error).startswith("assert "), row
        elif (prediction.error, as_recorded(prediction)) != (expect["error"], launched):
            wrong.append((row, prediction))
    assert wrong == []
    assert asserted < len(rows) / 20
    assert all(parse_kernel_name(f"kernel_cutlass_kernel_{kernel}_object_at_").library for kernel in kernels)
    wanted = {"MLADecode", "BlackwellFused"} if version.startswith("vllm") else {"MLAForward1CtaKb64"}
    assert {word for word in wanted for kernel in kernels if word in kernel} == wanted


def test_a_launch_that_differs_is_seen() -> None:
    """The comparison broken: one number of a row changed is one row that disagrees."""
    with gzip.open(GOLDEN / "fa4_recorded_4.0.0b36.jsonl.gz", "rt") as lines:
        row = next(row for row in map(json.loads, lines) if len(row["expect"]["launches"]) == 1)
    recorded = [(each["kernel"], each["grid"], each["block"]) for each in row["expect"]["launches"]]
    assert as_recorded(predicted(row, "4.0.0b36")) == recorded
    for change in ({"num_heads_k": 1, "num_heads": 1}, {"batch": row["call"]["batch"] + 1}, {"arch": 80}):
        other = {"call": {**row["call"], **change}}
        assert as_recorded(predicted(other, "4.0.0b36")) != recorded


@given(st.integers(0, 4096), st.integers(1, 200), st.integers(0, 4096))
def test_the_wheel_never_answers_no_split_and_vllms_copy_does(blocks: int, sms: int, keys: int) -> None:
    assert 1 <= num_splits_heuristic(blocks, sms, keys) <= 128
    if keys > 4 and blocks > sms:
        assert num_splits_heuristic(blocks, sms, keys, least=0) == 0


@pytest.mark.parametrize(
    ("gpu", "changes", "grid", "block", "splits"),
    [
        # SingleTileScheduler: blocks, heads x splits, batch; 148 SMs for 4 query blocks
        ("b200", {}, (1, 4 * 37, 1), 512, 37),
        ("b200", {"num_splits": 0}, (4, 1, 1), 512, 1),
        ("b200", {"num_splits": 0, "batch": 64, "seqlen_q": 2048}, (148, 1, 1), 512, 1),
        ("b200", {"num_splits": 0, "seqlen_q": 4096, "causal": True}, (448, 1, 1), 512, 1),
        ("h100", {"num_splits": 0, "seqlen_q": 1024, "causal": True}, (224, 1, 1), 384, 1),
        ("h100", {"num_splits": 0, "seqlen_q": 1024, "head_dim": 64}, (38, 4, 1), 512, 1),
        ("a100", {"num_splits": 0, "seqlen_q": 1000}, (55, 4, 1), 128, 1),
        ("5090", {}, (1, 4, 1), 128, 1),
    ],
)
def test_grids_as_the_schedulers_are_read(
    gpu: str, changes: dict[str, object], grid: tuple[int, int, int], block: int, splits: int
) -> None:
    prediction = libraries.predict(replace(CALL, **changes), gpu_by_name(gpu))
    main = prediction.launches[0]
    assert (main.grid, main.block, prediction.num_splits) == (grid, (block, 1, 1), splits)
    families = [parse_kernel_name(launch.kernel).family for launch in prediction.launches]
    assert families == ["fa4_fwd"] + ["fa4_combine"] * (splits > 1)


def test_a_packed_batch_has_blocks_for_every_tail() -> None:
    call = replace(CALL, entry="varlen_fwd", batch=3, seqlen_q=700, total_q=1000, num_splits=0, causal=True)
    main = libraries.predict(call, gpu_by_name("b200")).launches[0]
    assert main.grid == ((1000 * 7 + 3 * 255) // 256 * 4, 1, 1)


@pytest.mark.parametrize(
    ("gpu", "changes", "error"),
    [
        ("5090", {"num_splits": 4}, "SM120 forward only supports num_splits=1"),
        ("h100", {"num_splits": 4}, "SplitKV not supported on SM 9.0"),
        ("t4", {}, "Unsupported compute capability: 75. Supported: 8.x, 9.x, 10.x, 11.x, 12.x"),
        ("b200", {"head_dim": 192}, "(head_dim, head_dim_v)=(192, 192) is not supported on SM100/SM110."),
    ],
)
def test_refusals_are_in_upstreams_words(gpu: str, changes: dict[str, object], error: str) -> None:
    prediction = libraries.predict(replace(CALL, **changes), gpu_by_name(gpu))
    assert (prediction.error or "").startswith(error)
    assert prediction.launches == ()


def test_what_nobody_has_read_is_refused() -> None:
    with pytest.raises(UsageError, match="not modelled: the rules known are those of"):
        libraries.predict(CALL, gpu_by_name("b200"), "4.1.0")


def test_a_record_of_what_no_call_says_is_not_predicted() -> None:
    asked = libraries.library("flash_attn_4")
    plain = {"v": [2, 64, 8, 128], "q": [2, 64, 32, 128], "num_splits": 1}
    assert asked.not_modelled(plain) == ""
    assert "block sparsity" in asked.not_modelled(plain | {"sparse": True})
    assert "a mask function" in asked.not_modelled(plain | {"mask_kind": "mask_mod"})
    assert asked.arguments(plain | {"index_topk": 2048})["index_topk"] == 2048


def test_an_environment_that_asks_for_launch_control_is_a_backend() -> None:
    call = replace(CALL, seqlen_q=4096, causal=True, num_splits=0)
    plain, clc = (
        libraries.predict(one, gpu_by_name("b200")).launches[0].grid
        for one in (call, replace(call, backend="clc"))
    )
    assert plain == (448, 1, 1)
    assert clc == (112, 4, 1)


def test_it_is_explained_and_swept() -> None:
    call = ("--library", "flash_attn_4", "--gpu", "b200", "--seqlen-k", "65536", "--num-splits", "-1")
    explained = attnprof("explain", *call)
    assert explained.code == 0, explained.err
    assert "FlashAttentionForwardSm100" in explained.out
    swept = attnprof("sweep", *call[:4], "--seqlen-k", "1024:65536:1024", "--num-splits", "-1")
    assert swept.code == 0, swept.err


@pytest.mark.parametrize(
    ("batch", "seqlen_q", "kernel", "why"),
    [
        (2, 1, "FlashAttentionMLAForward1CtaKb64Sm100", "74 splits pay from 2 on"),
        (2, 64, "FlashAttentionMLAForwardSm100", "more than 64 query rows"),
        (80, 1, "FlashAttentionMLAForward1CtaKb64Sm100", "pairs of blocks would not fit one wave"),
        (60, 1, "FlashAttentionMLAForward1CtaKb64Sm100", "2 splits pay from 2 on"),
    ],
)
def test_mla_is_explained(batch: int, seqlen_q: int, kernel: str, why: str) -> None:
    sizes = ("--batch", str(batch), "--seqlen-q", str(seqlen_q), "--seqlen-k", "32768", "--num-splits", "-1")
    heads = ("--heads", "64", "--kv-heads", "1", "--head-dim", "64", "--head-dim-v", "512")
    done = attnprof("explain", "--library", "flash_attn_4", "--gpu", "b200", *heads, *sizes)
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert kernel in words
    assert why in words
