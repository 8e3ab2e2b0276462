"""AITER's assembly: which calls it takes, as its Python and C++ are read; its names are the wheel's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.aiter.read_back import template_fields
from attnprof.dispatch.names.symbols import own_name
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall
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
