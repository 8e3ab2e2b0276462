"""Advice from times measured on a GPU: only where just this call was timed. The evidence here is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnprof.commands.measured_evidence import read_measured
from attnprof.errors import CannotTellError, UsageError
from tests.support.command import Done, attnprof

CALL = ("--library", "torch", "--version", "2.13.0", "--entry", "varlen_fwd", "--gpu", "h200", "--batch", "1")
HEADS = ("--heads", "28", "--kv-heads", "4", "--seqlen-k", "4096", "--no-causal")


def made_up(folder: Path, **changes: Any) -> Path:
    """A results folder whose every figure was invented for this test."""
    times = {"1": 40.0, "2": 24.0, "6": 10.7, "12": 12.0, "16": 12.5}
    evidence: dict[str, Any] = {
        "date": "2000-01-01",
        "environment": {"gpu": {"name": "NVIDIA H200", "sm_major": 9, "sm_minor": 0, "num_sms": 132}},
        "steps": {
            "splitting": {
                "forced_by": "a test that made it up",
                "version": "2.13.0+cu130",
                "call": {
                    "library": "torch", "entry": "varlen_fwd", "seqlen_q": 1, "num_heads": 28,
                    "num_heads_k": 4, "head_dim": 128, "dtype": "bf16",
                },
                "copy_bytes_per_s": 4.0e12,
                "rows": [
                    {"batch": 1, "seqlen_k": 4096, "us_by_num_splits": times, "bytes_per_s": 1.0e12},
                ],
            }
        },
    }  # fmt: skip
    step = evidence["steps"]["splitting"]
    for name, value in changes.items():
        place = {"us_by_num_splits": step["rows"][0], "gpu": evidence["environment"]}.get(name)
        (evidence if name == "rehearsal" else step if place is None else place)[name] = value
    (folder / "evidence.json").write_text(json.dumps(evidence))
    return folder


def said(done: Done) -> str:
    assert done.code == 0, done.err
    return " ".join(done.out.split())


def explained(folder: Path, *changes: str) -> str:
    """``explain`` with the evidence; what changes comes last and so wins."""
    return said(attnprof("explain", *CALL, *HEADS, "--measured", str(folder), *changes))


@pytest.fixture
def chosen() -> int:
    """What the library chooses for the call of these tests."""
    told = json.loads(attnprof("explain", *CALL, *HEADS, "--format", "json").out)
    return int(told["num_splits"])


def test_the_fastest_is_told_against_the_chosen(tmp_path: Path, chosen: int) -> None:
    times = {"1": 40.0, str(chosen): 12.0, "6": 10.7}
    words = explained(made_up(tmp_path, us_by_num_splits=times))
    assert (
        f"Measured on H200 at 4,096 keys (2000-01-01), 6 splits are 1.3 µs faster than the {chosen} chosen: "
        "10.7 against 12.0 µs."
    ) in words
    assert "1,000 GB/s, 25 % of the 4,000 GB/s that a copy reaches on this card" in words
    assert f"{chosen} 12.0 µs +0.0 µs ← chosen" in words
    assert "6 10.7 µs -1.3 µs ← fastest" in words


def test_other_times_give_other_advice(tmp_path: Path, chosen: int) -> None:
    """The sentence broken by the figures under it."""
    best = explained(made_up(tmp_path, us_by_num_splits={"1": 40.0, str(chosen): 9.0, "6": 10.7}))
    assert f"the {chosen} splits chosen are the fastest of 3 split counts tried: 9.0 µs." in best
    near = explained(made_up(tmp_path, us_by_num_splits={"1": 40.0, str(chosen): 11.0, "6": 10.7}))
    assert "no other of 3 split counts tried is faster" in near
    assert "µs faster than" not in near
    untried = explained(made_up(tmp_path, us_by_num_splits={"1": 40.0, "6": 10.7}))
    assert f"but not the {chosen} splits chosen: nothing can be said of these" in untried


@pytest.mark.parametrize(
    "change",
    [
        ("--seqlen-k", "4095"),
        ("--batch", "2"),
        ("--gpu", "h100"),
        ("--heads", "32"),
        ("--version", "2.12.0"),
        ("--head-dim", "64"),
        ("--dtype", "fp16"),
    ],
)
def test_nothing_is_advised_for_what_was_not_timed(tmp_path: Path, change: tuple[str, str]) -> None:
    words = explained(made_up(tmp_path), *change)
    assert "This call was not measured: evidence.json is of torch 2.13.0+cu130 varlen_fwd on H200" in words
    assert "Measured on" not in words


def test_a_rehearsal_and_evidence_that_says_too_little_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotTellError, match="rehearsal"):
        read_measured(made_up(tmp_path, rehearsal="no GPU was used"))
    with pytest.raises(CannotTellError, match="does not say which call"):
        read_measured(made_up(tmp_path, call={}))
    with pytest.raises(CannotTellError, match="does not say which call"):
        read_measured(made_up(tmp_path, gpu={"name": "NVIDIA H200"}))


@pytest.mark.parametrize("text", ["[]", "{", '{"steps": 1}', '{"steps": {"splitting": {"rows": [1]}}}'])
def test_what_is_no_evidence_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "evidence.json").write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        read_measured(tmp_path / "evidence.json")


def test_nothing_measured_is_shipped() -> None:
    """The figures above are this file's own: the package carries none."""
    root = Path(__file__).parents[2] / "attnprof"
    assert list(root.rglob("evidence*.json")) == []


def test_json_and_markdown_carry_the_times(tmp_path: Path) -> None:
    folder = made_up(tmp_path)
    call = ("explain", *CALL, *HEADS, "--measured", str(folder))
    told = json.loads(attnprof(*call, "--format", "json").out)
    assert dict(map(tuple, told["measured"]["us_by_num_splits"]))[6] == 10.7
    assert json.loads(attnprof("explain", *CALL, *HEADS, "--format", "json").out)["measured"] is None
    assert "Measured on H200, 2000-01-01" in attnprof(*call, "--format", "md").out
