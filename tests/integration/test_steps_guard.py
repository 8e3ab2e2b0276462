"""What report, check and the page say of a run whose steps are not to be believed; what the doctor says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from attnprof.commands import trial_generation
from attnprof.runs.run import load
from attnprof.workloads.spec import ChildSpec
from tests.support.command import attnprof

SAID = "phases and lengths of the steps could not be told: step 1 (prefill) says 1 keys"
BREAK = """
import sys
from attnprof.instrument import steps
steps.find_cache = lambda arguments: None
"""
PROGRAM = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("qwen2", hidden_size=64, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=64)
model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
model.generate(torch.ones(1, 5, dtype=torch.long), max_new_tokens=4, min_new_tokens=4, do_sample=False,
    pad_token_id=0)
"""


def record(folder: Path, program: str) -> str:
    """Records the program as the run "guarded"; what attnprof run said."""
    script = folder / "program.py"
    script.write_text(program)
    done = attnprof(
        "run", "--capture", "none", "-o", "guarded", "--force-overwrite", "--", "python", str(script)
    )
    assert done.code == 0, done.err
    return done.out + done.err


def test_a_false_step_is_shown_nowhere(tmp_path: Path) -> None:
    said = record(tmp_path, BREAK + PROGRAM)
    assert SAID in " ".join(said.split())
    assert "4 steps" in said
    assert "4 prefill" not in said
    report = " ".join(attnprof("report", "guarded").out.split())
    assert SAID in report
    assert "5-token prompt" not in report
    assert "prefill " not in report.replace(SAID, "")
    check = attnprof("check", "guarded", "--format", "json")
    assert SAID in check.err
    assert json.loads(check.out)["phases_unknown"].startswith(SAID)
    asked = attnprof("check", "guarded", "--phase", "prefill")
    assert asked.code == 3
    attnprof("report", "guarded", "--html", str(tmp_path / "page.html"))
    assert SAID in (tmp_path / "page.html").read_text()
    run = load("guarded")
    assert {call.phase for call in run.records} == {"unknown"}
    assert run.keys_of_step == {}


def test_a_true_one_is(tmp_path: Path) -> None:
    said = record(tmp_path, PROGRAM)
    assert "could not be told" not in said
    assert "4 steps (1 prefill, 3 decode)" in said
    assert load("guarded").disbelief is None
    assert "batch 1, 5-token prompt" in " ".join(attnprof("report", "guarded").out.split())


def test_the_doctor_generates_three_tokens_and_finds_their_steps() -> None:
    tried = trial_generation.try_generation()
    assert (tried.found, tried.error) == ("3 tokens came to 1 prefill and 2 decode steps", "")


def test_the_doctor_fails_where_steps_are_not_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    start = f"{BREAK}\nfrom attnprof.workloads.child import main\nsys.exit(main(sys.argv[1:]))"
    monkeypatch.setattr(ChildSpec, "command", lambda spec: [sys.executable, "-c", start, spec.to_json()])
    done = attnprof("doctor", "--format", "json")
    found = {row["what"]: row for row in json.loads(done.out)}
    assert found["steps"]["level"] == "FAIL"
    assert "says 1 keys, attention was given 6" in found["steps"]["found"]
    assert done.code == 1
