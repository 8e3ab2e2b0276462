"""Launches that public profiles show, predicted from the shapes and GPU they state."""

from __future__ import annotations

from typing import Any

import pytest

from attnprof.dispatch import predict
from attnprof.dispatch.flash_attn2.kv_lengths import infer_call
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.conftest import golden_rows

ROWS = golden_rows("observed_launches.jsonl")
WITH_SHAPES = [row for row in ROWS if "qkv_dims" in row]


@pytest.mark.parametrize("row", WITH_SHAPES, ids=lambda row: row["model"])
def test_predicts_what_ran_on_an_h100(row: dict[str, Any]) -> None:
    batch, seqlen_q, num_heads, head_dim = row["qkv_dims"][0]
    _, seqlen_k, num_heads_k, _ = row["qkv_dims"][1]
    causal = row["concrete_inputs"][8] == "True"
    call = AttentionCall(
        "torch", "fwd", batch, seqlen_q, seqlen_k, num_heads, num_heads_k, head_dim, causal=causal
    )
    launches = predict(call, gpu_by_name(row["gpu"]), "2.6.0").launches
    assert [launch.kernel for launch in launches] == [row["kernel"]]
    assert list(launches[0].grid) == row["grid"]
    assert list(launches[0].block) == row["block"]


def test_predicts_the_nine_splits_of_an_rtx_4080_after_a_2048_token_prompt() -> None:
    split, combine = (row for row in ROWS if row["gpu"] == "NVIDIA RTX 4080")
    call = AttentionCall("torch", "fwd", 1, 1, 2049, 14, 14, 64, dtype="fp16")
    prediction = predict(call, gpu_by_name("RTX 4080"), "2.6.0")
    assert prediction.num_splits == 9
    assert [list(launch.grid) for launch in prediction.launches] == [split["grid"], combine["grid"]]
    names = [launch.kernel.partition("<")[0].removeprefix("void ") for launch in prediction.launches]
    assert names == [split["kernel"].partition("<")[0], combine["kernel"].partition("<")[0]]


def test_reads_two_splits_and_the_cache_length_from_the_l40_launch() -> None:
    split = next(row for row in ROWS if row.get("num_splits") == 2)
    name = next(row["name"] for row in golden_rows("kernel_names.jsonl") if row.get("grid") == split["grid"])
    inferred = infer_call(parse_kernel_name(name), tuple(split["grid"]), gpu_by_name("L40").num_sms)
    assert inferred is not None
    assert (inferred.num_splits, inferred.batch_heads) == (2, 32)
    assert inferred.seqlen_k == (Interval(129, 256),)
