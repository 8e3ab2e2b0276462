"""AITER's assembly: which calls it takes, as its Python and C++ are read; its names are the wheel's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.aiter.planned_mla import parts_of_requests, reduction
from attnprof.dispatch.aiter.read_back import template_fields
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.names.symbols import own_name
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Gpu, Prediction
from tests.conftest import golden_rows

FWD = AttentionCall("aiter", "fwd", 2, 1000, 1000, 32, 8, 128)
MLA = AttentionCall("aiter", "fwd_kvcache", 4, 1, 4096, 16, 1, 576, head_dim_v=512)
SHIPPED = {
    own_name(row["name"]) for row in golden_rows("kernel_census.jsonl.gz") if row["package"] == "amd-aiter"
}


@pytest.mark.parametrize("name", ["mi300x", "mi355x"])
def test_every_name_is_a_code_object_of_the_wheel(name: str) -> None:
    gpu, gfx950 = gpu_by_name(name), name == "mi355x"
    asked = [
        replace(FWD, entry=entry, causal=causal, head_dim=dim, head_dim_v=128)
        for entry in ("fwd", "varlen_fwd")
        for causal in (False, True)
        for dim in ((128, 192) if gfx950 else (128,))
    ]
    asked += [
        replace(MLA, seqlen_q=queries, num_heads=heads, dtype=dtype)
        for queries in range(1, 10)
        for heads in (16, 128)
        for dtype in ("bf16", "fp8")
        if dtype == "bf16" or queries <= 4
    ]
    told = {libraries.predict(call, gpu).launches[0].kernel for call in asked}
    assert len(told) == (8 if gfx950 else 4) + 8
    assert told <= SHIPPED
    assert all(template_fields(kernel) for kernel in told)


@pytest.mark.parametrize(
    ("changes", "gpu", "assembly"),
    [
        ({}, "mi300x", True),
        ({"seqlen_q": 129}, "mi300x", True),
        ({"seqlen_q": 128}, "mi300x", False),
        ({"seqlen_q": 1, "entry": "varlen_fwd"}, "mi300x", True),
        ({"dtype": "fp16"}, "mi300x", False),
        ({"head_dim": 64}, "mi300x", False),
        ({"head_dim": 192, "head_dim_v": 128}, "mi300x", False),
        ({"head_dim": 192, "head_dim_v": 128}, "mi355x", True),
        ({"alibi": True}, "mi300x", False),
        ({"window": (200, 0)}, "mi300x", False),
        ({"window": (1000, 0), "causal": True}, "mi300x", True),
    ],
)
def test_which_calls_the_assembly_takes(changes: dict[str, object], gpu: str, assembly: bool) -> None:
    call = replace(FWD, **changes)  # type: ignore[arg-type]
    (launch,) = libraries.predict(call, gpu_by_name(gpu)).launches
    assert launch.kernel.startswith("aiter::fmha_fwd") == assembly


def test_grids_and_refusals() -> None:
    mi300x, mi355x = gpu_by_name("mi300x"), gpu_by_name("mi355x")

    def grids(call: AttentionCall, gpu: object = mi300x) -> list[tuple[int, int, int]]:
        return [one.grid for one in libraries.predict(call, gpu).launches]  # type: ignore[arg-type]

    assert grids(FWD) == [(4, 32, 2)]  # 1,000 queries are four tiles of 256
    assert grids(replace(FWD, causal=True)) == [(2, 32, 2)]  # two of which a thread block works off
    assert grids(replace(FWD, entry="varlen_fwd")) == [(32, 2, 4)]
    assert grids(replace(MLA, num_splits=3)) == [(1, 4, 3), (4, 16, 1)]
    assert grids(replace(MLA, num_splits=1, seqlen_q=4)) == [(1, 4, 1)]  # which is the result
    assert grids(replace(MLA, num_splits=1, seqlen_q=3)) == [(1, 4, 1), (4, 16, 1)]
    assert grids(replace(MLA, num_splits=1, dtype="fp8")) == [(1, 4, 1)]
    assert grids(replace(MLA, num_splits=2, seqlen_q=9)) == [(2, 4, 2), (4, 16, 1)]
    assert libraries.predict(replace(FWD, window=(0, 0)), mi300x).error == "invalid argument for fmha_fwd"
    assert libraries.predict(FWD, gpu_by_name("mi210")).error == "invalid argument for fmha_fwd"
    fp16 = libraries.predict(replace(MLA, dtype="fp16"), mi355x)
    assert "unsupport current data type" in (fp16.error or "")
    with pytest.raises(UsageError, match="no code objects for a gfx942 of 100 CUs"):
        libraries.predict(FWD, make_gpu("AMD", 9, 4, 100))
    with pytest.raises(UsageError, match="over pages"):
        libraries.predict(replace(FWD, entry="varlen_fwd", page_block_size=128), mi300x)


TAG = (
    "0.1.20.post1"  # of upstream's repository; what its Python asks for is recorded, names and grids are read
)


def recorded_mla() -> list[tuple[AttentionCall, Gpu, dict]]:
    """Steps of the tag's ``mla_decode_fwd``, and what it asked its kernels for."""
    found = []
    for row in golden_rows(f"aiter_mla_{TAG}.jsonl.gz"):
        told = row["call"]
        call = replace(
            MLA, batch=told["batch"], seqlen_q=told["seqlen_q"], seqlen_k=max(told["seqlens_k"]),
            seqlens_k=tuple(told["seqlens_k"]), num_heads=told["num_heads"], dtype=told["dtype"],
            num_splits=told["num_splits_arg"] or 0, scheduler_metadata=told["plan"],
            plan_batch=told["plan_batch"], causal=True,
        )  # fmt: skip
        found.append((call, gpu_by_name(told["device"]["name"]), row["expect"]))
    return found


