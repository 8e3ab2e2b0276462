"""From a call into flash_attn_3's extension to the call that is predicted."""

from __future__ import annotations

import json
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.dispatch import predict
from attnprof.instrument import flash_attn
from attnprof.instrument.recorder import Recorder
from attnprof.model import AttentionCall
from tests.conftest import golden_rows
from tests.support.flash_attn3 import install_flash_attn_3, interface_state, recorded_call

_OURS = {"window_size[0]": "window_left", "window_size[1]": "window_right"}
NAMES, NAMES_2_7 = (
    [_OURS.get(name, name) for name in interface_state(commit)["arguments"]]
    for commit in ("8c348fd7", "7a802796")
)
DEFAULTS = {
    "causal": False, "window_left": -1, "window_right": -1, "attention_chunk": 0, "softcap": 0.0,
    "rotary_interleaved": True, "num_splits": 1, "sm_margin": 0, "softmax_scale": 0.1,
}  # fmt: skip
DTYPES = {
    "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8": torch.float8_e4m3fn,
}  # fmt: skip


class Extension:
    def fwd(self, *arguments: Any) -> str:
        return f"fwd of {len(arguments)}"


def tensor(*sizes: int, dtype: str = "bf16") -> torch.Tensor:
    return torch.empty(sizes, dtype=DTYPES[dtype], device="meta")


LENGTHS = torch.tensor([30, 40], dtype=torch.int32)


def recorded(
    tmp_path: Path, calls: list[dict[str, Any]], names: list[str] = NAMES
) -> tuple[list[CallRecord], Recorder]:
    """The records of calls that are given by the names of their arguments."""
    recorder = Recorder()
    module = types.ModuleType("flash_attn_interface")
    module.flash_attn_3_cuda = Extension()  # type: ignore[attr-defined]
    restore = flash_attn.patch(recorder, module)
    for given in calls:
        assert given.keys() <= set(names)
        arguments = [{**DEFAULTS, **given}.get(name) for name in names]
        assert module.flash_attn_3_cuda.fwd(*arguments) == f"fwd of {len(names)}"
    restore()
    recorder.write(tmp_path / "calls.jsonl")
    lines = map(json.loads, (tmp_path / "calls.jsonl").read_text().splitlines())
    return [CallRecord(f["seq"], f["step"], f["phase"], f["layer"], f) for f in lines], recorder


def read_back(tmp_path: Path, **given: Any) -> AttentionCall | NotModelled:
    (record,), _ = recorded(tmp_path, [given])
    return attention_call(record, "flash_attn_3")


def test_the_heuristic_is_asked_for_with_no_splits(tmp_path: Path) -> None:
    q, k = tensor(2, 1, 28, 128), tensor(2, 300, 4, 128)
    plain = AttentionCall("flash_attn_3", "fwd", 2, 1, 300, 28, 4, 128, causal=True, num_splits=1)
    assert read_back(tmp_path, q=q, k=k, v=k, causal=True) == plain
    call = read_back(tmp_path, q=q, k=k, v=k, causal=True, num_splits=0)
    assert isinstance(call, AttentionCall)
    assert call.num_splits == -1


def test_what_only_flash_attn_3_takes_reaches_the_prediction(tmp_path: Path) -> None:
    q, k, v = tensor(2, 1, 16, 192), tensor(2, 300, 16, 192), tensor(2, 300, 16, 128)
    call = read_back(
        tmp_path, q=q, k=k, v=v, pack_gqa=True, attention_chunk=64, sm_margin=8, seqused_k=LENGTHS,
        scheduler_metadata=LENGTHS,
    )  # fmt: skip
    assert call == AttentionCall(
        "flash_attn_3", "fwd_kvcache", 2, 1, 300, 16, 16, 192, head_dim_v=128, pack_gqa=True, num_splits=1,
        attention_chunk=64, sm_margin=8, scheduler_metadata=True, cache_seqlens=True, seqlens_k=(30, 40),
    )  # fmt: skip


def test_packed_queries_over_a_paged_cache_are_a_cache_call(tmp_path: Path) -> None:
    call = read_back(
        tmp_path, q=tensor(7, 28, 128), k=tensor(64, 16, 4, 128), v=tensor(64, 16, 4, 128), seqused_k=LENGTHS,
        page_table=torch.zeros(2, 32, dtype=torch.int32), cu_seqlens_q=torch.zeros(3), max_seqlen_q=4,
        num_splits=0,
    )  # fmt: skip
    assert call == AttentionCall(
        "flash_attn_3", "fwd_kvcache", 2, 4, 512, 28, 4, 128, total_q=7, page_block_size=16,
        cache_seqlens=True, num_splits=-1, seqlens_k=(30, 40),
    )  # fmt: skip


def test_packed_keys_of_which_some_are_used_are_a_packed_call(tmp_path: Path) -> None:
    call = read_back(
        tmp_path, q=tensor(7, 28, 128), k=tensor(90, 4, 128), v=tensor(90, 4, 128), seqused_k=LENGTHS,
        cu_seqlens_q=torch.zeros(3), cu_seqlens_k=torch.zeros(3), max_seqlen_q=4, max_seqlen_k=50,
    )  # fmt: skip
    assert call == AttentionCall(
        "flash_attn_3", "varlen_fwd", 2, 4, 50, 28, 4, 128, total_q=7, num_splits=1, seqlens_k=(30, 40)
    )


