"""Generations recorded as a user records them: steps, lengths and warnings under the versions installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="recording a generation needs torch, reading does not")
pytest.importorskip("transformers")

PROMPT, TOKENS, LAYERS = 120, 16, 2
T5 = """
import torch
from transformers import T5Config, T5ForConditionalGeneration
torch.set_num_threads(1)
config = T5Config(
    vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=4,
    decoder_start_token_id=0,
)
model = T5ForConditionalGeneration(config).eval()
model.generation_config.eos_token_id = None
out = model.generate(torch.arange(1, 13)[None], max_new_tokens=6, do_sample=False)
print("tokens", out.shape[1] - 1)
"""
BY_POSITION = """
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
torch.set_num_threads(1)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, attn_implementation="sdpa",
)
model, cache = LlamaForCausalLM(config).eval(), DynamicCache()
with torch.no_grad():
    model(torch.arange(10)[None], None, None, cache)
    for token in range(3):
        model(torch.tensor([[token]]), None, None, cache)
"""
WARNING = """
import sys, warnings
import torch, transformers
warnings.warn("of the user's own")
warnings.warn("soon gone", FutureWarning)
transformers.logging.get_logger("transformers").warning("of transformers")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def attnprof(runs: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "attnprof", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "ATTNPROF_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def record(runs: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return attnprof(runs, "run", "-o", name, "--capture", "none", *arguments)


def program(runs: Path, name: str, text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / f"{name}.py"
    script.write_text(text)
    return record(runs, name, "--", sys.executable, script)


def steps(runs: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((runs / name / "workload.json").read_text())["steps"]


def calls(runs: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / name / "calls.jsonl").read_text().splitlines()]


def test_generate_is_one_prefill_and_a_decode_per_further_token(runs: Path) -> None:
    done = record(runs, "main", "--prompt-tokens", PROMPT, "--max-new-tokens", TOKENS)
    foreign = [line for line in done.stderr.splitlines() if not line.startswith(("recording ", "note: "))]
    assert foreign == []  # nothing that torch or transformers say about themselves
    made = steps(runs, "main")
    assert [step["phase"] for step in made] == ["prefill", *["decode"] * (TOKENS - 1)]
    assert [step["seqlen_q"] for step in made] == [PROMPT, *[1] * (TOKENS - 1)]
    assert [step["seqlen_k"] for step in made] == [PROMPT + n for n in range(TOKENS)]
    recorded = calls(runs, "main")
    assert len(recorded) == TOKENS * LAYERS
    assert {(call["q"][1], call["q"][3]) for call in recorded} == {(28, 128)}
    assert [call["k"][2] for call in recorded[::LAYERS]] == [PROMPT + n for n in range(TOKENS)]
    assert [call["layer"] for call in recorded] == [*range(LAYERS)] * TOKENS


def test_its_report_says_where_the_splits_change(runs: Path) -> None:
    report = " ".join(attnprof(runs, "report", "main").stdout.split())
    assert "Decode would run flash_fwd_kernel while the cache holds at most 128 keys." in report
    assert "From 129 keys on (step 9) it would split them" in report


def test_eager_attention_has_its_steps_and_says_that_its_calls_are_not_recorded(runs: Path) -> None:
    done = record(runs, "eager", "--attn", "eager", "--max-new-tokens", 4)
    assert [step["phase"] for step in steps(runs, "eager")] == ["prefill", *["decode"] * 3]
    assert "eager attention" in done.stderr
    assert calls(runs, "eager") == []


def test_the_decoder_of_t5_is_prefilled_once(runs: Path, tmp_path: Path) -> None:
    done = program(runs, "t5", T5, tmp_path)
    assert done.stdout.startswith("tokens 6\n")
    counted = Counter(step["phase"] for step in steps(runs, "t5"))
    assert (counted["prefill"], counted["decode"]) == (1, 5)


def test_a_cache_given_by_position_is_a_cache(runs: Path, tmp_path: Path) -> None:
    program(runs, "position", BY_POSITION, tmp_path)
    made = [(step["phase"], step["seqlen_q"], step["seqlen_k"]) for step in steps(runs, "position")]
    assert made == [("prefill", 10, 10), *(("decode", 1, 11 + n) for n in range(3))]


def test_a_users_program_warns_as_it_does_alone(runs: Path, tmp_path: Path) -> None:
    script = tmp_path / "warning.py"
    script.write_text(WARNING)
    alone = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=120)
    recorded = record(runs, "warning", "--", sys.executable, script)
    ours = ("recording ", "note: ")
    theirs = [line for line in recorded.stderr.splitlines() if not line.startswith(ours)]
    assert theirs == alone.stderr.splitlines()
    assert "UserWarning: of the user's own" in alone.stderr
    assert "of transformers" in alone.stderr