def test_what_the_tags_mla_asks_its_kernels_for_is_what_is_predicted() -> None:
    """Without a C++ kernel for it the Python asks all the same: "cannot get heuristic kernel", as read."""
    kinds: Counter[str] = Counter()
    for call, gpu, expect in recorded_mla():
        why, told = "", Prediction()
        try:
            told = libraries.predict(call, gpu, TAG)
        except UsageError as error:
            why = error.message
        if why or told.error:
            theirs = "query rows" in why or "not supported" in (told.error or "")
            assert bool(expect["error"]) == theirs
            assert theirs or "two kernels fit" in why or "cannot get heuristic kernel" in (told.error or "")
            kinds["refused"] += 1
            continue
        assert expect["error"] is None
        first, *rest = expect["asked"]
        main, *after = told.launches
        if first["planned"]:
            (sums,) = rest
            assert (main.grid, dict(told.plan)) == (
                (gpu.num_sms, 1, 1), {"reduce_tiles": sums["tiles"], "heads": sums["heads"]},
            )  # fmt: skip
            assert after == [reduction(sums["heads"], sums["tiles"], gpu.num_sms)]
        else:
            assert main.grid[1:] == (call.batch, first["splits"])
            assert [(one.kernel, list(one.grid), one.block[0]) for one in after] == [
                (one["kernel"], one["grid"], 64 * one["num_warps"]) for one in expect["launches"]
            ]
        kinds["plan" if first["planned"] else f"{len(after)} after"] += 1
    assert kinds["plan"] > 200
    assert min(kinds.values()) > 10


def test_the_tags_mla_is_read_back_and_each_spoilt_size_is_found() -> None:
    seen = 0
    for call, gpu, _ in recorded_mla()[::5]:
        try:
            made = libraries.predict(call, gpu, TAG).launches
        except UsageError:
            continue
        if not made:
            continue
        seen += 1
        facts = GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor), "amd")
        back = libraries.explain(Observed(*made), facts)
        assert any(
            one.versions == (TAG, TAG) and call.seqlen_q in one.seqlen_q
            and one.batch in (None, call.batch) and one.heads in (None, call.num_heads)
            for one in back.explanations
        ), (call, made, back)  # fmt: skip
        main, *after = made
        wrong = [
            (replace(main, block=(128, 1, 1)), *after),
            (replace(main, grid=(*main.grid[:2], 0)), *after),
        ]
        if after:
            x, y, z = after[0].grid
            wrong += [
                (main, replace(after[0], grid=(x + 1, y, z))),
                (main, replace(after[0], block=(32, 1, 1))),
            ]
        for each in wrong:
            assert libraries.explain(Observed(*each), facts).explanations == (), each
    assert seen > 60


def test_a_plan_deals_keys_out_to_the_cus() -> None:
    """By the device code as read: 304 parts of 1,000 blocks; a request of few keys beside it is not cut."""
    assert parts_of_requests([16 * 1000 * 304], 1, 304) == (304,)
    assert parts_of_requests([16, 16], 1, 304) == (1, 1)
    assert parts_of_requests([160_000, 16], 1, 304)[1] == 1
    many = parts_of_requests([4096] * 64, 1, 304)
    assert 300 < sum(many) <= 304 + 64
    folded = parts_of_requests([4096] * 8, 8, 304)  # 128 heads as 16, eight times
    assert len(folded) == 8


@pytest.mark.parametrize("gpu", ["mi300x", "mi355x"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lse", [False, True])
def test_the_tags_packed_batches_of_192_are_read_back(gpu: str, causal: bool, lse: bool) -> None:
    """Names and grids as read: a tile a thread block on a gfx942, OPUS on a gfx950 without the LSE."""
    call = replace(
        FWD, entry="varlen_fwd", batch=3, num_heads_k=32, head_dim=192, head_dim_v=128, causal=causal,
        return_softmax=lse, dtype="bf16",
    )  # fmt: skip
    where = gpu_by_name(gpu)
    (launch,) = libraries.predict(call, where, TAG).launches
    opus = gpu == "mi355x" and not lse
    pairs = causal and gpu == "mi355x" and not opus  # 384 blocks of OPUS's are too few
    assert launch.grid == (32, 3, 4 if opus or pairs else 8)
    assert launch.kernel.startswith("void gqa_d192" if opus else "aiter::fmha_fwd_hd192")
    facts = GpuFacts(where.num_sms, (where.sm_major, where.sm_minor), "amd")
    (one,) = libraries.explain(Observed(launch), facts).explanations
    assert (one.batch, one.heads, call.seqlen_q in one.seqlen_q, one.head_dim.low) == (3, 32, True, 192)
    wider = replace(launch, block=(64, 1, 1))
    assert libraries.explain(Observed(wider), facts).explanations == ()
    with pytest.raises(UsageError, match="its assembly takes"):
        libraries.predict(replace(call, head_dim=64, head_dim_v=64), where, TAG)
