"""The generate workload in this process: models, prompts and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnprof.errors import UsageError
from attnprof.instrument import Recorder, instrument
from attnprof.workloads.generate import prepare
from attnprof.workloads.presets import PRESETS
from attnprof.workloads.spec import GenerateOptions


def run(**options) -> tuple[dict, Recorder]:
    recorder = Recorder()
    with instrument(recorder):
        facts = prepare(GenerateOptions(device="cpu", **options), recorder)()
    return facts, recorder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A small Llama: with weights in "full", its config alone in "bare"."""
    from transformers import AutoConfig, AutoModelForCausalLM

    root = tmp_path_factory.mktemp("models")
    config = AutoConfig.for_model(
        "llama",
        hidden_size=64,
        intermediate_size=64,
        vocab_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "full")
    config.save_pretrained(root / "bare")
    return root


def test_the_warm_up_is_not_recorded():
    facts, recorder = run(max_new_tokens=3, layers=1)
    assert (facts["new_tokens"], len(recorder.steps)) == (3, 3)
    first = {"step": 0, "phase": "prefill", "batch": 1, "seqlen_q": 25, "seqlen_k": 25}
    assert recorder.steps[0] == {**first, "model": 0, "cache": True}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_heads_it_says(name):
    facts, _ = run(model=name, max_new_tokens=1, layers=1, prompt_tokens=2)
    preset, model = PRESETS[name], facts["model"]
    assert (model["num_heads"], model["num_heads_k"]) == (preset.num_heads, preset.num_heads_k)
    assert (model["head_dim"], model["num_layers"]) == (preset.head_dim, 1)
    assert model["name"] == f"{name}-attn"


def test_a_prompt_for_a_preset_becomes_its_bytes_and_that_is_said():
    facts, recorder = run(max_new_tokens=1, layers=1, prompt="héllo", batch=2)
    assert (facts["prompt_tokens"], facts["batch"], recorder.steps[0]["batch"]) == (6, 2, 2)
    assert "no tokenizer" in next(iter(recorder.notes))


def test_a_folder_with_weights_is_loaded(folders):
    facts, _ = run(model=str(folders / "full"), max_new_tokens=2)
    assert (facts["model"]["weights"], facts["model"]["num_layers"]) == ("loaded", 2)


def test_a_folder_with_only_a_config_is_built_at_random_and_layers_can_be_cut(folders):
    facts, recorder = run(model=str(folders / "bare"), max_new_tokens=2, layers=1)
    assert (facts["model"]["weights"], facts["model"]["num_layers"]) == ("random", 1)
    assert len(recorder.steps) == 2


def test_a_text_needs_a_tokenizer_that_a_folder_may_lack(folders):
    with pytest.raises(UsageError, match="no tokenizer that loads"):
        run(model=str(folders / "bare"), max_new_tokens=1, prompt="hello")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot build"):
        run(model=str(tmp_path), max_new_tokens=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="torch sees no GPU"):
        prepare(GenerateOptions(device="cuda"), Recorder())


def test_attention_that_is_not_installed_is_refused_with_its_reason():
    with pytest.raises(UsageError, match=r"cannot build qwen2.5-7b-attn with flash_attention_3") as error:
        run(attn="flash_attention_3", max_new_tokens=1)
    assert "--attn sdpa" in error.value.hint


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    first, again, other = (run(max_new_tokens=4, layers=1, seed=seed)[0]["tokens"] for seed in (1, 1, 2))
    assert first == again
    assert first != other
