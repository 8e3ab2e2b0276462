"""What every hook of a serving library shares: a step's requests, calls recorded once, lengths never read."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from attnprof.calls.records import CallRecord, NotModelled, attention_call, read_records
from attnprof.capture.saved_calls import Memory, read_journal
from attnprof.instrument import Recorder, instrument
from attnprof.instrument.engines import entry_point, flash_attn_forks, hooks, packed_steps
from attnprof.instrument.engines.packed_steps import Request
from attnprof.instrument.journal import Journal

STEP = {"b": Request(1, 6, 6, True), "a": Request(0, 1, 40, False), "c": Request(2, 1, 300, False)}


TABLE = torch.empty(3, 20, dtype=torch.int32, device="meta")


def on(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor that nobody can read."""
    return torch.empty(*sizes, dtype=dtype, device="meta")


def fork() -> types.ModuleType:
    """A module like vLLM's."""
    module = types.ModuleType("fork")

    def flash_attn_varlen_func(
        q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, seqused_k=None, causal=False, window_size=None,
        block_table=None, num_splits=0, fa_version=2,
    ):  # fmt: skip
        if max_seqlen_k == 13:
            raise RuntimeError("no kernel")
        return q

    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    return module


def attend(module: Any, starts: Any, used: Any, tokens: int = 8, **more: Any) -> None:
    cache = on(100, 16, 8, 128)
    given = {"seqused_k": used, "block_table": TABLE, "causal": True, **more}
    module.flash_attn_varlen_func(on(tokens, 32, 128), cache, cache, 6, starts, 300, **given)


def written(recorder: Recorder, tmp_path: Path) -> list[dict[str, Any]]:
    recorder.write(tmp_path / "calls.jsonl")
    return [record.fields for record in read_records(tmp_path / "calls.jsonl")]


def test_a_steps_phase_requests_and_order_are_told_to_its_calls(tmp_path):
    recorder, module = Recorder(), fork()
    flash_attn_forks.patch_vllm(recorder, module)
    outer = packed_steps.begin_step(recorder, STEP, 0)
    packed_steps.reorder(recorder, ["a", "b", "c"])
    packed_steps.reorder(recorder, ["a", "b", "x"])  # of another step
    attend(module, on(4, dtype=torch.int32), on(3, dtype=torch.int32))
    recorder.end_step(outer)
    attend(module, on(4, dtype=torch.int32), on(3, dtype=torch.int32))
    (step,) = recorder.steps
    assert step == {
        "step": 0, "phase": "mixed", "batch": 3, "seqlen_q": 6, "seqlen_k": 300, "model": 0,
        "seqlens_q": [1, 6, 1], "seqlens_k": [40, 6, 300], "requests": [0, 1, 2], "prefills": 1,
    }  # fmt: skip
    inside, outside = written(recorder, tmp_path)
    assert (inside["seqlens_q"], inside["seqlens_k"], inside["lengths_of"]) == (
        [1, 6, 1],
        [40, 6, 300],
        "step",
    )
    assert inside["phase"] == "mixed"
    assert "seqlens_q" not in outside
    assert outside["step"] is None


@pytest.mark.parametrize(
    ("prefills", "phase"), [((True, True), "prefill"), ((False, False), "decode"), ((True, False), "mixed")]
)
def test_a_step_is_what_its_requests_are(prefills, phase):
    recorder = Recorder()
    requests = {str(number): Request(number, 1, 1, prefill) for number, prefill in enumerate(prefills)}
    packed_steps.begin_step(recorder, requests, 0)
    assert recorder.steps[0]["phase"] == phase


