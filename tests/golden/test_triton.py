"""vLLM's and SGLang's Triton attention against the wheels' own Python (benchmarks/record_triton.py).

Resting on reading alone: threads where upstream leaves the warps to Triton's default, AMD GPUs, how many
segments of a request hold keys, and SGLang's log2 on a GPU (recorded in Triton's interpreter: IEEE's).
"""

from __future__ import annotations

import json

import pytest

from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

VLLM = ("vllm_triton_0.10.0.jsonl.gz", "vllm_triton_0.20.0.jsonl.gz", "vllm_triton_0.33.0.jsonl.gz")
SGLANG = "sglang_triton_0.5.23.jsonl.gz"


def predicted(name: str) -> list[tuple[dict, dict]]:
    """(row, answer) through the command line, one a row."""
    done = attnprof("predict", "--calls", str(GOLDEN / name))
    assert done.code == 0, done.err
    answers, rows = [json.loads(line) for line in done.out.splitlines()], golden_rows(name)
    assert len(answers) == len(rows) == 800
    return list(zip(rows, answers, strict=True))


def launches(row: dict) -> list[tuple[str, list[int], list[int]]]:
    """What upstream launched; four warps where it asks for none."""
    return [
        (one["kernel"], one["grid"], [32 * (one["num_warps"] or 4), 1, 1])
        for one in row["expect"]["launches"]
    ]


def ours(answer: dict) -> list[tuple[str, list[int], list[int]]]:
    return [(one["kernel"], one["grid"], one["block"]) for one in answer["launches"]]


@pytest.mark.parametrize("name", VLLM)
def test_vllms_launches_tiles_and_threshold_are_upstreams(name: str) -> None:
    wrong = []
    for row, answer in predicted(name):
        expect, plan = row["expect"], answer.get("plan", {})
        same = (answer["error"], ours(answer)) == (expect["error"], launches(row))
        if same and expect["error"] is None:
            given = expect["launches"][0]["constants"]
            wanted = {"block_m": given["BLOCK_M"], "block_q": given["BLOCK_Q"]}
            wanted |= {"segments": given.get("NUM_SEGMENTS_PER_SEQ", 1)}
            wanted |= {"tile": given["TILE_SIZE"]} if "TILE_SIZE" in given else {}
            wanted |= {} if expect["threshold"] is None else {"threshold": expect["threshold"]}
            same = plan.items() >= wanted.items()
        if not same:
            wrong.append((row, answer))
    assert wrong == []


def test_sglangs_launches_and_splits_of_each_request_are_upstreams() -> None:
    wrong = []
    for row, answer in predicted(SGLANG):
        expect, plan = row["expect"], answer["plan"]
        given = expect["launches"][0]["constants"]
        same = (answer["error"], ours(answer)) == (expect["error"], launches(row))
        if expect["num_kv_splits"] is not None:
            same &= plan["num_kv_splits"] == expect["num_kv_splits"]
            same &= answer["num_splits"] == max(expect["num_kv_splits"])
        else:
            same &= (plan["block_m"], plan["block_n"]) == (given["BLOCK_M"], given["BLOCK_N"])
        if not same:
            wrong.append((row, answer))
    assert wrong == []
