"""Steps, phases, lengths and layers of real transformers models, as a reader of the program counts them.

Every model is tiny and random. The tests hold under whichever transformers is installed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationConfig, Qwen2ForCausalLM

from attnprof.calls.records import CallRecord
from attnprof.check.step_claims import disbelief
from attnprof.check.target import Target, model_heads
from attnprof.gpus import gpu_by_name
from attnprof.instrument import Recorder, instrument

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
# What forward() calls its cache: "cache" from transformers 5.24 on.
CACHE = next(n for n in ("cache", "past_key_values") if n in signature(Qwen2ForCausalLM.forward).parameters)
SMALL = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64,
}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 64}
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip
NO_STOP = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def qwen2(layers: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", **{**SMALL, "num_hidden_layers": layers})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    return configured(model, **options)


def configured(model: Any, new_tokens: int = 4, **options: Any) -> Any:
    model.generation_config = GenerationConfig(max_new_tokens=new_tokens, **NO_STOP, **options)
    return model


def tokens(length: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


class Recorded:
    """What was recorded: ``steps`` as (phase, seqlen_q, seqlen_k), ``calls`` as in calls.jsonl."""

    def __init__(self, recorder: Recorder, folder: Path) -> None:
        recorder.write(folder / "calls.jsonl")
        self.recorder = recorder
        self.calls = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
        self.steps = [(s["phase"], s["seqlen_q"], s["seqlen_k"]) for s in recorder.steps]
        self.models = [model["name"] for model in recorder.models]

    @property
    def disbelief(self) -> str | None:
        """What the guard says of the steps."""
        facts = {"models": self.recorder.models, "generations": self.recorder.generations}
        records = [CallRecord(c["seq"], c["step"], c["phase"], c["layer"], c) for c in self.calls]
        return disbelief(self.recorder.steps, records, facts)

    def layers(self, step: int) -> list[int | None]:
        return [call["layer"] for call in self.calls if call["step"] == step]

    def of_model(self, number: int) -> list[tuple[str, int, int]]:
        made = zip(self.steps, self.recorder.steps, strict=True)
        return [shown for shown, step in made if step["model"] == number]


@pytest.fixture
def record_unguarded(tmp_path: Path) -> Any:
    """record_unguarded(function, …): the function's recording, called without gradients."""

    def run(function: Any, *args: Any, **kwargs: Any) -> Recorded:
        recorder = Recorder()
        with instrument(recorder), torch.no_grad():
            function(*args, **kwargs)
        return Recorded(recorder, tmp_path)

    return run


@pytest.fixture
def record(record_unguarded: Any) -> Any:
    """The same; the guard has nothing to say of any program here."""

    def run(function: Any, *args: Any, **kwargs: Any) -> Recorded:
        recorded = record_unguarded(function, *args, **kwargs)
        assert recorded.disbelief is None
        return recorded

    return run


def generation(prompt: int, new_tokens: int) -> list[tuple[str, int, int]]:
    """One prefill and a decode for each further token."""
    return [("prefill", prompt, prompt), *(("decode", 1, prompt + n) for n in range(1, new_tokens))]


# Encoder-decoders


def test_t5_encodes_once_and_the_decoder_starts_from_one_token(record: Any) -> None:
    config = AutoConfig.for_model("t5", **T5, decoder_start_token_id=0)
    model = configured(transformers.T5ForConditionalGeneration(config).eval(), decoder_start_token_id=0)
    run = record(lambda: model.generate(tokens(7)))
    assert run.steps == [("encode", 7, 7), *generation(1, 4)]
    assert run.recorder.model is not None
    shown = run.recorder.model
    assert (shown["name"], shown["num_layers"], shown["num_heads"]) == ("T5ForConditionalGeneration", 2, 4)


def test_t5_called_as_a_whole_has_the_encoder_as_a_step_of_its_own(record: Any) -> None:
    config = AutoConfig.for_model("t5", **T5, decoder_start_token_id=0)
    model = transformers.T5ForConditionalGeneration(config).eval()
    run = record(model, input_ids=tokens(7), decoder_input_ids=tokens(3))
    assert sorted(run.steps) == [("encode", 7, 7), ("prefill", 3, 3)]