def test_the_layers_of_a_step_are_read_once_and_what_differs_is_seen(tmp_path, monkeypatch):
    reads: list[int] = []
    real = flash_attn_forks._vllm

    def read(lengths: Any, given: dict[str, Any]) -> Any:
        reads.append(given["num_splits"])
        return real(lengths, given)

    monkeypatch.setattr(flash_attn_forks, "_vllm", read)
    recorder, module = Recorder(), fork()
    flash_attn_forks.patch_vllm(recorder, module)
    packed_steps.begin_step(recorder, STEP, 0)
    starts = torch.tensor([0, 1, 7, 8], dtype=torch.int32)
    used, other = (torch.tensor(values, dtype=torch.int32) for values in ([40, 6, 300], [9, 9, 9]))
    for _ in range(4):
        attend(module, starts, used)
    attend(module, starts, used, num_splits=3)
    attend(module, starts, other)  # alike but for the tensor
    attend(module, starts, used, tokens=9)
    packed_steps.begin_step(recorder, STEP, 0)
    used[0] = 41
    attend(module, starts, used)
    found = written(recorder, tmp_path)
    assert len(reads) == 5
    assert [record["seqlens_k"][0] for record in found] == [40, 40, 40, 40, 40, 9, 40, 41]
    assert [record["q"][0] for record in found] == [8] * 6 + [9, 8]
    assert [record["num_splits"] for record in found] == [0] * 4 + [3, 0, 0, 0]


def test_a_killed_process_leaves_the_same_calls(tmp_path):
    memory = Memory()
    recorder, module = Recorder(journal=Journal(*memory.handed["journal"])), fork()
    flash_attn_forks.patch_vllm(recorder, module)
    outer = packed_steps.begin_step(recorder, STEP, 0)
    starts = torch.tensor([0, 1, 7, 8], dtype=torch.int32)
    attend(module, starts, torch.tensor([40, 6, 300], dtype=torch.int32), window_size=[5, 0])
    attend(module, on(4, dtype=torch.int32), on(3, dtype=torch.int32))
    with recorder.staged("capture"):
        attend(module, on(4, dtype=torch.int32), on(3, dtype=torch.int32))
    with pytest.raises(RuntimeError, match="no kernel"):
        module.flash_attn_varlen_func(on(8, 32, 128), on(8, 8, 128), on(8, 8, 128), 6, starts, 13)
    recorder.end_step(outer)
    kept = read_journal(*memory.handed["journal"])
    assert kept.calls == written(recorder, tmp_path)
    assert kept.steps == recorder.steps
    assert [call.get("stage") for call in kept.calls] == [None, None, "capture", None]
    assert [call.get("raised") for call in kept.calls] == [None, None, None, "RuntimeError"]
    assert kept.calls[0]["window"] == [5, 0]
    memory.close()


def test_what_torch_is_asked_for_below_sdpa_is_recorded_and_torch_stays_as_it_is(tmp_path):
    recorder = Recorder()
    aten = torch.ops.aten
    packets = [aten._flash_attention_forward, aten._scaled_dot_product_flash_attention]
    before = [packet._op for packet in packets]
    with instrument(recorder), FakeTensorMode():
        q = torch.empty(2, 4, 8, 16, device="cuda", dtype=torch.float16)
        aten._scaled_dot_product_flash_attention(q, q, q, 0.0, True)
        flat = q.transpose(1, 2)
        aten._flash_attention_forward(flat, flat, flat, None, None, 8, 8, 0.0, False, False, scale=0.5)
        packed, ends = q.new_empty(10, 4, 16), torch.empty(3, device="cuda", dtype=torch.int32)
        aten._flash_attention_forward(packed, packed, packed, ends, ends, 6, 6, 0.0, False, False)
        aten._scaled_dot_product_efficient_attention(q, q, q, None, False)
        assert aten._flash_attention_forward is packets[0]
    found = written(recorder, tmp_path)
    assert [(call["entry"], call["backend"]) for call in found] == [
        ("sdpa", "flash"), ("sdpa", "flash"), ("varlen_fwd", "flash"), ("sdpa", "efficient"),
    ]  # fmt: skip
    assert [call["q"] for call in found] == [[2, 4, 8, 16], [2, 4, 8, 16], [10, 4, 16], [2, 4, 8, 16]]
    assert (found[0]["causal"], found[1]["scale"], found[2]["max_seqlen_q"]) == (True, 0.5, 6)
    assert [packet._op for packet in packets] == before


