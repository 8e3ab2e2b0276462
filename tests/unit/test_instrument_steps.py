"""Steps, layers and torch attention calls of real transformers models."""

from __future__ import annotations

import json
from inspect import signature

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationConfig, Qwen2ForCausalLM

from attnprof.instrument import Recorder, instrument

COMMON = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 64}
GROUPED = {**COMMON, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16}
MODELS = {
    "qwen2": GROUPED,
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": None},
    "gemma": GROUPED,
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0},
    "opt": {**COMMON, "ffn_dim": 64, "word_embed_proj_dim": 64, "pad_token_id": 0},
}
# What forward() calls its cache: "cache" from transformers 5.24 on.
CACHE = next(n for n in ("cache", "past_key_values") if n in signature(Qwen2ForCausalLM.forward).parameters)


def tiny(kind: str = "qwen2", attn: str = "sdpa"):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **MODELS[kind])
    return AutoModelForCausalLM.from_config(config, attn_implementation=attn).eval()


def generate(model, new_tokens: int = 4, prompt: int = 5, batch: int = 1, **options) -> torch.Tensor:
    ids = torch.randint(1, 64, (batch, prompt), generator=torch.Generator().manual_seed(1))
    model.generation_config = GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    with torch.no_grad():
        return model.generate(ids, attention_mask=torch.ones_like(ids), **options)


def recorded(recorder: Recorder, tmp_path) -> list[dict]:
    recorder.write(tmp_path / "calls.jsonl")
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", MODELS)
def test_generation_is_one_prefill_and_decode_steps_with_every_layer_in_order(kind, tmp_path):
    model, recorder = tiny(kind), Recorder()
    with instrument(recorder):
        generate(model)
    assert [step["phase"] for step in recorder.steps] == ["prefill", "decode", "decode", "decode"]
    assert [(s["seqlen_q"], s["seqlen_k"]) for s in recorder.steps] == [(5, 5), (1, 6), (1, 7), (1, 8)]
    calls = recorded(recorder, tmp_path)
    assert [(call["step"], call["layer"]) for call in calls] == [(s, n) for s in range(4) for n in range(3)]
    assert [call["seq"] for call in calls] == list(range(12))


def test_a_grouped_query_call_is_recorded_with_the_arguments_torch_got(tmp_path):
    recorder = Recorder()
    with instrument(recorder):
        generate(tiny(), batch=2)
    prefill, *_, decode = recorded(recorder, tmp_path)
    assert (prefill["q"], prefill["causal"], prefill["mask"]) == ([2, 4, 5, 16], True, None)
    assert (decode["q"], decode["k"], decode["v"]) == ([2, 4, 1, 16], [2, 2, 8, 16], [2, 2, 8, 16])
    assert (decode["causal"], decode["enable_gqa"], decode["scale"]) == (False, True, 0.25)
    assert (decode["function"], decode["entry"]) == (
        "torch.nn.functional.scaled_dot_product_attention",
        "sdpa",
    )
    assert (decode["backend"], decode["device"], decode["dtype"]) == (None, "cpu", "fp32")


def test_the_tokens_are_the_same_with_and_without_instrumentation():
    model = tiny()
    plain = generate(model, 16)
    with instrument(Recorder()):
        instrumented = generate(model, 16)
    assert torch.equal(plain, instrumented)
    assert torch.equal(plain, generate(model, 16))


def test_everything_is_put_back(tmp_path):
    from transformers import PreTrainedModel

    function = torch.nn.functional.scaled_dot_product_attention
    before = dict(vars(PreTrainedModel))
    model, recorder = tiny(), Recorder()
    with instrument(recorder):
        generate(model)
        assert torch.nn.functional.scaled_dot_product_attention is not function
    count = len(recorded(recorder, tmp_path))
    assert torch.nn.functional.scaled_dot_product_attention is function
    assert dict(vars(PreTrainedModel)) == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    generate(model)
    assert len(recorded(recorder, tmp_path)) == count


