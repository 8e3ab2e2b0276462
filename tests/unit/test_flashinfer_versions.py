"""What FlashInfer's versions do otherwise, from the wrapper that is recorded to the engine that pins one."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.outcome import outcome
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.instrument.engines.flashinfer import _promised
from attnprof.model import AttentionCall


@pytest.fixture
def wrapper(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    package = types.ModuleType("flashinfer_of_a_test")
    package.__version__ = request.param  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return type("Wrapper", (), {"__module__": f"{package.__name__}.decode"})()


@pytest.mark.parametrize(
    ("wrapper", "plan", "uniform", "always"),
    [
        ("0.7.2.post1", {}, 0, False),
        ("0.7.2.post1", {"q_len_per_req": 3}, 3, False),
        ("0.7.4", {}, 1, True),
        ("0.7.4", {"q_len_per_req": 3}, 3, True),
        ("0.10.0rc1", {}, 1, True),
        ("unknown", {}, 0, False),
    ],
    indirect=["wrapper"],
)
def test_the_decode_wrapper_promises_its_queries_by_version(
    wrapper: Any, plan: dict[str, Any], uniform: int, always: bool
) -> None:
    assert _promised(plan, {}, wrapper) == {"uniform_q_len": uniform, "fixed_uniform_q_len": always}


@pytest.mark.parametrize("wrapper", ["0.7.4"], indirect=True)
@pytest.mark.parametrize(
    ("given", "lengths", "told"), [(None, [2, 2], 0), (2, [2, 2], 2), (2, [2, 1], 0), (2, None, 0)]
)
def test_the_prefill_wrapper_promises_what_the_batch_keeps(
    wrapper: Any, given: int | None, lengths: list[int] | None, told: int
) -> None:
    plan = {"qo_indptr": [0, 2, 4], "uniform_q_len": given}
    known = {} if lengths is None else {"seqlens_q": lengths}
    assert _promised(plan, known, wrapper) == {"uniform_q_len": told}


def test_the_flashinfer_that_sglang_asks_for_shares_keys_among_more_thread_blocks_than_vllms() -> None:
    """0.7.2 has no bound of 16; both agree with the rows recorded of their own host code."""
    step = Step(1, 1, 32768)
    found = {}
    for engine in ("sglang", "vllm"):
        layer = Layer(32, 8, 128, block_size=64, backend=None if engine == "sglang" else "FLASHINFER")
        made = outcome(engine, None, layer, step, gpu_by_name("b200"))
        assert made.prediction is not None
        found[engine] = made.library_version, made.prediction.num_splits
    assert found == {"sglang": ("0.7.2", 18), "vllm": ("0.7.2.post1", 16)}


def test_a_small_prompt_that_0_7_4_gives_to_a_decode_kernel_is_refused() -> None:
    call = AttentionCall(
        "flashinfer", "batch_paged", 4, 2, 32, 16, 1, 128, causal=True, page_block_size=128,
        backend="trtllm-gen",
    )  # fmt: skip
    b300 = gpu_by_name("b300")
    with pytest.raises(UsageError, match="to a decode kernel"):
        libraries.predict(call, b300, "0.7.4")
    assert libraries.predict(call, b300, "0.7.2.post1").launches
    assert libraries.predict(call, gpu_by_name("b200"), "0.7.4").launches


def test_tokenspeeds_newest_is_its_last_by_another_number() -> None:
    call = AttentionCall("tokenspeed_mla", "fwd_kvcache", 4, 1, 4096, 128, 1, 576, "fp8", head_dim_v=512)
    b200 = gpu_by_name("b200")
    newest, last = (libraries.predict(call, b200, version) for version in ("2.0.4", "2.0.3"))
    assert newest == last
    assert newest.launches
