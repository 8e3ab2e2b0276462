"""What a recorder leaves of a server's calls is read as the call that the library takes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from attnprof.calls.records import CallRecord, attention_call, read_records
from attnprof.dispatch import libraries
from attnprof.instrument.engines import flash_attn_forks, flashinfer
from attnprof.instrument.recorder import Recorder
from attnprof.model import AttentionCall
from tests.spoil.libraries import SERVED
from tests.spoil.records import is_recorded, record_of
from tests.spoil.scenes import launches_of, make_scene


@pytest.mark.parametrize("library", SERVED)
def test_every_recorded_call_is_predicted_as_it_launched(library: str) -> None:
    """Of whole scenes, as far as a record says what the call was."""
    told = 0
    for seed in range(30):
        scene = make_scene(seed, library=library)
        for one in scene.calls[-1:]:
            if not is_recorded(one.call):
                continue
            fields = json.loads(json.dumps(record_of(0, one.call, step=0, phase="decode", layer=0)))
            call = attention_call(CallRecord(0, 0, "decode", 0, fields), library)
            assert isinstance(call, AttentionCall), (call, one.call)
            assert launches_of(call, scene.gpu, scene.version) == one.launches, (call, one.call)
            told += 1
    assert told > 2


def on(*sizes: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(sizes, dtype=dtype)


def recorded(recorder: Recorder, folder: Path, library: str) -> AttentionCall:
    recorder.write(folder / "calls.jsonl")
    (record,) = read_records(folder / "calls.jsonl")
    call = attention_call(record, library)
    assert isinstance(call, AttentionCall), call
    return call


def test_vllms_mla_is_recorded_with_its_queries_against_v_and_its_plan(tmp_path: Path) -> None:
    def flash_attn_varlen_func(
        q: Any, k: Any, v: Any, max_seqlen_q: int, cu_seqlens_q: Any, max_seqlen_k: int,
        cu_seqlens_k: Any = None, seqused_k: Any = None, q_v: Any = None, causal: bool = False,
        window_size: Any = None, softcap: float = 0.0, softmax_scale: Any = None, block_table: Any = None,
        alibi_slopes: Any = None, dropout_p: float = 0.0, scheduler_metadata: Any = None,
        num_splits: int = 0, fa_version: int = 3,
    ) -> Any:  # fmt: skip
        return q

    module, recorder = ModuleType("vllm.vllm_flash_attn.flash_attn_interface"), Recorder()
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    flash_attn_forks.patch_vllm(recorder, module)
    cache = on(100, 64, 1, 512)
    module.flash_attn_varlen_func(
        on(3, 16, 64), on(100, 64, 1, 64), cache, 1, torch.tensor([0, 1, 2, 3], dtype=torch.int32), 300,
        seqused_k=torch.tensor([40, 6, 300], dtype=torch.int32), q_v=on(3, 16, 512), causal=True,
        block_table=on(3, 5, dtype=torch.int32), scheduler_metadata=on(8, dtype=torch.int32),
    )  # fmt: skip
    call = recorded(recorder, tmp_path, "vllm_flash_attn")
    assert (call.head_dim, call.head_dim_v, call.has_qv, call.scheduler_metadata) == (64, 512, True, True)
    h100 = libraries.predict(call, make_scene(0, library="vllm_flash_attn").gpu, "fa3")
    assert h100.launches


def test_flash_attention_4_is_recorded_with_a_v_of_its_own_width() -> None:
    call = AttentionCall(
        "flash_attn_4", "varlen_fwd", 2, 1, 900, 16, 1, 64, head_dim_v=512, total_q=2, num_splits=-1,
        page_block_size=64, pack_gqa=True,
    )  # fmt: skip
    fields = record_of(0, call, step=0, phase="decode", layer=0) | {"pack_gqa": True}
    assert attention_call(CallRecord(0, 0, "decode", 0, fields), "flash_attn_4") == call


@pytest.mark.parametrize(
    ("cores", "backend", "entry"),
    [
        (False, "auto", "batch_decode"),
        (True, "fa2", "batch_paged"),
        (True, "trtllm-gen", "batch_decode"),
        (None, "trtllm-gen", "batch_paged"),
    ],
)
def test_flashinfers_decode_wrapper_is_recorded_as_what_it_runs(
    tmp_path: Path, cores: bool | None, backend: str, entry: str
) -> None:
    class BatchDecodeWithPagedKVCacheWrapper:
        def __init__(self) -> None:
            self._backend = backend
            if cores is not None:
                self._use_tensor_cores = cores

        def plan(
            self, indptr: Any, indices: Any, last_page_len: Any, num_qo_heads: int, num_kv_heads: int,
            head_dim: int, page_size: int, window_left: int = -1, logits_soft_cap: Any = None,
            sm_scale: Any = None,
        ) -> None:  # fmt: skip
            pass

        def run(self, q: Any, paged_kv_cache: Any) -> Any:
            return q

    recorder = Recorder()
    flashinfer.patch_decode(
        recorder, SimpleNamespace(BatchDecodeWithPagedKVCacheWrapper=BatchDecodeWithPagedKVCacheWrapper)
    )
    wrapper = BatchDecodeWithPagedKVCacheWrapper()
    wrapper.plan(
        torch.tensor([0, 2, 3], dtype=torch.int32),
        None,
        torch.tensor([5, 16], dtype=torch.int32),
        32,
        8,
        128,
        16,
    )
    wrapper.run(on(2, 32, 128), on(9, 2, 16, 8, 128))
    call = recorded(recorder, tmp_path, "flashinfer")
    assert (call.entry, call.seqlens_k) == (entry, (21, 16))
