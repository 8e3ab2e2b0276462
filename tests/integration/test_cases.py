"""Small inputs that were once read wrongly, each with what is right (tests/data/cases)."""

from __future__ import annotations

from pathlib import Path

from attnprof import load
from tests.support.command import attnprof

CASES = Path(__file__).resolve().parent.parent / "data" / "cases"


def case(name: str) -> str:
    return str(CASES / name)


def test_sglang_extend_is_prefill() -> None:
    run = load(case("F14_sglang_extend.json"))
    assert [call.phase for call in run.check().calls] == ["prefill", "decode", "decode", "decode"]
    assert " other " not in attnprof("report", case("F14_sglang_extend.json")).out


def test_a_trace_of_which_nothing_was_compared_is_no_success() -> None:
    done = attnprof("check", case("F4_unmodelled_plus_unobserved.json"))
    assert done.code == 3
    assert "nothing was compared" in done.out
    assert "OK" not in done.out