def test_bart_has_encoder_decoder_and_cross_attention_in_their_steps_and_layers(record: Any) -> None:
    config = AutoConfig.for_model("bart", **BART, decoder_start_token_id=2, forced_eos_token_id=None)
    model = configured(
        transformers.BartForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval(),
        decoder_start_token_id=2,
    )
    run = record(lambda: model.generate(tokens(7)))
    assert run.steps == [("encode", 7, 7), *generation(1, 4)]
    assert run.layers(0) == [0, 1]
    assert run.layers(1) == run.layers(2) == [0, 0, 1, 1, 2, 2]  # its own keys, then the encoder's
    assert {call["phase"] for call in run.calls if call["step"] == 0} == {"encode"}


def test_whisper_encodes_sound_and_its_length_is_what_the_encoder_returned(record: Any) -> None:
    config = AutoConfig.for_model(
        "whisper", **BART, num_mel_bins=8, max_source_positions=20, max_target_positions=40,
        decoder_start_token_id=2, pad_token_id=0, bos_token_id=1, eos_token_id=3,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    configured(model.eval(), decoder_start_token_id=2)
    run = record(lambda: model.generate(torch.zeros(1, 8, 40)))
    assert run.steps == [("encode", 20, 20), *generation(1, 4)]
    assert run.layers(0) == [0, 1]
    assert run.recorder.model is not None
    assert run.recorder.model["name"] == "WhisperForConditionalGeneration"


def test_bert_encodes(record: Any) -> None:
    config = AutoConfig.for_model(
        "bert", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        vocab_size=64,
    )  # fmt: skip
    model = transformers.BertModel._from_config(config, attn_implementation="sdpa").eval()
    run = record(model, tokens(7, batch=2))
    assert run.steps == [("encode", 7, 7)]
    assert run.layers(0) == [0, 1]


# State without keys


@pytest.mark.parametrize("implementation", ["generate", "loop"])
def test_mamba_counts_its_tokens_though_its_cache_cannot(record: Any, implementation: str) -> None:
    config = AutoConfig.for_model(
        "mamba", hidden_size=32, state_size=4, num_hidden_layers=2, vocab_size=64, intermediate_size=64
    )
    model = configured(transformers.MambaForCausalLM(config).eval())

    def loop() -> None:
        position = {"cache_position": torch.arange(4)} if "cache_position" in names else {}
        output = model(tokens(7), use_cache=True)
        for step in range(3):
            state = {name: output[name] for name in ("cache", "cache_params") if name in output}
            if position:
                position = {"cache_position": torch.tensor([7 + step])}
            output = model(tokens(1), use_cache=True, **state, **position)

    names = signature(type(model).forward).parameters
    run = record(lambda: model.generate(tokens(7))) if implementation == "generate" else record(loop)
    assert run.steps == generation(7, 4)


# Towers


def qwen2_vl() -> Any:
    text = {
        **SMALL,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "max_position_embeddings": 64,
    }
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 4, "in_channels": 3,
        "mlp_ratio": 2, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    ids = {"vision_start_token_id": 60, "vision_end_token_id": 61, "image_token_id": 62, "video_token_id": 63}
    if VERSION >= (4, 52):
        config = AutoConfig.for_model("qwen2_vl", text_config=text, vision_config=vision, **ids)
    else:
        config = AutoConfig.for_model("qwen2_vl", vision_config=vision, **text, **ids)
    torch.manual_seed(0)
    model = transformers.Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    return configured(model.eval())


def test_a_vision_tower_is_part_of_the_prefill_it_serves(record: Any) -> None:
    ids = torch.tensor([[1, 60, 62, 62, 62, 62, 61, 5, 6]])  # 4x4 patches, merged by 2x2: 4 tokens
    image = {"pixel_values": torch.zeros(16, 96), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    if VERSION >= (5, 0):
        image["mm_token_type_ids"] = (ids == 62).int()
    run = record(lambda: qwen2_vl().generate(ids, attention_mask=torch.ones_like(ids), **image))
    assert run.steps == generation(9, 4)
    assert run.models == ["Qwen2VLForConditionalGeneration"]
    prefill = [call for call in run.calls if call["step"] == 0]
    assert {call["phase"] for call in prefill} == {"prefill"}
    assert [call["layer"] for call in prefill if call["q"][-2] == 9] == [0, 1]
    assert {call["layer"] for call in prefill if call["q"][-2] != 9} == {None}
    shown = run.recorder.model
    assert shown is not None
    assert (shown["num_layers"], shown["num_heads"], shown["num_heads_k"]) == (2, 4, 2)


# Several models, several tokens a step


def test_an_assistant_drafts_and_the_target_verifies_several_tokens(record: Any) -> None:
    target, assistant = qwen2(3, new_tokens=12), qwen2(1)
    run = record(lambda: target.generate(tokens(6), assistant_model=assistant))
    number = {model["num_layers"]: place for place, model in enumerate(run.recorder.models)}
    drafts, verified = run.of_model(number[1]), run.of_model(number[3])
    assert {phase for phase, *_ in drafts} == {"draft"}
    assert [phase for phase, *_ in verified] == ["prefill", *["decode"] * (len(verified) - 1)]
    assert any(seqlen_q > 1 for _, seqlen_q, _ in verified[1:])
    assert len(verified) <= 12
    assert run.recorder.model is not None
    assert run.recorder.model["num_layers"] == 3
    held = [(call["step"], call["k"][-2]) for call in run.calls]
    assert all(keys == run.steps[step][2] for step, keys in held)


def test_prompt_lookup_decodes_several_tokens_at_once(record: Any) -> None:
    prompt = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8, 5, 6]])
    run = record(lambda: qwen2(new_tokens=12).generate(prompt, prompt_lookup_num_tokens=3, eos_token_id=9999))
    assert [phase for phase, *_ in run.steps] == ["prefill", *["decode"] * (len(run.steps) - 1)]
    assert run.steps[0][1] >= 10
    assert all(keys == run.steps[call["step"]][2] for call in run.calls if (keys := call["k"][-2]))