def test_chunked_prefill_is_prefill_and_a_second_generation_starts_anew():
    model, recorder = tiny(), Recorder()
    with instrument(recorder):
        generate(model, 2, prompt=10, prefill_chunk_size=4)
        generate(model, 2, prompt=3)
    shown = [(step["phase"], step["seqlen_q"], step["seqlen_k"]) for step in recorder.steps]
    assert shown == [
        ("prefill", 4, 4),
        ("prefill", 4, 8),
        ("prefill", 2, 10),
        ("decode", 1, 11),
        ("prefill", 3, 3),
        ("decode", 1, 4),
    ]
    assert [step["step"] for step in recorder.steps] == list(range(6))


def test_a_verification_of_several_tokens_while_decoding_is_decode():
    model, recorder = tiny(), Recorder()
    with instrument(recorder), torch.no_grad():
        cache = DynamicCache()
        for tokens in ([[1, 2, 3]], [[4]], [[5, 6]]):
            model(torch.tensor(tokens), **{CACHE: cache})
    assert [step["phase"] for step in recorder.steps] == ["prefill", "decode", "decode"]
    assert recorder.steps[-1]["seqlen_k"] == 6


def test_a_static_cache_counts_the_tokens_it_holds():
    model, recorder = tiny(), Recorder()
    with instrument(recorder):
        generate(model, 3, cache_implementation="static", disable_compile=True)
    assert [(s["phase"], s["seqlen_k"]) for s in recorder.steps] == [
        ("prefill", 5),
        ("decode", 6),
        ("decode", 7),
    ]


def test_a_call_outside_a_model_belongs_to_no_step(tmp_path):
    recorder = Recorder()
    q = torch.zeros(1, 2, 3, 8)
    with instrument(recorder):
        torch.nn.functional.scaled_dot_product_attention(q, q, q, torch.zeros(3, 3), dropout_p=0.5)
    (call,) = recorded(recorder, tmp_path)
    assert (call["step"], call["phase"], call["layer"]) == (None, "other", None)
    assert (call["mask"], call["dropout_p"], call["scale"]) == ([3, 3], 0.5, None)


def test_an_exception_inside_a_model_closes_its_step():
    model, recorder = tiny(), Recorder()
    with instrument(recorder):
        with pytest.raises(IndexError):
            model(torch.tensor([[10_000]]))
        assert not recorder.in_step
        generate(model, 2)
    assert len(recorder.steps) == 3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_jagged_tensors_are_recorded_with_unknown_lengths(tmp_path):
    recorder = Recorder()
    q = torch.nested.nested_tensor([torch.zeros(2, 3, 8), torch.zeros(2, 5, 8)])
    with instrument(recorder):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    (call,) = recorded(recorder, tmp_path)
    assert call["q"] == [2, 2, -1, 8]


def test_a_compiled_function_is_not_disturbed(tmp_path):
    recorder = Recorder()

    def attend(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    q = torch.randn(1, 2, 3, 8)
    with instrument(recorder):
        compiled = torch.compile(attend, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(q), attend(q))
    assert len(recorded(recorder, tmp_path)) == 1  # the call outside the compiled frame


def test_threads_have_their_own_context(tmp_path):
    import threading

    recorder, q = Recorder(), torch.zeros(1, 2, 3, 8)
    recorder.begin_step("prefill", 3, 3, 1)
    recorder.begin_layer(0)
    with instrument(recorder):
        other = threading.Thread(target=torch.nn.functional.scaled_dot_product_attention, args=(q, q, q))
        other.start()
        other.join()
    (call,) = recorded(recorder, tmp_path)
    assert (call["step"], call["layer"]) == (None, None)


def test_under_torch_profiler_every_range_carries_its_number_in_its_name():
    from attnprof.instrument.ranges import RecordFunctionRanges

    model = tiny()
    with torch.profiler.profile() as profiler, instrument(Recorder(RecordFunctionRanges())):
        generate(model, 2)
    names = [event.name for event in profiler.events() if event.name.startswith("attnprof:")]
    assert sorted(names) == sorted(
        [f"attnprof:attn:{seq}" for seq in range(6)]
        + [f"attnprof:layer:{layer}" for layer in (0, 1, 2, 0, 1, 2)]
        + ["attnprof:prefill:0", "attnprof:decode:1"]
    )
