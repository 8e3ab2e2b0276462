"""Which modules of real models get a range, by what they are made of; that ranges nest and go away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from attnprof import load, record
from attnprof.instrument import Recorder, instrument
from attnprof.instrument.models import layers
from attnprof.instrument.modules import module_kinds
from attnprof.model import MODULE_KINDS, MODULES
from attnprof.workloads.spec import ChildSpec

SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64}
MAMBA2 = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16, "state_size": 16,
    "vocab_size": 64, "n_groups": 1,
}  # fmt: skip


def model_of(name: str, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **config))


def kinds(model: Any) -> dict[str, str]:
    """Kind of each module of the first layer and outside the layers, by its place in the model."""
    places = {id(module): place for place, module in model.named_modules()}
    found = module_kinds(model, [block for block, _ in layers(model)])
    named = {places[id(module)]: kind for module, kind in found}
    return {place: kind for place, kind in named.items() if ".1." not in place}


@pytest.mark.parametrize(
    ("name", "config", "parts"),
    [
        ("qwen2", SMALL, {"self_attn": "attention", "mlp": "MLP", "input_layernorm": "norm"}),
        ("gemma2", SMALL, {"self_attn": "attention", "mlp": "MLP", "post_feedforward_layernorm": "norm"}),
        ("mixtral", {**SMALL, **EXPERTS}, {"self_attn": "attention", "gate": "router"}),
        ("qwen2_moe", {**SMALL, **EXPERTS}, {"self_attn": "attention", "mlp": "experts", "gate": "router"}),
        ("gpt2", GPT2, {"attn": "attention", "mlp": "MLP", "ln_1": "norm"}),
        ("phi", SMALL, {"self_attn": "attention", "mlp": "MLP", "input_layernorm": "norm"}),
        ("opt", {**SMALL, "ffn_dim": 128, "word_embed_proj_dim": 64},
         {"self_attn": "attention", "fc1": "MLP", "fc2": "MLP", "final_layer_norm": "norm"}),
        ("bert", {**SMALL, "is_decoder": True},
         {"attention": "attention", "intermediate": "MLP", "layer.0.output": "MLP",
          "output.LayerNorm": "norm"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_parts_of_a_layer_are_told_by_their_structure(
    name: str, config: dict[str, Any], parts: dict[str, str]
) -> None:
    found = kinds(model_of(name, config))
    for part, kind in parts.items():
        assert {k for place, k in found.items() if place.endswith(f".{part}")} == {kind}, part
    assert {"embedding", "LM head"} <= set(found.values())
    assert len([place for place, kind in found.items() if kind == "LM head"]) == 1


def test_what_is_no_attention_and_no_mlp_is_not_called_one() -> None:
    assert set(kinds(model_of("mamba2", MAMBA2)).values()) == {"norm", "embedding", "LM head"}


def test_an_mlp_with_something_else_inside_is_none() -> None:
    model = model_of("qwen2", SMALL)
    mlp = model.model.layers[0].mlp
    assert kinds(model)["model.layers.0.mlp"] == "MLP"
    mlp.gate = torch.nn.Parameter(torch.empty(64, device="meta"))  # as a recurrence has
    assert "model.layers.0.mlp" not in kinds(model)
    del mlp.gate
    mlp.down_proj = torch.nn.Linear(128, 32, device="meta")  # does not lead back
    assert "model.layers.0.mlp" not in kinds(model)
    model = model_of("qwen2", SMALL)
    model.model.layers[0].self_attn.conv = torch.nn.Conv1d(64, 64, 4, device="meta")
    assert "model.layers.0.self_attn" not in kinds(model)


class Seen:
    """Ranges as they were pushed and popped: (message, payload, depth)."""

    active = True

    def __init__(self) -> None:
        self.ranges: list[tuple[str, int, int]] = []
        self.open: list[str] = []

    def channel(self, message: str) -> Any:
        return _Channel(self, message)


class _Channel:
    def __init__(self, seen: Seen, message: str) -> None:
        self._seen, self._message = seen, message

    def push(self, payload: int) -> None:
        self._seen.ranges.append((self._message, payload, len(self._seen.open)))
        self._seen.open.append(self._message)

    def pop(self) -> None:
        assert self._seen.open.pop() == self._message


def small_qwen() -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", **SMALL)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def recorded(monkeypatch: pytest.MonkeyPatch, model: Any, asked: str) -> Seen:
    monkeypatch.setenv(MODULES, asked)
    seen = Seen()
    with instrument(Recorder(seen)), torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert seen.open == []
    return seen


def test_a_forward_has_the_modules_inside_their_step_and_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_qwen()
    seen = recorded(monkeypatch, model, "1")
    shown = [
        (MODULE_KINDS[payload] if message == "module" else message, depth)
        for message, payload, depth in seen.ranges
    ]
    layer = [
        ("layer", 1), ("norm", 2), ("attention", 2), ("attn", 3), ("norm", 2), ("MLP", 2),
    ]  # fmt: skip
    assert shown == [("prefill", 0), ("embedding", 1), *layer, *layer, ("norm", 1), ("LM head", 1)]
    assert not any("forward" in vars(module) for module in model.modules())  # all is as it was


def test_without_being_asked_no_module_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recorded(monkeypatch, small_qwen(), "0")
    assert "module" not in {message for message, _, _ in seen.ranges}


def test_a_module_that_raises_closes_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_qwen()

    def refuse(*args: Any) -> None:
        raise RuntimeError("no")

    model.model.layers[1].mlp.act_fn.forward = refuse
    monkeypatch.setenv(MODULES, "1")
    seen = Seen()
    with instrument(Recorder(seen)), torch.no_grad(), pytest.raises(RuntimeError, match="no"):
        model(torch.tensor([[1, 2, 3]]))
    assert seen.open == []


def test_a_block_in_a_program_asks_for_them_and_its_children_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MODULES, raising=False)
    model = small_qwen()
    with record("named", capture="torch", modules=True), torch.no_grad():
        assert os.environ[MODULES] == "1"
        model(torch.tensor([[1, 2, 3]]))
    assert MODULES not in os.environ
    trace = load("named").trace
    own = trace.ranges.name == trace.strings.index("module")
    assert sorted({MODULE_KINDS[kind] for kind in trace.ranges.payload[own].tolist()}) == [
        "LM head", "MLP", "attention", "embedding", "norm",
    ]  # fmt: skip


def test_the_child_is_told_by_its_command_line() -> None:
    spec = ChildSpec("folder", "nvtx", modules=True)
    assert ChildSpec.from_json(spec.to_json()).modules
    assert not ChildSpec.from_json(ChildSpec("folder", "nvtx").to_json()).modules