def test_two_models_in_one_program_each_have_their_steps(record: Any) -> None:
    first, second = qwen2(2, new_tokens=3), qwen2(3, new_tokens=2)

    def program() -> None:
        first.generate(tokens(5))
        second.generate(tokens(8))
        first.generate(tokens(4))

    run = record(program)
    assert run.steps == [*generation(5, 3), *generation(8, 2), *generation(4, 3)]
    assert run.of_model(1) == generation(8, 2)
    assert run.layers(3) == [0, 1, 2]
    assert run.recorder.model is not None
    assert run.recorder.model["num_layers"] == 2


# One model, generated from in every way


def test_a_static_cache_counts_what_it_holds_not_what_it_has_room_for(record: Any) -> None:
    options = {"disable_compile": True} if VERSION >= (4, 52) else {}
    run = record(lambda: qwen2().generate(tokens(5), cache_implementation="static", **options))
    assert run.steps == generation(5, 4)


def test_left_padding_counts_the_padded_length(record: Any) -> None:
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :3] = 0
    run = record(lambda: qwen2().generate(tokens(6, batch=2), attention_mask=mask))
    assert run.steps == generation(6, 4)
    assert {step["batch"] for step in run.recorder.steps} == {2}


def test_beams_are_the_batch(record: Any) -> None:
    run = record(lambda: qwen2(num_beams=3).generate(tokens(5)))
    assert run.steps == generation(5, 4)
    assert run.recorder.steps[-1]["batch"] == 3
    assert run.layers(1) == [0, 1]


@pytest.mark.skipif(not hasattr(GenerationConfig(), "prefill_chunk_size"), reason="transformers has none")
def test_a_prompt_in_chunks_is_prefill_to_its_end(record: Any) -> None:
    run = record(lambda: qwen2(new_tokens=3).generate(tokens(10), prefill_chunk_size=4))
    assert run.steps[:2] == [("prefill", 4, 4), ("prefill", 4, 8)]
    # Before 5.0 the last token of the prompt has a forward of its own.
    assert run.steps[2:-2] in ([("prefill", 2, 10)], [("prefill", 1, 9), ("prefill", 1, 10)])
    assert run.steps[-2:] == [("decode", 1, 11), ("decode", 1, 12)]


