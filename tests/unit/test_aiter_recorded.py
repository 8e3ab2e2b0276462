"""AITER's unified attention recorded inside an engine, and predicted from its record."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch

from attnprof.calls.records import NotModelled, attention_call, read_records
from attnprof.dispatch.libraries import predict
from attnprof.gpus import gpu_by_name
from attnprof.instrument import Recorder
from attnprof.instrument.engines import flash_attn_forks, packed_steps, triton_attention
from attnprof.instrument.engines.packed_steps import Request

TABLE = 64  # pages of the block table, of 16 keys each


def aiter() -> types.ModuleType:
    module = types.ModuleType("aiter.ops.triton.attention.unified_attention")

    def unified_attention(
        q, k, v, out, cu_seqlens_q, max_seqlen_q, seqused_k, max_seqlen_k, softmax_scale, causal, window_size,
        block_table, softcap, q_descale, k_descale, v_descale, q_scales=None, alibi_slopes=None,
        output_scale=None, qq_bias=None, sinks=None, shuffled_kv_cache=False, skip_reduce=False,
    ):  # fmt: skip
        return out

    module.unified_attention = unified_attention  # type: ignore[attr-defined]
    return module


def attend(module: Any, queries: int, *, device: str = "cpu", cache: torch.dtype = torch.bfloat16) -> None:
    def on(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(*sizes, dtype=dtype, device="meta")

    starts = torch.tensor([0, queries, 2 * queries], dtype=torch.int32, device=device)
    used = torch.tensor([300, 700], dtype=torch.int32, device=device)
    q, pages = on(2 * queries, 64, 64), on(400, 16, 8, 64, dtype=cache)
    module.unified_attention(
        q=q, k=pages, v=pages, out=q, cu_seqlens_q=starts, seqused_k=used, max_seqlen_q=queries,
        max_seqlen_k=TABLE * 16, softmax_scale=0.1, causal=True, window_size=(-1, -1),
        block_table=on(2, TABLE, dtype=torch.int32), softcap=0.0, q_descale=None, k_descale=None,
        v_descale=None, sinks=on(64),
    )  # fmt: skip


def recorded(tmp_path: Path, *args: Any, **kwargs: Any) -> Any:
    recorder, module = Recorder(), aiter()
    before = module.unified_attention
    undo = [triton_attention.patch_aiter(recorder, module) for _ in range(2)]  # by both its names
    attend(module, *args, **kwargs)
    for one in undo:
        one()
    assert module.unified_attention is before
    recorder.write(tmp_path / "calls.jsonl")
    (record,) = read_records(tmp_path / "calls.jsonl")
    return attention_call(record, "aiter_paged")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_decode_goes_by_the_length_of_the_table(tmp_path, device):
    call = recorded(tmp_path, 1, device=device)
    assert (call.entry, call.batch, call.seqlen_q, call.seqlen_k) == ("batch_paged", 2, 1, TABLE * 16)
    assert call.seqlens_k == ((300, 700) if device == "cpu" else ())
    made = predict(call, gpu_by_name("mi300x"), "0.1.20.post1").launches
    assert [launch.grid for launch in made] == [(2, 8, 64), (2, 64, 1)]


def test_a_prompt(tmp_path):
    call = recorded(tmp_path, 300)
    assert (call.total_q, call.seqlens_q) == (600, (300, 300))
    (launch,) = predict(call, gpu_by_name("mi300x"), "0.1.20.post1").launches
    assert launch.grid == (8, 600 // 16 + 2, 1)


def test_queries_over_a_cache_in_another_dtype_are_said_to_be_unknown(tmp_path):
    assert recorded(tmp_path, 1, cache=torch.float8_e4m3fn) == NotModelled(
        "a cache in float8_e4m3fn for queries in bf16"
    )


def packed(recorder: Recorder, keys: int | None, *, sink: bool = False) -> None:
    """Two prompts of 300 and 200 queries with 100 cached keys each; keys: of a chunk, None for their own."""
    module = types.ModuleType("aiter.ops.mha")

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, min_seqlen_q=0, dropout_p=0.0,
        softmax_scale=None, logits_soft_cap=0.0, causal=False, window_size=(-1, -1, 0), bias=None,
        alibi_slopes=None, deterministic=False, return_lse=False, return_attn_probs=False, how_v3_bf16_cvt=1,
        block_table=None, out=None, cu_seqlens_q_padded=None, cu_seqlens_k_padded=None, sink_ptr=None,
    ):  # fmt: skip
        return q

    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    undo = flash_attn_forks.patch_aiter(recorder, module)
    steps = {"a": Request(0, 300, 400, True), "b": Request(1, 200, 300, True)}
    outer = packed_steps.begin_step(recorder, steps, 0)
    starts, ends = (torch.empty(3, dtype=torch.int32, device="meta") for _ in range(2))
    made = (torch.empty(500, 128, dim, dtype=torch.bfloat16, device="meta") for dim in (192, 192, 128))
    module.flash_attn_varlen_func(
        *made, starts, starts if keys is None else ends, 300, keys or 300, causal=keys is None,
        return_lse=True, sink_ptr=starts if sink else None,
    )  # fmt: skip
    recorder.end_step(outer)
    undo()


@pytest.mark.parametrize(
    ("keys", "known"), [(None, ((300, 200), (300, 200))), (400, ((300, 200), (400, 300))), (64, ((), ()))]
)
def test_a_packed_call_has_the_keys_that_it_was_given(tmp_path, keys, known):
    recorder = Recorder()
    packed(recorder, keys)
    recorder.write(tmp_path / "calls.jsonl")
    (record,) = read_records(tmp_path / "calls.jsonl")
    call = attention_call(record, "aiter")
    assert not isinstance(call, NotModelled)
    assert (call.entry, call.seqlen_k, call.head_dim_v) == ("varlen_fwd", keys or 300, 128)
    assert (call.seqlens_q, call.seqlens_k) == known
    assert call.return_softmax
    (launch,) = predict(call, gpu_by_name("mi300x"), "0.1.20.post1").launches
    assert "fmha_fwd_hd192" in launch.kernel


def test_packed_calls_with_sinks_are_said_to_be_unknown(tmp_path):
    recorder = Recorder()
    packed(recorder, None, sink=True)
    recorder.write(tmp_path / "calls.jsonl")
    (record,) = read_records(tmp_path / "calls.jsonl")
    assert isinstance(attention_call(record, "aiter"), NotModelled)