def test_fp8_is_modelled_for_flash_attn_3(tmp_path: Path) -> None:
    q = tensor(2, 64, 8, 128, dtype="fp8")
    call = read_back(tmp_path, q=q, k=q, v=q)
    assert isinstance(call, AttentionCall)
    assert call.dtype == "fp8"


def test_left_padding_is_said_not_to_be_modelled(tmp_path: Path) -> None:
    q = tensor(2, 1, 16, 64)
    assert read_back(tmp_path, q=q, k=q, v=q, seqused_k=LENGTHS, leftpad_k=q) == NotModelled(
        "left padding was passed, which is not modelled"
    )


def test_queries_against_v_are_recorded_beside_those_against_k(tmp_path: Path) -> None:
    q, k, v = tensor(2, 1, 16, 64), tensor(2, 90, 1, 64), tensor(2, 90, 1, 512)
    call = read_back(tmp_path, q=q, k=k, v=v, seqused_k=LENGTHS, qv=tensor(2, 1, 16, 512))
    assert isinstance(call, AttentionCall)
    assert (call.head_dim, call.head_dim_v, call.has_qv) == (64, 512, True)
    assert not read_back(tmp_path, q=q, k=k, v=v, seqused_k=LENGTHS).has_qv  # type: ignore[union-attr]


def test_2_7s_shorter_list_is_read_where_2_7_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k = tensor(2, 1, 28, 128), tensor(2, 300, 4, 128)
    given = {"q": q, "k": k, "v": k, "causal": True, "num_splits": 3, "sm_margin": 4}
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    install_flash_attn_3(tmp_path / "site", "7a802796", "flash_attn", "3.0.0b1")
    (record,), recorder = recorded(tmp_path, [given], NAMES_2_7)
    assert attention_call(record, "flash_attn_3") == AttentionCall(
        "flash_attn_3", "fwd", 2, 1, 300, 28, 4, 128, causal=True, num_splits=3, sm_margin=4
    )
    assert any("has the interface of 2.7.3 to 2.7.4.post1" in note for note in recorder.notes)


def test_31_arguments_of_another_commit_are_not_misread(tmp_path: Path) -> None:
    q = tensor(2, 1, 28, 128)
    records, recorder = recorded(tmp_path, [{"q": q, "k": q, "v": q}], NAMES_2_7)
    assert records == []
    assert any("took 31 arguments, as no known release" in note for note in recorder.notes)


def arguments_of(call: AttentionCall) -> dict[str, Any]:
    """What the library's Python functions pass on for a call."""
    lengths, table = torch.zeros(call.batch, dtype=torch.int32), None
    head_dim_v = call.head_dim_v or call.head_dim
    rows = (call.batch, call.seqlen_q) if call.total_q is None else (call.total_q,)
    keys: tuple[int, ...] = (call.batch, call.seqlen_k)
    if call.page_block_size is not None:
        pages = call.seqlen_k // call.page_block_size
        keys, table = (
            (call.batch * pages, call.page_block_size),
            torch.empty(call.batch, pages, device="meta"),
        )
    elif call.entry == "varlen_fwd":
        keys = (call.batch * call.seqlen_k,)
    one_by_default = call.entry != "fwd_kvcache" and call.num_splits == 0
    given: dict[str, Any] = {
        "q": tensor(*rows, call.num_heads, call.head_dim, dtype=call.dtype),
        "k": tensor(*keys, call.num_heads_k, call.head_dim, dtype=call.dtype),
        "v": tensor(*keys, call.num_heads_k, head_dim_v, dtype=call.dtype),
        "causal": call.causal, "window_left": call.window[0], "window_right": call.window[1],
        "attention_chunk": call.attention_chunk, "softcap": call.softcap, "page_table": table,
        "num_splits": 1 if one_by_default else max(call.num_splits, 0),
        "pack_gqa": call.pack_gqa, "sm_margin": call.sm_margin,
        "seqused_k": lengths if call.cache_seqlens else None,
        "kv_batch_idx": lengths if call.cache_batch_idx else None,
        "scheduler_metadata": lengths if call.scheduler_metadata else None,
    }  # fmt: skip
    if call.seqlen_knew is not None:
        given["k_new"] = tensor(call.batch, call.seqlen_knew, call.num_heads_k, call.head_dim)
    if call.total_q is not None:
        given |= {"cu_seqlens_q": torch.zeros(call.batch + 1), "max_seqlen_q": call.seqlen_q}
    if call.entry == "varlen_fwd":
        given |= {"cu_seqlens_k": torch.zeros(call.batch + 1), "max_seqlen_k": call.seqlen_k}
    return given


def test_every_call_of_the_golden_data_is_predicted_the_same_once_recorded(tmp_path: Path) -> None:
    rows = golden_rows("fa3_host_3.0.0.jsonl.gz")[:600]
    calls = [recorded_call(row) for row in rows]
    records, _ = recorded(tmp_path, [arguments_of(call) for call, _, _ in calls])
    assert len(records) == len(rows)
    for record, (call, gpu, version) in zip(records, calls, strict=True):
        again = attention_call(record, "flash_attn_3")
        assert isinstance(again, AttentionCall), (call, again)
        # What is known of the lengths differs: upstream's recorder wrote down the longest alone.
        again = replace(again, seqlens_q=(), seqlens_k=())
        made, expected = (
            replace(predict(one, gpu, version), all_lengths_known=True) for one in (again, call)
        )
        assert made == expected, (call, again)