def test_compiled_code_is_as_without_a_recorder():
    def work(q: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)[0] * 2

    q = torch.randn(1, 2, 8, 16)
    expected = work(q)
    with instrument(Recorder()):
        compiled = torch.compile(work, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(q), expected)


def test_flex_attention_outside_of_compiled_code(tmp_path):
    recorder = Recorder()
    q = torch.randn(1, 2, 8, 16)
    with instrument(recorder):
        from torch.nn.attention import flex_attention

        expected = torch.nn.functional.scaled_dot_product_attention(q, q, q)
        assert torch.allclose(flex_attention.flex_attention(q, q, q), expected, atol=1e-5)
    (call,) = [call for call in written(recorder, tmp_path) if call["library"] == "flex_attention"]
    assert (call["q"], call["entry"]) == ([1, 8, 2, 16], "fwd")


def test_a_batch_on_the_cpu_is_predicted_as_its_engine_hands_it_on():
    fields = {
        "seq": 0, "step": 0, "phase": "decode", "layer": 0, "library": "vllm_cpu", "entry": "varlen_fwd",
        "device": "cpu", "dtype": "fp32", "q": [2, 32, 128], "k": [100, 16, 8, 128], "v": [100, 16, 8, 128],
        "causal": True, "window": [-1, -1], "softcap": 0.0, "dropout_p": 0.0, "alibi": False, "batch": 2,
        "return_softmax": False, "max_seqlen_q": 1, "max_seqlen_k": 300, "block_table": [2, 20],
        "seqlens_q": [1, 1], "seqlens_k": [40, 300],
    }  # fmt: skip
    record = CallRecord(0, 0, "decode", 0, fields)
    packed, paged = (attention_call(record, name) for name in ("vllm_flash_attn", "vllm_triton"))
    assert not isinstance(packed, NotModelled)
    assert not isinstance(paged, NotModelled)
    assert (packed.entry, packed.dtype, packed.seqlens_k) == ("varlen_fwd", "bf16", (40, 300))
    assert (paged.entry, paged.page_block_size) == ("batch_paged", 16)
    assert isinstance(attention_call(record, "flash_mla"), NotModelled)


def test_an_engine_that_is_not_imported_costs_no_import():
    text = (
        "import sys, torch\nfrom attnprof.instrument import Recorder, instrument\n"
        "with instrument(Recorder()):\n    import json\n"
        "print(sorted(name for name in sys.modules if name.startswith('attnprof.instrument.engines.')))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    parts = ("entry_point", "hooks", "likeness", "torch_functions")
    assert done.stdout.strip() == str([f"attnprof.instrument.engines.{part}" for part in parts])


@pytest.mark.parametrize("module", sorted(hooks.HOOKS))
def test_every_hook_is_there(module):
    from importlib import import_module

    file, _, function = hooks.HOOKS[module].partition(":")
    assert callable(getattr(import_module(f"attnprof.instrument.engines.{file}"), function))


def test_a_library_of_a_known_name_that_is_another_is_noted(tmp_path, monkeypatch):
    (tmp_path / "xformers").mkdir()
    for name in ("__init__", "ops"):
        (tmp_path / "xformers" / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "kernels.py").write_text("")
    recorder = Recorder()
    with instrument(recorder):
        sys.modules.pop("kernels", None)
        import kernels

        assert kernels.__file__ == str(tmp_path / "kernels.py")
    sys.modules.pop("kernels", None)
    assert any("kernels are not recorded" in note for note in recorder.notes)
    assert entry_point.Lengths(recorder).of(on(3, dtype=torch.int32)) is None
