"""SGLang's batches as its scheduler keeps them on the host: requests, lengths and phase of a step.

The fields are those of ``ForwardBatch`` in sglang 0.5.23's ``forward_batch_info.py``.
"""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from attnprof.instrument.engines import sglang_steps
from attnprof.instrument.recorder import Recorder


def batch(mode: str, keys: list[int], given: list[int] | None = None, **more: Any) -> Any:
    return types.SimpleNamespace(
        forward_mode=types.SimpleNamespace(name=mode), seq_lens_cpu=torch.tensor(keys), spec_info=None,
        extend_seq_lens_cpu=given, rids=[f"r{key % 10}" for key in keys], **more,
    )  # fmt: skip


class ModelRunner:
    model_config = types.SimpleNamespace(model_path="toy", num_attention_heads=8, num_key_value_heads=2)

    def forward(self, forward_batch: Any) -> str:
        return forward_batch.forward_mode.name


def steps_of(*batches: Any) -> tuple[Recorder, list[dict[str, Any]]]:
    recorder, module = Recorder(), types.SimpleNamespace(ModelRunner=type("ModelRunner", (ModelRunner,), {}))
    module.ModelRunner.forward = ModelRunner.forward
    restore = sglang_steps.patch(recorder, module)
    runner = module.ModelRunner()
    for one in batches:
        assert runner.forward(one) == one.forward_mode.name
    restore()
    assert module.ModelRunner.forward is ModelRunner.forward
    return recorder, recorder.steps


def test_extend_is_prefill_and_a_mixed_batch_tells_who_decodes():
    recorder, steps = steps_of(
        batch("EXTEND", [16, 21], [16, 5]), batch("MIXED", [34, 17, 22], [4, 1, 1]),
        batch("DECODE", [18, 23]), batch("IDLE", []),
    )  # fmt: skip
    assert [(step["phase"], step["batch"], step["prefills"]) for step in steps] == [
        ("prefill", 2, 2), ("mixed", 3, 1), ("decode", 2, 0),
    ]  # fmt: skip
    assert [step["seqlens_q"] for step in steps] == [[16, 5], [4, 1, 1], [1, 1]]
    assert [step["seqlens_k"] for step in steps] == [[16, 21], [34, 17, 22], [18, 23]]
    assert [(model["num_heads"], model["num_heads_k"]) for model in recorder.models] == [(8, 2)]


def test_candidates_are_verified_in_a_decode_step_and_drafts_are_drafts():
    width = types.SimpleNamespace(num_tokens_per_req=4)
    verify, draft = batch("TARGET_VERIFY", [44]), batch("DRAFT_EXTEND_V2", [44])
    verify.spec_info = draft.spec_info = width
    _, steps = steps_of(verify, draft)
    assert [(step["phase"], step["seqlens_q"]) for step in steps] == [("decode", [4]), ("draft", [4])]


def test_lengths_on_the_device_alone_are_not_read_and_the_program_runs_on():
    unread = batch("DECODE", [5])
    unread.seq_lens_cpu = None
    recorder, steps = steps_of(unread)
    assert steps == []
    assert any("on the device alone" in note for note in recorder.notes)


@pytest.mark.parametrize("mode", ["IDLE", "PREBUILT"])
def test_a_batch_without_requests_is_no_step(mode):
    assert steps_of(batch(mode, []))[1] == []
