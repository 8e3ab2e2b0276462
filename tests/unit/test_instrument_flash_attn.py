"""Calls into the flash_attn extension, through an interface module shaped like each release's."""

from __future__ import annotations

import json
import types

import pytest
import torch

from attnprof.instrument import flash_attn
from attnprof.instrument.recorder import Recorder


class Extension:
    """Signatures of the compiled extension, 2.6.1 to 2.8.3, from csrc/flash_attn/flash_api.cpp."""

    __name__ = "flash_attn_2_cuda"

    def fwd(self, q, k, v, out, alibi, dropout, scale, causal, left, right, softcap, return_softmax, gen):
        return ("fwd", q)

    def varlen_fwd(
        self, q, k, v, out, cu_q, cu_k, seqused_k, leftpad_k, block_table, alibi, max_q, max_k, dropout,
        scale, zero_tensors, causal, left, right, softcap, return_softmax, gen,
    ):  # fmt: skip
        return ("varlen_fwd", q)

    def fwd_kvcache(
        self, q, kcache, vcache, k, v, seqlens_k, cos, sin, batch_idx, leftpad_k, block_table, alibi, out,
        scale, causal, left, right, softcap, interleaved, num_splits,
    ):  # fmt: skip
        return ("fwd_kvcache", q)

    def bwd(self, grad):
        return ("bwd", grad)


class Extension25:
    """The same, 2.5.7 to 2.5.9: no softcap, no left padding."""

    __name__ = "flash_attn_2_cuda"

    def fwd(self, q, k, v, out, alibi, dropout, scale, causal, left, right, return_softmax, gen):
        return ("fwd", q)


def interface(extension: object, name: str = "flash_attn_gpu") -> types.ModuleType:
    module = types.ModuleType("flash_attn.flash_attn_interface")
    setattr(module, name, extension)
    return module


def varlen(module: types.ModuleType, q: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, max_q) -> None:
    module.flash_attn_gpu.varlen_fwd(
        *(q, q, q, None, cu_q, cu_k, None, None, None, None, max_q, 40),
        *(0.0, 0.1, False, True, -1, -1, 0.0, False, None),
    )


