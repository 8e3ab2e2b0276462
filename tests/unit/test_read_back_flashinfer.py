"""FlashInfer's launches read back: the true call is always among them, and what nothing launches is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attnprof.calls.call_files import parse_call
from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.libraries import explain, named_only, predict
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from tests.conftest import golden_rows

CALL = AttentionCall("flashinfer", "batch_decode", 8, 1, 4096, 32, 8, 128, page_block_size=16)
GPUS = ("a100", "h100", "b200", "l40s")
TRTLLM = "fmhaSm100fKernel_QkvBfloat16OBfloat16H128PagedKvCausalP16{}VarSeqQ8Kv128{}SwapsAbForGen"


def facts(gpu: Gpu) -> GpuFacts:
    return GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor))


def back(launches: tuple[KernelLaunch, ...], gpu: GpuFacts) -> ReadBack:
    main, *merge = launches
    told = explain(Observed(main, merge[0] if merge else None), gpu)
    assert told is not None
    return told


def holds(told: ReadBack, call: AttentionCall, kernels: tuple[KernelLaunch, ...]) -> bool:
    """Whether one explanation is of the call; where it states heads, batch or splits, of these."""
    longest = max(call.seqlens_k, default=call.seqlen_k)
    queries = max(call.seqlens_q, default=call.seqlen_q)
    return any(
        one.library == call.library
        and one.entry == call.entry
        and one.has_length(max(longest, 1))
        and max(queries, 1) in one.seqlen_q
        and call.head_dim in one.head_dim
        and one.batch in (None, call.batch)
        for one in told.explanations
    )


def test_every_recorded_launch_is_read_back() -> None:
    rows = [row for row in golden_rows("flashinfer_host_0.7.2.post1.jsonl.gz") if row["expect"]["launches"]]
    for row in rows[::4]:
        call, gpu, _ = parse_call(row)
        launches = predict(call, gpu, "0.7.2.post1").launches  # the wheel's: tests/golden
        assert holds(back(launches, facts(gpu)), call, launches), (call, gpu)


@pytest.mark.parametrize("version", ["0.6.13", "0.7.2.post1"])
def test_every_recorded_trtllm_gen_launch_is_read_back(version: str) -> None:
    rows = [
        row for row in golden_rows(f"flashinfer_trtllm_gen_{version}.jsonl.gz") if row["expect"]["launches"]
    ]
    for row in rows[::15]:
        call, gpu, _ = parse_call(row)
        launches = tuple(
            KernelLaunch(
                one["kernel"].replace("fmhaReduction", "tensorrt_llm::kernels::fmhaReduction"),
                tuple(one["grid"]),
                tuple(one["block"]),
            )
            for one in row["expect"]["launches"]
        )
        assert holds(back(launches, facts(gpu)), call, launches), (call, launches)


LENGTHS = st.lists(st.tuples(st.integers(1, 300), st.integers(0, 9000)), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    LENGTHS, st.sampled_from(["batch_paged", "batch_decode", "batch_mla"]), st.sampled_from([1, 16, 64]),
    st.booleans(), st.sampled_from(GPUS), st.sampled_from([(32, 8), (16, 16), (8, 1)]),
)  # fmt: skip
def test_the_true_batch_is_among_those_read_back(
    lengths: list[tuple[int, int]], entry: Any, page: int, graph: bool, name: str, heads: tuple[int, int]
) -> None:
    queries = tuple(q for q, _ in lengths) if entry == "batch_paged" else (1,) * len(lengths)
    keys = tuple(q + k for q, (_, k) in zip(queries, lengths, strict=True))
    dims = {"head_dim": 576, "head_dim_v": 512, "num_heads": heads[0], "num_heads_k": 1}
    call = replace(
        CALL, entry=entry, batch=len(lengths), seqlen_q=max(queries), seqlen_k=max(keys), seqlens_q=queries,
        seqlens_k=keys, page_block_size=page, cuda_graph=graph, num_heads=heads[0], num_heads_k=heads[1],
    )  # fmt: skip
    call = replace(call, **dims) if entry == "batch_mla" else call
    gpu = gpu_by_name(name)
    launches = predict(call, gpu).launches
    assume(launches)
    assert holds(back(launches, facts(gpu)), call, launches)
    for unknown in (GpuFacts(), GpuFacts(gpu.num_sms)):
        assert holds(back(launches, unknown), call, launches)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 100_000), st.integers(1, 300), st.booleans(), st.sampled_from(GPUS),
    st.sampled_from([(32, 8), (16, 16), (8, 1), (64, 8)]), st.sampled_from([64, 128, 256]),
)  # fmt: skip
def test_the_true_sequence_is_among_those_read_back(
    keys: int, queries: int, decode: bool, name: str, heads: tuple[int, int], head_dim: int
) -> None:
    call = replace(
        CALL, entry="single_decode" if decode else "single_prefill", batch=1, seqlen_k=keys + queries,
        seqlen_q=1 if decode else queries, num_heads=heads[0], num_heads_k=heads[1],
        head_dim=head_dim if decode else 128, causal=True,
    )  # fmt: skip
    gpu = gpu_by_name(name)
    launches = predict(call, gpu).launches
    assert holds(back(launches, facts(gpu)), call, launches)


def _spoilt(launches: tuple[KernelLaunch, ...], at: int, **changed: Any) -> tuple[KernelLaunch, ...]:
    return tuple(replace(one, **changed) if index == at else one for index, one in enumerate(launches))


@pytest.mark.parametrize(
    ("entry", "at", "changed", "nearest"),
    [
        ("batch_paged", 0, {"grid": (20, 2, 8)}, "grid"),
        ("batch_paged", 0, {"block": (32, 3, 1)}, "block"),
        ("batch_paged", 1, {"grid": (131, 1, 1)}, "merge kernel's grid"),
        ("batch_paged", 1, {"grid": (108 * 30, 1, 1)}, "merge kernel's grid"),
        ("batch_paged", 1, {"block": (15, 8, 1)}, "merge kernel's block"),
        ("batch_decode", 0, {"block": (16, 5, 2)}, "block"),
        ("batch_decode", 0, {"grid": (20, 8, 2)}, "grid"),
        ("single_decode", 0, {"grid": (5000, 8, 1)}, "grid"),
        (
            "single_decode",
            1,
            {"kernel": "flashinfer::PersistentVariableLengthMergeStatesKernel"},
            "merge kernel",
        ),
        ("batch_mla", 0, {"grid": (1, 107, 1)}, "grid"),
        ("batch_mla", 0, {"block": (32, 4, 1)}, "block"),
    ],
)
def test_what_nothing_launches_is_told(entry: Any, at: int, changed: dict[str, Any], nearest: str) -> None:
    gpu = gpu_by_name("a100")
    one = entry.startswith("single")
    call = replace(CALL, entry=entry, batch=1 if one else 8)
    if entry == "batch_mla":
        call = replace(call, head_dim=576, head_dim_v=512, num_heads_k=1)
    launches = predict(call, gpu).launches
    assert back(launches, facts(gpu)).explanations
    told = back(_spoilt(launches, at, **changed), facts(gpu))
    assert (told.explanations, told.nearest) == ((), nearest)


@pytest.mark.parametrize(
    ("mode", "scheduler", "grid", "block", "nearest"),
    [
        ("MultiCtasKv", "Static", (40, 8, 1), (512, 1, 1), "grid"),
        ("MultiCtasKv", "Static", (1, 8, 1), (512, 1, 1), "grid"),
        ("MultiCtasKv", "Persistent", (4, 8, 1), (512, 1, 1), "scheduler"),
        ("", "Persistent", (1, 8, 1), (384, 1, 1), "block"),
        ("", "Static", (1, 8, 1), (512, 1, 1), "scheduler"),
    ],
)
def test_what_trtllm_gen_never_launches_is_told(
    mode: str, scheduler: str, grid: tuple[int, int, int], block: tuple[int, int, int], nearest: str
) -> None:
    gpu = facts(gpu_by_name("b200"))
    kernel = TRTLLM.format(mode, scheduler)
    told = explain(Observed(KernelLaunch(kernel, grid, block)), gpu)
    named = told is None  # no such kernel is in the table
    assert named == (mode != "" and scheduler == "Persistent")
    assert named or (told is not None and (told.explanations, told.nearest) == ((), nearest))


def test_a_trtllm_gen_grid_tells_the_keys() -> None:
    gpu = gpu_by_name("b200")
    call = replace(CALL, batch=4, seqlen_k=1500, backend="trtllm-gen", causal=True)
    launches = predict(call, gpu).launches
    told = [one for one in back(launches, facts(gpu)).explanations if one.seqlen_q.high == 1]
    assert [(one.batch, one.heads, one.num_splits) for one in told] == [(4, 8, 3)] * 2
    assert {str(interval) for one in told for interval in one.seqlen_k} == {"1025–1536"}


def test_a_kernel_that_is_named_only_says_why() -> None:
    old = "fmhaSm100aKernel_QkvE4m3OBfloat16H64PagedKvCausalP16VarSeqQ128Kv128PersistentContext"
    assert explain(Observed(KernelLaunch(old, (4, 8, 1), (512, 1, 1))), GpuFacts(148, (10, 0))) is None
    assert "flashinfer-cubin 0.6.13" in named_only(old)
    assert "only the name is known" in named_only("flashinfer::PODWithKVCacheTensorKernel")
    assert named_only("some_gemm") == ""
    assert parse_kernel_name(old).library == "trtllm-gen"
