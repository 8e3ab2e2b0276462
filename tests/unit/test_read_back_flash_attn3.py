"""FlashAttention-3's launches read back: the true call is always among them, nothing else passes."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.libraries import explain, predict
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from tests.conftest import golden_rows
from tests.support.changed_launch import with_field
from tests.support.flash_attn3 import recorded_call

FILES = [
    *(f"fa3_host_{version}.jsonl.gz" for version in ("2.7.4", "2.8.3", "3.0.0")),
    "vllm_fa3_host_617264c1.jsonl.gz",
]
SAMPLE = 60
H100 = gpu_by_name("h100")
RELEASES = [
    ("flash_attn_3", "2.7.4"),
    ("flash_attn_3", "2.8.3"),
    ("flash_attn_3", "3.0.0"),
    ("vllm_flash_attn", "fa3"),
]


def facts(gpu: Gpu) -> GpuFacts:
    return GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor))


def back(launches: tuple[KernelLaunch, ...], gpu: GpuFacts) -> ReadBack:
    by_role = {parse_kernel_name(launch.kernel).role: launch for launch in launches}
    (main,) = (one for role, one in by_role.items() if role not in ("combine", "scheduler"))
    told = explain(Observed(main, by_role.get("combine"), by_role.get("scheduler")), gpu)
    assert told is not None
    return told


def holds(told: ReadBack, call: AttentionCall) -> bool:
    """Whether one explanation is of the call: its library, entry, lengths, head dim and margin."""
    return any(
        one.library == call.library
        and one.entry == call.entry
        and one.has_length(call.seqlen_k)
        and call.seqlen_q in one.seqlen_q
        and call.head_dim in one.head_dim
        for one in told.explanations
    )


@pytest.mark.parametrize("name", FILES)
def test_what_the_host_code_launches_reads_back_to_the_call(name: str) -> None:
    rows = golden_rows(name)
    for row in random.Random(name).sample(rows, SAMPLE):
        call, gpu, version = recorded_call(row)
        launches = predict(call, gpu, version).launches  # the host code's: tests/golden/test_flash_attn3.py
        assert not launches or holds(back(launches, facts(gpu)), call), (call, gpu)


@st.composite
def calls(draw: st.DrawFn) -> tuple[AttentionCall, Gpu, str]:
    library, version = draw(st.sampled_from(RELEASES))
    fork = library == "vllm_flash_attn"
    entry: Any = "varlen_fwd" if fork else draw(st.sampled_from(("fwd", "varlen_fwd", "fwd_kvcache")))
    heads, heads_k = draw(st.sampled_from([(28, 4), (32, 32), (8, 1), (64, 8), (12, 12)]))
    queries = draw(st.one_of(st.just(1), st.integers(1, 400), st.sampled_from([64, 128, 2048])))
    keys = draw(st.one_of(st.integers(1, 20_000), st.sampled_from([128, 4096, 1 << 18])))
    batch = draw(st.one_of(st.integers(1, 16), st.sampled_from([31, 32, 992, 993, 1500])))
    kvcache = entry == "fwd_kvcache"
    pages = kvcache or fork
    packed = entry == "varlen_fwd" or (kvcache and draw(st.booleans()))
    lengths = kvcache and draw(st.booleans())
    call = AttentionCall(
        library, entry, batch, queries, max(keys, queries), heads, heads_k,  # type: ignore[arg-type]
        draw(st.sampled_from([32, 64, 80, 96, 128, 160, 192, 256])),
        dtype=draw(st.sampled_from(["bf16", "fp16", "fp8"])), causal=draw(st.booleans()),
        window=draw(st.sampled_from([(-1, -1), (-1, -1), (100, 0), (64, 64)])),
        softcap=draw(st.sampled_from([0.0, 0.0, 30.0])),
        num_splits=draw(st.sampled_from([0, 0, 0, 1, 7, 33] if fork else [0, 0, -1, 1, 7, 33])),
        total_q=draw(st.integers(batch, batch * queries)) if packed else None,
        page_block_size=draw(st.sampled_from([None, 16, 128, 256])) if pages else None,
        seqlen_knew=queries if lengths and draw(st.booleans()) else None, cache_seqlens=lengths,
        pack_gqa=None if fork else draw(st.sampled_from([None, None, True, False])),
        sm_margin=draw(st.sampled_from([0, 0, 8])), scheduler_metadata=pages and draw(st.booleans()),
    )  # fmt: skip
    gpus = ("h100", "h20") if fork else ("h100", "h20", "a100", "4090")
    return call, gpu_by_name(draw(st.sampled_from(gpus))), version


@given(calls())
@settings(max_examples=120, deadline=None)
def test_the_calls_read_back_hold_the_true_one(drawn: tuple[AttentionCall, Gpu, str]) -> None:
    call, gpu, version = drawn
    launches = predict(call, gpu, version).launches
    if launches:
        told = back(launches, facts(gpu))
        assert holds(told, call)
        assert not told.nearest
        fixed = any("PersistentTileScheduler" in launch.kernel for launch in launches)
        assert not fixed or any(one.sm_margin == call.sm_margin for one in told.explanations)


DECODE = AttentionCall(
    "flash_attn_3", "fwd_kvcache", 2, 1, 32768, 28, 4, 128, causal=True, cache_seqlens=True
)
PLANNED = predict(DECODE, H100, "3.0.0").launches
UNPLANNED = predict(replace(DECODE, cache_seqlens=False), H100, "3.0.0").launches


@pytest.mark.parametrize(
    ("launches", "number", "field", "value", "says"),
    [
        (PLANNED, 0, "block", (64, 1, 1), "prepare kernel's block 64x1x1, the library's 32x1x1"),
        (PLANNED, 0, "kernel", ("<1, true>", "<2, true>"), "prepare kernel's"),
        (PLANNED, 1, "grid", (133, 1, 1), "grid 133x1x1, the library's 132x1x1"),
        (PLANNED, 1, "block", (256, 1, 1), "block 256x1x1, the library's 384x1x1"),
        (PLANNED, 1, "kernel", ("cute::C<176>", "cute::C<160>"), "block_n 160, the library's 176"),
        (PLANNED, 1, "kernel", ("cutlass::device_kernel", "flash::device_kernel"), "namespace flash::"),
        (PLANNED, 1, "kernel", (", float,", ", cutlass::half_t,"), "spelling"),
        (PLANNED, 2, "grid", (4, 2, 2), "combine kernel's grid"),
        (PLANNED, 2, "block", (128, 1, 1), "combine kernel's block 128x1x1, the library's 256x1x1"),
        (PLANNED, 2, "kernel", ("cute::C<8>", "cute::C<16>"), "combine kernel's combine_block_m 16"),
        (UNPLANNED, 0, "grid", (1, 131, 2), "grid"),
        (UNPLANNED, 0, "kernel", (", float,", ", cutlass::half_t,"), "spelling"),
    ],
)
def test_one_field_otherwise_is_not_explained_and_named(
    launches: tuple[KernelLaunch, ...], number: int, field: str, value: Any, says: str
) -> None:
    assert back(launches, facts(H100)).explanations
    told = back(with_field(launches, number, field, value), facts(H100))
    assert not told.explanations
    assert says in told.nearest


def test_a_split_kernel_needs_its_combine_kernel_and_another_none() -> None:
    alone = back(PLANNED[:2], facts(H100))
    assert not alone.explanations
    assert "2 kernels: the library launches 3" in alone.nearest
    (prepare, plain) = predict(replace(DECODE, num_splits=1), H100, "3.0.0").launches
    assert not back((prepare, plain, PLANNED[2]), facts(H100)).explanations


def test_a_plan_made_before_explains_a_call_without_prepare_kernel_where_the_entry_takes_one() -> None:
    told = back(PLANNED[1:], facts(H100))
    assert {one.entry for one in told.explanations} == {"fwd_kvcache"}
    packed = AttentionCall("flash_attn_3", "varlen_fwd", 2, 100, 100, 28, 4, 128, causal=True, num_splits=-1)
    prepare, main = predict(packed, H100, "3.0.0").launches
    assert {one.entry for one in back((prepare, main), facts(H100)).explanations} == {
        "varlen_fwd",
        "fwd_kvcache",
    }
    assert {one.entry for one in back((main,), facts(H100)).explanations} == {"fwd_kvcache"}


def test_fewer_thread_blocks_than_sms_are_a_margin_that_the_caller_asked_for() -> None:
    margin = predict(replace(DECODE, sm_margin=8), H100, "3.0.0").launches
    told = back(margin, facts(H100))
    assert {one.sm_margin for one in told.explanations} == {8}
    assert {one.sm_margin for one in back(PLANNED, facts(H100)).explanations} == {0}


def test_the_keys_of_a_batch_without_lengths_follow_from_its_splits() -> None:
    call = replace(DECODE, batch=8, seqlen_k=1500, cache_seqlens=False)
    prediction = predict(call, H100, "3.0.0")
    assert prediction.num_splits == 4
    told = back(prediction.launches, facts(H100))
    chosen = [one for one in told.explanations if one.chosen and one.num_splits == 4]
    assert chosen
    for keys in (300, 900, 1500, 4000, 100_000):
        splits = predict(replace(call, seqlen_k=keys), H100, "3.0.0").num_splits
        builds = [one for one in chosen if one.versions[0] == "3.0.0"]
        assert all(one.has_length(keys) == (splits == 4) for one in builds), keys


@pytest.mark.parametrize(
    "kernel",
    [
        row["name"]
        for row in golden_rows("kernel_names.jsonl")
        if row["family"] in ("fa3_fwd", "fa3_fwd_sm80")
    ],
)
def test_a_kernel_that_really_ran_is_explained_or_of_a_build_that_is_not_known(kernel: str) -> None:
    told = explain(Observed(KernelLaunch(kernel, (0, 0, 0), (0, 0, 0))), GpuFacts())
    lone = "1 kernel: the library launches 2"  # a split kernel's name comes without its combine kernel
    assert told is None or told.explanations or told.nearest == lone or "template arguments" in told.unread


def test_what_the_trace_does_not_hold_is_said_and_not_claimed() -> None:
    unsized = tuple(replace(launch, grid=(0, 0, 0), block=(0, 0, 0)) for launch in PLANNED)
    told = back(unsized, facts(H100))
    assert told.unread == ("grid", "block")
    assert told.explanations
    cut = (PLANNED[0], replace(PLANNED[1], kernel=PLANNED[1].kernel[:200]), PLANNED[2])
    assert "template arguments" in back(cut, facts(H100)).unread
    assert "SM count" in back(PLANNED, GpuFacts()).unread
    assert back(PLANNED, GpuFacts()).explanations
