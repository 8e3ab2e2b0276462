"""attnprof predict: one call from flags, and files of calls."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from attnprof.dispatch import num_splits_heuristic
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof


def test_a_file_of_calls_gives_a_line_per_call_in_the_same_order() -> None:
    rows = golden_rows("fa2_launches_2.8.3.jsonl.gz")
    done = attnprof("predict", "--calls", str(GOLDEN / "fa2_launches_2.8.3.jsonl.gz"), "--format", "jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        expect = row["expect"]
        assert set(line) == {"error", "num_splits", "launches"}
        assert (line["error"], line["num_splits"]) == (expect["error"], expect["num_splits"])
        wanted = [{key: launch[key] for key in ("kernel", "grid", "block")} for launch in expect["launches"]]
        assert line["launches"] == wanted


def test_bare_calls_and_plain_files_are_taken_too(tmp_path: Path) -> None:
    rows = golden_rows("fa2_launches_2.6.3.jsonl.gz")[:50]
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(row["call"]) + "\n" for row in rows))
    done = attnprof("predict", "--calls", str(path))
    assert [json.loads(line)["num_splits"] for line in done.out.splitlines()] == [
        row["expect"]["num_splits"] for row in rows
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not json", "calls.jsonl:2: not JSON"),
        ("[1]", "calls.jsonl:2: expected a JSON object, found list"),
        ('{"call": {"entry": "bwd"}}', "calls.jsonl:2: entry 'bwd' is none of"),
        ('{"batch": 1, "seqlen_q": "one"}', "calls.jsonl:2: seqlen_q must be an integer, not 'one'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    good = json.dumps(golden_rows("fa2_launches_2.6.3.jsonl.gz")[0]["call"])
    path = tmp_path / "calls.jsonl"
    path.write_text(f"{good}\n{line}\n")
    done = attnprof("predict", "--calls", str(path))
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_cut_gzip_file_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl.gz"
    rows = b"".join(
        json.dumps(row["call"]).encode() + b"\n" for row in golden_rows("fa2_launches_2.6.3.jsonl.gz")
    )
    path.write_bytes(gzip.compress(rows)[:-2000])
    done = attnprof("predict", "--calls", str(path))
    assert done.code == 2
    assert "is a broken gzip file" in done.err


def test_one_call_from_flags_is_derived_step_by_step() -> None:
    done = attnprof("predict", "--seqlen-k", "4096", "--batch", "8", "--gpu", "a100")
    assert done.code == 0
    for words in ("4096 keys in blocks of 128", "108 SMs x 2", "grid 1x6x32", "num_splits 6"):
        assert words in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_a_call_that_the_library_refuses_says_why() -> None:
    done = attnprof(
        "predict", "--seqlen-k", "64", "--head-dim", "260", "--num-heads", "8", "--format", "json"
    )
    assert json.loads(done.out)["error"] == "FlashAttention forward only supports head dimension at most 256"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--seqlen-k is missing"),
        (["--seqlen-k", "1", "--gpu", "h1000"], "unknown GPU 'h1000'; close: H100"),
        (["--seqlen-k", "1", "--sms", "10"], "--sms and --sm go together"),
        (["--seqlen-k", "1", "--sms", "10", "--sm", "nine"], "no compute capability"),
        (["--seqlen-k", "1", "--version", "1.0"], "flash_attn 1.0 is not modelled: the oldest version"),
        (["--seqlen-k", "1", "--version", "3.0"], "the newest version with known rules is 2.8.4"),
        (["--seqlen-k", "1", "--library", "triton"], "attention library 'triton' is not modelled"),
    ],
)
def test_wrong_flags_give_one_error_and_exit_2(flags: list[str], says: str) -> None:
    done = attnprof("predict", *flags)
    assert done.code == 2
    assert says in done.err


def test_a_gpu_outside_the_table_is_given_by_its_sm_count() -> None:
    done = attnprof("predict", "--seqlen-k", "4096", "--sms", "46", "--sm", "8.6", "--format", "json")
    assert json.loads(done.out)["num_splits"] == num_splits_heuristic(4, 92, 32)