def test_without_a_cache_every_step_is_a_prefill(record: Any) -> None:
    run = record(lambda: qwen2().generate(tokens(5), use_cache=False))
    assert run.steps == [("prefill", n, n) for n in (5, 6, 7, 8)]


def test_a_cache_given_by_position_is_one(record: Any) -> None:
    model, cache = qwen2(), DynamicCache()

    def program() -> None:
        for length in (4, 1, 1):
            model(tokens(length), None, None, cache)

    assert record(program).steps == generation(4, 3)


def test_a_second_turn_on_a_kept_cache_is_a_prefill(record: Any) -> None:
    model, cache = qwen2(new_tokens=2), DynamicCache()

    def program() -> None:
        turn = model.generate(tokens(5), **{CACHE: cache})
        model.generate(torch.cat([turn, tokens(3)], 1), **{CACHE: cache})

    run = record(program)
    assert [phase for phase, *_ in run.steps] == ["prefill", "decode", "prefill", "decode"]
    assert run.steps[2] == ("prefill", 4, 10)


@pytest.mark.parametrize("whose", ["the whole", "the stack of layers"])
def test_forward_called_by_name_is_a_step(record: Any, whose: str) -> None:
    model, cache = qwen2(), DynamicCache()
    called = model if whose == "the whole" else model.model

    def program() -> None:
        for length in (4, 1):
            called.forward(tokens(length), **{CACHE: cache})

    run = record(program)
    assert run.steps == generation(4, 2)
    assert run.layers(1) == [0, 1]
    assert run.models == [type(called).__name__]


def test_a_cache_under_a_name_that_nobody_uses_is_still_one(record: Any) -> None:
    class Renamed(Qwen2ForCausalLM):
        def forward(self, input_ids: Any = None, hoard: Any = None, **_: Any) -> Any:
            return super().forward(input_ids, **{CACHE: hoard})

        def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]:
            made = super().prepare_inputs_for_generation(input_ids, **kwargs)
            return {"input_ids": made["input_ids"], "hoard": made[CACHE]}

    torch.manual_seed(0)
    model = configured(Renamed(AutoConfig.for_model("qwen2", **SMALL)).eval())
    run = record(lambda: model.generate(tokens(5)))
    assert run.steps == generation(5, 4)
    assert [run.layers(step) for step in range(4)] == [[0, 1]] * 4
    assert run.recorder.model is not None
    assert run.recorder.model["name"] == "Renamed"


@pytest.mark.skipif(VERSION < (4, 53), reason="continuous batching on a CPU is younger")
def test_continuous_batching_shows_the_requests_of_each_step(
    record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = qwen2(new_tokens=4)
    prompts = [tokens(length, seed=length)[0].tolist() for length in (7, 3, 5)]
    options = GenerationConfig(max_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=0)
    if VERSION < (5, 0):  # it asks a GPU how much memory there is
        from transformers.generation.continuous_batching import cache

        options.num_blocks, options.max_batch_tokens = 32, 64
        handler = cache.PagedAttentionMemoryHandler
        monkeypatch.setattr(handler, "get_available_memory", staticmethod(lambda _: 1 << 30))
    run = record(lambda: model.generate_batch(inputs=prompts, generation_config=options))
    first = run.recorder.steps[0]
    assert (first["phase"], first["batch"]) == ("prefill", 3)
    assert sorted(first["seqlens_q"]) == sorted(first["seqlens_k"]) == [3, 5, 7]
    decodes = [step for step in run.recorder.steps if step["phase"] == "decode"]
    assert len(decodes) >= 3
    for number, step in enumerate(decodes[:3], start=1):
        assert step["seqlens_q"] == [1, 1, 1]
        assert sorted(step["seqlens_k"]) == [3 + number, 5 + number, 7 + number]
    assert set(run.layers(0)) == {0, 1}


# More of one model, for the guard's sake: it must not speak where attention sees other lengths by right


def test_sliding_layers_keep_a_window_of_keys(record: Any) -> None:
    config = AutoConfig.for_model("mistral", **SMALL, sliding_window=4)
    model = configured(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval())
    assert record(lambda: model.generate(tokens(7))).steps == generation(7, 4)


def test_sequences_of_a_batch_may_be_sampled(record: Any) -> None:
    model = qwen2()
    model.generation_config = GenerationConfig(
        max_new_tokens=4, **{**NO_STOP, "do_sample": True}, num_return_sequences=3
    )
    assert record(lambda: model.generate(tokens(5))).steps == generation(5, 4)


def test_a_prompt_of_embeddings_has_its_length(record: Any) -> None:
    model = qwen2()
    embedded = model.get_input_embeddings()(tokens(5))
    assert record(lambda: model.generate(inputs_embeds=embedded)).steps == generation(5, 4)


# Attention that is not transformers' own


def test_the_native_path_of_torchs_own_layers_is_recorded_as_one_that_is_not_described(record: Any) -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 2, 16, batch_first=True).eval()
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(1, 5, 16)

    def program() -> None:
        layer(x)
        attention(x, x, x, need_weights=False)

    native = torch._native_multi_head_attention
    run = record(program)
    assert [call["function"] for call in run.calls] == [
        "torch._transformer_encoder_layer_fwd", "torch._native_multi_head_attention"
    ]  # fmt: skip
    assert all("fast path" in call["not_described"] for call in run.calls)
    assert torch._native_multi_head_attention is native


