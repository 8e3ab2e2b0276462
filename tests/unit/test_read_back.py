"""Launches read back to the calls that make them: the true call is always among them, nothing else passes."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.calls.call_files import parse_call
from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack, strength
from attnprof.dispatch.libraries import explain, predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from tests.conftest import GOLDEN, golden_rows
from tests.support.changed_launch import with_field

FILES = sorted(
    path.name
    for library in ("fa2", "torch")
    for kind in ("launches", "edges")
    for path in GOLDEN.glob(f"{library}_{kind}_*.jsonl.gz")
)
SAMPLE = 60
RELEASES = [
    *(("flash_attn", version) for version in ("2.2.4", "2.3.4", "2.4.2", "2.5.6", "2.6.3", "2.7.4", "2.8.3")),
    *(("torch", version) for version in ("2.2.0", "2.4.0", "2.6.0", "2.9.0", "2.13.0")),
    ("vllm_flash_attn", "fa2"),
]


def facts(gpu: Gpu) -> GpuFacts:
    return GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor))


def back(launches: tuple[KernelLaunch, ...], gpu: GpuFacts) -> ReadBack:
    told = explain(Observed(launches[0], launches[1] if len(launches) > 1 else None), gpu)
    assert told is not None
    return told


def holds(told: ReadBack, call: AttentionCall) -> bool:
    """Whether one explanation is of the call: its library, entry, lengths, batch and heads, folded or not."""
    folded = (call.num_heads_k, call.num_heads // call.num_heads_k)
    head_dim = -(-call.head_dim // 8) * 8
    return any(
        one.library == call.library
        and one.entry == call.entry
        and one.has_length(call.seqlen_k)
        and one.batch_heads == call.batch * (folded[0] if one.folded else call.num_heads)
        and (folded[1] if one.folded else call.seqlen_q) in one.seqlen_q
        and head_dim in one.head_dim
        for one in told.explanations
    )


@pytest.mark.parametrize("name", FILES)
def test_recorded_launches_read_back_to_the_call_that_made_them(name: str) -> None:
    rows = golden_rows(name)
    for row in random.Random(name).sample(rows, min(SAMPLE, len(rows))):
        call, gpu, _ = parse_call(row)
        launches = tuple(
            KernelLaunch(one["kernel"], tuple(one["grid"]), tuple(one["block"]))
            for one in row["expect"]["launches"]
        )
        assert not launches or holds(back(launches, facts(gpu)), call), (call, gpu)


@st.composite
def calls(draw: st.DrawFn) -> tuple[AttentionCall, Gpu, str]:
    library, version = draw(st.sampled_from(RELEASES))
    entries = {"flash_attn": ("fwd", "varlen_fwd", "fwd_kvcache"), "torch": ("fwd", "varlen_fwd")}
    entry: Any = draw(st.sampled_from(entries.get(library, ("varlen_fwd",))))
    heads, heads_k = draw(st.sampled_from([(28, 4), (32, 32), (8, 1), (64, 8), (12, 12)]))
    queries = draw(st.one_of(st.just(1), st.integers(1, 400), st.sampled_from([64, 128, 256])))
    keys = draw(st.one_of(st.integers(1, 20_000), st.sampled_from([128, 256, 4096])))
    batch = draw(st.integers(1, 16))
    kvcache = entry == "fwd_kvcache"
    call = AttentionCall(
        library, entry, batch, queries, keys, heads, heads_k,  # type: ignore[arg-type]
        draw(st.sampled_from([32, 40, 64, 80, 96, 128, 160, 192, 256])),
        dtype=draw(st.sampled_from(["bf16", "fp16"])), causal=draw(st.booleans()),
        window=draw(st.sampled_from([(-1, -1), (-1, -1), (100, 0), (64, 64)])),
        softcap=draw(st.sampled_from([0.0, 0.0, 30.0])), alibi=draw(st.booleans()) and draw(st.booleans()),
        dropout_p=0.0 if kvcache else draw(st.sampled_from([0.0, 0.0, 0.1])),
        num_splits=draw(st.sampled_from([0, 0, 1, 7])) if kvcache else 0,
        total_q=batch * queries if entry == "varlen_fwd" else None,
        seqlen_knew=queries if kvcache and draw(st.booleans()) else None,
        cache_seqlens=kvcache,
    )  # fmt: skip
    return call, gpu_by_name(draw(st.sampled_from(["a100", "h100", "4090", "a10g"]))), version


@given(calls())
@settings(max_examples=250, deadline=None)
def test_the_calls_read_back_hold_the_true_one(drawn: tuple[AttentionCall, Gpu, str]) -> None:
    call, gpu, version = drawn
    launches = predict(call, gpu, version).launches
    if launches:
        told = back(launches, facts(gpu))
        assert holds(told, call)
        assert not told.nearest
        assert holds(back(launches, GpuFacts()), call)  # also where the trace does not describe its GPU


H100 = gpu_by_name("h100")
SPLIT = predict(AttentionCall("flash_attn", "fwd", 1, 1, 800, 28, 4, 128, causal=True), H100).launches


def test_random_launches_of_a_kernel_are_not_explained() -> None:
    rng = random.Random(0)
    (plain,) = predict(AttentionCall("flash_attn", "fwd", 2, 700, 700, 28, 4, 128), H100).launches
    explained = 0
    for _ in range(300):
        numbers = iter(rng.choice((32, 64, 96, 128, 192, 256)) for _ in range(4))
        tile = f"<128, {next(numbers)}, {next(numbers)}, {rng.choice((4, 8))},"
        name = re.sub(r"<128, 128, 64, 4,", tile, plain.kernel)
        name = re.sub(r"\b(true|false)\b", lambda _: rng.choice(("true", "false")), name)
        block = (rng.choice((64, 128, 256)), 1, 1)
        told = back((replace(plain, kernel=name, block=block),), facts(H100))
        explained += bool(told.explanations)
        assert bool(told.explanations) != bool(told.nearest)
    assert explained <= 3


@pytest.mark.parametrize(
    ("number", "field", "value", "says"),
    [
        (0, "grid", (2, 7, 4), "grid 2x7x4, the library's"),
        (0, "block", (256, 1, 1), "block 256x1x1, the library's 128x1x1"),
        (1, "grid", (65, 1, 1), "combine kernel's grid 65x1x1"),
        (1, "block", (64, 1, 1), "combine kernel's block 64x1x1"),
        (1, "kernel", ("4, 3, true", "4, 4, true"), "combine kernel's log_max_splits 4, the library's 3"),
        (0, "kernel", ("4, false, false", "4, true, false"), "spells otherwise"),
    ],
)
def test_one_field_otherwise_is_not_explained_and_named(
    number: int, field: str, value: Any, says: str
) -> None:
    assert back(SPLIT, facts(H100)).explanations
    told = back(with_field(SPLIT, number, field, value), facts(H100))
    assert not told.explanations
    assert says in told.nearest


def test_what_the_trace_does_not_hold_is_said_and_not_claimed() -> None:
    unsized = tuple(replace(launch, block=(0, 0, 0)) for launch in SPLIT)
    told = back(unsized, facts(H100))
    assert told.unread == ("block",)
    assert told.explanations
    cut = (replace(SPLIT[0], kernel=SPLIT[0].kernel[:80]), SPLIT[1])
    assert back(cut, facts(H100)).unread == ("template arguments",)
    assert "SM count" in back(SPLIT, GpuFacts()).unread


def test_how_much_an_explanation_proves() -> None:
    assert strength(back(SPLIT, facts(H100)).share) == "strong"  # one block of 128 keys
    full = predict(AttentionCall("flash_attn", "fwd", 16, 3000, 3001, 28, 4, 128), H100).launches
    assert back(full, facts(H100)).share == 1.0  # every length gives this grid
    even = predict(AttentionCall("flash_attn", "fwd", 16, 4096, 4096, 28, 4, 128), H100).launches
    assert back(even, facts(H100)).share == pytest.approx(1 / 64)  # whole tiles of 64 keys