def records(recorder: Recorder, tmp_path) -> list[dict]:
    recorder.write(tmp_path / "calls.jsonl")
    return [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


Q = torch.zeros(2, 1, 28, 128, dtype=torch.bfloat16)
K = torch.zeros(2, 300, 4, 128, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["flash_attn_gpu", "flash_attn_cuda"])
def test_a_fwd_call_is_recorded_as_passed_and_forwarded(recorder, tmp_path, name):
    module = interface(Extension(), name)
    restore = flash_attn.patch(recorder, module)
    result = getattr(module, name).fwd(Q, K, K, None, None, 0.0, 0.088, True, -1, -1, 0.0, False, None)
    restore()
    assert result == ("fwd", Q)
    assert isinstance(getattr(module, name), Extension)
    (record,) = records(recorder, tmp_path)
    assert record["function"] == "flash_attn_2_cuda.fwd"
    assert (record["library"], record["entry"], record["layout"]) == ("flash_attn", "fwd", "bshd")
    assert (record["q"], record["k"], record["v"]) == ([2, 1, 28, 128], [2, 300, 4, 128], [2, 300, 4, 128])
    assert (record["dtype"], record["device"], record["backend"]) == ("bf16", "cpu", None)
    assert (record["causal"], record["window"], record["softcap"]) == (True, [-1, -1], 0.0)
    assert (record["dropout_p"], record["alibi"], record["return_softmax"]) == (0.0, False, False)
    assert record["scale"] == 0.088
    assert (record["seq"], record["step"], record["phase"], record["layer"]) == (0, None, "other", None)


def test_window_softcap_alibi_and_dropout_are_read_from_their_places(recorder, tmp_path):
    module = interface(Extension())
    flash_attn.patch(recorder, module)
    slopes = torch.zeros(28)
    module.flash_attn_gpu.fwd(Q, K, K, None, slopes, 0.1, 0.5, False, 255, 0, 50.0, True, None)
    (record,) = records(recorder, tmp_path)
    assert (record["alibi"], record["dropout_p"], record["window"]) == (True, 0.1, [255, 0])
    assert (record["softcap"], record["return_softmax"], record["causal"]) == (50.0, True, False)


def test_releases_before_softcap_are_told_by_their_number_of_arguments(recorder, tmp_path):
    module = interface(Extension25(), "flash_attn_cuda")
    flash_attn.patch(recorder, module)
    module.flash_attn_cuda.fwd(Q, K, K, None, None, 0.0, 0.5, True, 127, 64, True, None)
    (record,) = records(recorder, tmp_path)
    assert (record["window"], record["softcap"], record["return_softmax"]) == ([127, 64], 0.0, True)


def test_varlen_lengths_are_the_values_at_the_time_of_the_call(recorder, tmp_path):
    module = interface(Extension())
    flash_attn.patch(recorder, module)
    q = torch.zeros(60, 28, 128)
    cu = torch.tensor([0, 7, 47, 60], dtype=torch.int32)
    longest = torch.tensor(40)
    varlen(module, q, cu, cu, longest)
    changed = cu.clone()
    varlen(module, q, cu, changed, 40)
    changed.add_(1)
    first, second = records(recorder, tmp_path)
    assert (first["layout"], first["max_seqlen_q"], first["max_seqlen_k"]) == ("thd", 40, 40)
    assert first["cu_seqlens_q"] == first["cu_seqlens_k"] == [0, 7, 47, 60]
    assert first["block_table"] is None
    assert second["cu_seqlens_k"] is None  # written to since: unknown rather than wrong


def test_a_paged_cache_with_appended_keys_is_recorded(recorder, tmp_path):
    module = interface(Extension())
    flash_attn.patch(recorder, module)
    cache = torch.zeros(131, 256, 4, 128)
    new = torch.zeros(3, 1, 4, 128)
    lengths, table = torch.tensor([7, 40, 13]), torch.zeros(3, 4, dtype=torch.int32)
    module.flash_attn_gpu.fwd_kvcache(
        *(new, cache, cache, new, new, lengths, None, None, None, None, table, None, None),
        *(0.1, True, -1, -1, 0.0, True, 0),
    )
    (record,) = records(recorder, tmp_path)
    assert (record["entry"], record["k"], record["k_new"]) == (
        "fwd_kvcache",
        [131, 256, 4, 128],
        [3, 1, 4, 128],
    )
    assert (record["cache_seqlens"], record["block_table"], record["num_splits"]) == ([7, 40, 13], [3, 4], 0)
    assert record["cache_batch_idx"] is False


def test_inference_mode_tensors_are_kept_by_value(recorder, tmp_path):
    module = interface(Extension())
    flash_attn.patch(recorder, module)
    with torch.inference_mode():
        q, cu = torch.zeros(4, 2, 32), torch.tensor([0, 4])
        varlen(module, q, cu, cu, 4)
        cu.zero_()
    (record,) = records(recorder, tmp_path)
    assert record["cu_seqlens_q"] == [0, 4]


def test_everything_else_of_the_extension_is_forwarded_unrecorded(recorder, tmp_path):
    module = interface(Extension())
    flash_attn.patch(recorder, module)
    assert module.flash_attn_gpu.bwd(1) == ("bwd", 1)
    assert records(recorder, tmp_path) == []


def test_an_unknown_signature_is_forwarded_and_noted_not_guessed(recorder, tmp_path):
    class Future(Extension):
        def fwd(self, *args):
            return "future"

    module = interface(Future())
    flash_attn.patch(recorder, module)
    assert module.flash_attn_gpu.fwd(Q, K, K) == "future"
    assert records(recorder, tmp_path) == []
    assert "took 3 arguments" in next(iter(recorder.notes))


def test_an_exception_of_the_library_passes_and_the_call_stays_recorded(recorder, tmp_path):
    class Refusing(Extension):
        def fwd(self, *args):
            raise RuntimeError("head_dim must be a multiple of 8")

    module = interface(Refusing())
    flash_attn.patch(recorder, module)
    with pytest.raises(RuntimeError, match="multiple of 8"):
        module.flash_attn_gpu.fwd(Q, K, K, None, None, 0.0, 0.1, True, -1, -1, 0.0, False, None)
    assert len(records(recorder, tmp_path)) == 1