def test_k_heads_that_transformers_repeated_are_predicted_as_the_models_own(record: Any) -> None:
    run = record(lambda: qwen2().generate(tokens(5)))
    assert run.recorder.model is not None
    heads = model_heads({"model": run.recorder.model})
    assert heads == (4, 2, 16)
    decode = next(c for c in run.calls if c["phase"] == "decode")
    decode = {**decode, "k": [1, 4, *decode["k"][2:]], "v": [1, 4, *decode["v"][2:]]}  # as before 4.54
    repeated = CallRecord(decode["seq"], decode["step"], decode["phase"], decode["layer"], decode)
    target = Target(gpu_by_name("h100"), heads=heads)
    call, _ = target.predict(repeated)
    assert (call.library, call.num_heads, call.num_heads_k) == ("flash_attn", 4, 2)
    call, _ = replace(target, library="torch").predict(repeated)
    assert (call.library, call.num_heads_k) == ("torch", 4)


# The guard


def test_the_guard_speaks_where_no_cache_is_found(
    record_unguarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnprof.instrument.steps.find_cache", lambda arguments: None)
    said = record_unguarded(lambda: qwen2().generate(tokens(5))).disbelief
    assert said == "step 1 (prefill) says 1 keys, attention was given 6, and no cache was found"


def test_the_guard_speaks_where_a_loop_without_generate_has_no_cache(
    record_unguarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnprof.instrument.steps.find_cache", lambda arguments: None)
    model, cache = qwen2(), DynamicCache()

    def loop() -> None:
        for length in (4, 1):
            model(tokens(length), **{CACHE: cache})

    said = record_unguarded(loop).disbelief
    assert said == "step 1 (prefill) says 1 keys, attention was given 5, and no cache was found"


def test_the_guard_speaks_where_tokens_are_miscounted(
    record_unguarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnprof.instrument.steps.batch_and_length", lambda given: (1, 2))
    said = record_unguarded(lambda: qwen2().generate(tokens(5))).disbelief
    assert said == "step 0 (prefill) says 2 tokens, attention was given 5"


def test_the_guard_speaks_where_a_generation_does_not_add_up(
    record_unguarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnprof.instrument.steps._Generation.phase", lambda *lengths: "prefill")
    said = record_unguarded(lambda: qwen2().generate(tokens(5))).disbelief
    assert said == "a generation of 4 tokens came to 4 prefill and 0 decode steps"


def test_the_guard_speaks_of_a_batch_that_attention_did_not_get(
    record_unguarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnprof.instrument.steps.batch_and_length", lambda given: (2, 5))
    said = record_unguarded(lambda: qwen2()(tokens(5))).disbelief
    assert said == "step 0 (prefill) says a batch of 2, attention was given 1"
