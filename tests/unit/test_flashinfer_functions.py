"""FlashInfer's functions and wrappers, recorded over stand-ins that take what the released ones do."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.dispatch.libraries import predict
from attnprof.gpus import gpu_by_name
from attnprof.instrument.engines import flashinfer
from attnprof.instrument.recorder import Recorder
from tests.unit.test_engine_entry_points import written

STARTS, USED = torch.tensor([0, 1, 7, 8]), torch.tensor([40, 6, 300])


def on(*sizes: int) -> torch.Tensor:
    return torch.empty(*sizes, dtype=torch.bfloat16, device="meta")


class Paged:
    """Of both wrappers over pages nothing is called here."""

    def plan(self) -> None: ...

    def run(self) -> None: ...


class Ragged:
    _backend, is_cuda_graph_enabled = "fa2", False

    def plan(self, qo_indptr: Any, kv_indptr: Any, num_qo_heads: int, num_kv_heads: int, head_dim_qk: int,
             head_dim_vo: Any = None, causal: bool = False, window_left: int = -1) -> None: ...  # fmt: skip

    begin_forward = plan

    def run(self, q: Any, k: Any, v: Any) -> str:
        return "ran"


class Latent:
    _backend, _use_cuda_graph = "fa2", True

    def plan(self, qo_indptr: Any, kv_indptr: Any, kv_indices: Any, kv_len_arr: Any, num_heads: int,
             head_dim_ckv: int, head_dim_kpe: int, page_size: int, causal: bool) -> None: ...  # fmt: skip

    def run(self, q_nope: Any, q_pe: Any, ckv_cache: Any, kpe_cache: Any) -> str:
        return "ran"


def decode(
    query: Any,
    kv_cache: Any,
    workspace_buffer: Any,
    block_tables: Any,
    seq_lens: Any,
    max_seq_len: int,
    window_left: int = -1,
    kv_layout: str = "HND",
    backend: str = "auto",
    q_len_per_req: Any = 1,
    sinks: Any = None,
) -> str:
    return "ran"


def latents(
    query: Any,
    kv_cache: Any,
    workspace_buffer: Any,
    qk_nope_head_dim: int,
    kv_lora_rank: int,
    qk_rope_head_dim: int,
    block_tables: Any,
    seq_lens: Any,
    max_seq_len: int,
    sparse_mla_top_k: int = 0,
    backend: str = "auto",
) -> str:
    return "ran"


def context(
    query: Any,
    kv_cache: Any,
    workspace_buffer: Any,
    block_tables: Any,
    seq_lens: Any,
    max_q_len: int,
    max_kv_len: int,
    bmm1_scale: float,
    bmm2_scale: float,
    batch_size: int,
    cum_seq_lens_q: Any,
    cum_seq_lens_kv: Any,
    window_left: int = -1,
    kv_layout: str = "HND",
    backend: str = "trtllm-gen",
) -> str:
    return "ran"


def separate(
    query: Any,
    key: Any,
    value: Any,
    seq_lens: Any,
    max_q_len: int,
    max_kv_len: int,
    batch_size: int,
    window_left: int,
    cum_seq_lens_q: Any,
    cum_seq_lens_kv: Any,
    is_causal: bool,
) -> str:
    return "ran"


@pytest.fixture
def hooked() -> Any:
    """(recorder, the modules with everything hooked)."""
    recorder = Recorder()
    modules = types.SimpleNamespace(
        decode=types.ModuleType("flashinfer.decode"), prefill=types.ModuleType("flashinfer.prefill"),
        mla=types.ModuleType("flashinfer.mla"),
    )  # fmt: skip
    modules.decode.BatchDecodeWithPagedKVCacheWrapper = type(
        "BatchDecodeWithPagedKVCacheWrapper", (Paged,), {}
    )
    paged = type("BatchPrefillWithPagedKVCacheWrapper", (), dict(vars(Paged)))
    modules.decode.BatchDecodeWithPagedKVCacheWrapper = type("D", (), dict(vars(Paged)))
    modules.prefill.BatchPrefillWithPagedKVCacheWrapper = paged
    ragged = type("BatchPrefillWithRaggedKVCacheWrapper", (), dict(vars(Ragged)))
    modules.prefill.BatchPrefillWithRaggedKVCacheWrapper = ragged
    modules.mla.BatchMLAPagedAttentionWrapper = type("BatchMLAPagedAttentionWrapper", (), dict(vars(Latent)))
    modules.decode.trtllm_batch_decode_with_kv_cache = decode
    modules.decode.trtllm_batch_decode_with_kv_cache_mla = latents
    modules.prefill.trtllm_batch_context_with_kv_cache = context
    modules.prefill.trtllm_ragged_attention_deepseek = separate
    undo = [
        flashinfer.patch_decode(recorder, modules.decode),
        flashinfer.patch_prefill(recorder, modules.prefill),
        flashinfer.patch_mla(recorder, modules.mla),
    ]
    yield recorder, modules
    for one in undo:
        one()
    assert modules.decode.trtllm_batch_decode_with_kv_cache is decode
    assert modules.prefill.trtllm_ragged_attention_deepseek is separate


def call_of(recorder: Recorder, tmp_path: Any) -> Any:
    (fields,) = written(recorder, tmp_path)
    found = attention_call(CallRecord(0, 0, "decode", 0, fields), "flashinfer")
    assert not isinstance(found, NotModelled)
    return found


def test_decode_by_tensorrt_llm_is_told_the_longest_context(hooked: Any, tmp_path: Any) -> None:
    recorder, modules = hooked
    cache = on(100, 2, 8, 16, 128)
    ran = modules.decode.trtllm_batch_decode_with_kv_cache(
        on(12, 32, 128), cache, None, None, USED, 4096, q_len_per_req=4, window_left=127
    )
    call = call_of(recorder, tmp_path)
    assert ran == "ran"
    assert (call.entry, call.backend, call.seqlen_k, call.seqlen_q) == ("batch_decode", "trtllm-gen", 4096, 4)
    assert (call.seqlens_q, call.seqlens_k, call.window) == ((4, 4, 4), (40, 6, 300), (127, 0))
    assert (call.page_block_size, call.num_heads_k) == (16, 8)
    assert predict(call, gpu_by_name("b200")).launches


def test_latents_by_tensorrt_llm_with_and_without_an_indexer(hooked: Any, tmp_path: Any) -> None:
    recorder, modules = hooked
    modules.decode.trtllm_batch_decode_with_kv_cache_mla(
        on(3, 1, 128, 576), on(100, 1, 64, 576), None, 128, 512, 64, None, USED, 4096, sparse_mla_top_k=2048
    )
    call = call_of(recorder, tmp_path)
    assert (call.entry, call.index_topk, call.page_block_size) == ("batch_mla", 2048, 64)
    assert (call.batch, call.seqlen_q, call.num_heads_k, call.head_dim_v) == (3, 1, 1, 512)
    assert predict(call, gpu_by_name("b200")).launches


def test_prompts_by_tensorrt_llm_over_pages_and_over_packed_keys(hooked: Any, tmp_path: Any) -> None:
    recorder, modules = hooked
    modules.prefill.trtllm_batch_context_with_kv_cache(
        on(8, 32, 128), (on(100, 16, 8, 128), on(100, 16, 8, 128)), None, None, USED, 6, 512, 1.0, 1.0, 3,
        STARTS, None, kv_layout="NHD",
    )  # fmt: skip
    call = call_of(recorder, tmp_path)
    assert (call.entry, call.seqlens_q, call.seqlen_k) == ("batch_paged", (1, 6, 1), 512)
    assert (call.page_block_size, call.num_heads_k) == (16, 8)


def test_separate_keys_and_values(hooked: Any, tmp_path: Any) -> None:
    recorder, modules = hooked
    modules.prefill.trtllm_ragged_attention_deepseek(
        on(8, 128, 192), on(8, 128, 192), on(8, 128, 128), USED, 6, 6, 3, -1, STARTS, STARTS, True
    )
    call = call_of(recorder, tmp_path)
    assert (call.entry, call.backend, call.head_dim_v) == ("varlen_fwd", "trtllm-gen", 128)
    assert (call.seqlens_q, call.seqlens_k, call.causal) == ((1, 6, 1), (1, 6, 1), True)
    assert predict(call, gpu_by_name("b200")).launches


def test_the_wrapper_over_packed_keys(hooked: Any, tmp_path: Any) -> None:
    recorder, modules = hooked
    wrapper = modules.prefill.BatchPrefillWithRaggedKVCacheWrapper()
    wrapper.begin_forward(STARTS, torch.tensor([0, 40, 46, 346]), 32, 8, 128, causal=False)
    assert wrapper.run(on(8, 32, 128), on(346, 8, 128), on(346, 8, 128)) == "ran"
    call = call_of(recorder, tmp_path)
    assert (call.entry, call.backend, call.causal) == ("batch_ragged", "fa2", False)
    assert (call.seqlens_q, call.seqlens_k) == ((1, 6, 1), (40, 6, 300))
    assert "Ragged" in predict(call, gpu_by_name("a100")).launches[0].kernel


def test_the_wrapper_over_latents(hooked: Any, tmp_path: Any) -> None:
    recorder, modules = hooked
    wrapper = modules.mla.BatchMLAPagedAttentionWrapper()
    wrapper.plan(torch.tensor([0, 1, 2, 3]), None, None, USED, 128, 512, 64, 1, False)
    wrapper.run(on(3, 128, 512), on(3, 128, 64), on(900, 1, 512), on(900, 1, 64))
    call = call_of(recorder, tmp_path)
    assert (call.entry, call.head_dim, call.head_dim_v, call.page_block_size) == ("batch_mla", 576, 512, 1)
    assert (call.seqlens_k, call.cuda_graph, call.num_heads_k) == ((40, 6, 300), True, 1)
    assert predict(call, gpu_by_name("a100")).launches
