"""TokenSpeed's MLA decode against what its released Python decides (benchmarks/record_tokenspeed_mla.py).

Resting on reading alone: the grid of the kernel that adds up the splits. Names and threads are those of a
kernel that the package compiled for SM 10.0, without a GPU.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.tokenspeed_mla.rules import reducer_bands, tiles
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Gpu, Prediction
from tests.conftest import GOLDEN

STEP = AttentionCall("tokenspeed_mla", "fwd_kvcache", 4, 1, 4096, 16, 1, 576, dtype="fp8", head_dim_v=512)
B200 = gpu_by_name("b200")


def recorded(kind: str = "") -> list[dict[str, str]]:
    with gzip.open(GOLDEN / f"tokenspeed_mla_{kind}2.0.3.csv.gz", "rt") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(("kind", "count"), [("", 1000), ("16bit_", 500)])
def test_every_recorded_answer_is_predicted(kind: str, count: int) -> None:
    rows, splits = recorded(kind), set()
    assert len(rows) == count
    for row in rows:
        number = {name: int(row[name]) for name in row if name not in ("sm", "grid", "dtype")}
        dtype: Any = row.get("dtype", "fp8")
        major, minor = map(int, row["sm"].split("."))
        sizes = {name: number[name] for name in ("batch", "seqlen_q", "seqlen_k", "num_heads")}
        gpu = make_gpu("a Blackwell", major, minor, number["sms"])
        tiled = tiles(sizes["num_heads"], sizes["seqlen_q"], sm100=minor == 0 and dtype == "fp8")
        assert (tiled.rows, tiled.fold, int(tiled.packed)) == (
            number["tile"],
            number["fold"],
            number["packed"],
        )
        made = libraries.predict(replace(STEP, **sizes, dtype=dtype), gpu)
        assert made.num_splits == number["num_splits"], row
        assert "/".join(map(str, made.launches[0].grid)) == row["grid"]
        assert (len(made.launches) == 2) == (number["bands"] > 0)
        if dtype != "fp8":
            assert number["bands"] <= 1
        elif number["bands"]:
            bands = reducer_bands(sizes["batch"], sizes["seqlen_q"], sizes["num_heads"], number["sms"])
            assert bands == number["bands"]
        splits.add(made.num_splits)
    assert len(splits) > 15


def observed(made: Prediction) -> Observed:
    return Observed(made.launches[0], made.launches[1] if len(made.launches) > 1 else None)


@given(
    st.sampled_from(["b200", "b300", "gb200"]), st.integers(1, 300), st.integers(1, 9),
    st.integers(1, 200_000), st.sampled_from([8, 16, 32, 64, 128]), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_set_read_back_contains_the_true_step(
    name: str, batch: int, queries: int, keys: int, heads: int, known: bool
) -> None:
    gpu = gpu_by_name(name)  # of the table, whose SMs are tried where a trace does not state them
    call = replace(STEP, batch=batch, seqlen_q=queries, seqlen_k=keys, num_heads=heads)
    made = libraries.predict(call, gpu)
    told = libraries.explain(observed(made), GpuFacts(gpu.num_sms if known else None, (10, gpu.sm_minor)))
    assert told is not None
    assert any(
        one.batch in (None, batch) and one.num_splits == made.num_splits and one.has_length(keys)
        and queries in one.seqlen_q
        for one in told.explanations
    )  # fmt: skip


def test_every_recorded_step_is_read_back_and_none_with_a_reducer_of_other_heads() -> None:
    """Also where a trace does not state the GPU's SMs; each eighth row, as lengths are tried one by one."""
    spoilt = 0
    for row in recorded()[::8]:
        major, minor = map(int, row["sm"].split("."))
        gpu = make_gpu("a Blackwell", major, minor, int(row["sms"]))
        sizes = {name: int(row[name]) for name in ("batch", "seqlen_q", "seqlen_k", "num_heads")}
        seen = observed(libraries.predict(replace(STEP, **sizes), gpu))
        for facts in (GpuFacts(gpu.num_sms, (major, minor)), GpuFacts(gpu.num_sms)):
            told = libraries.explain(seen, facts)
            assert told is not None
            (one,) = told.explanations
            assert one.batch in (None, sizes["batch"]), row
            assert one.has_length(sizes["seqlen_k"]), row
            assert sizes["seqlen_q"] in one.seqlen_q, row
        if seen.combine is not None:
            other = replace(seen.combine, grid=(257, *seen.combine.grid[1:]))  # a prime above all tiles
            told = libraries.explain(replace(seen, combine=other), GpuFacts(gpu.num_sms, (major, minor)))
            assert told is not None
            assert told.explanations == (), row
            spoilt += 1
    assert spoilt > 40


def _spoiled(**changed: Any) -> Observed:
    seen = observed(libraries.predict(STEP, B200))
    assert seen.combine is not None
    main = {name: value for name, value in changed.items() if not name.startswith("combine_")}
    combine = {name.removeprefix("combine_"): value for name, value in changed.items() if name not in main}
    return Observed(replace(seen.main, **main), replace(seen.combine, **combine))


@pytest.mark.parametrize(
    ("seen", "nearest"),
    [
        (_spoiled(grid=(1, 4, 38)), "number of splits"),
        (_spoiled(grid=(3, 4, 32)), "block or grid"),
        (_spoiled(combine_grid=(15 * 16, 1, 4)), "grid of the kernel after it"),  # 240 heads
        (_spoiled(combine_grid=(16, 2, 4)), "grid of the kernel after it"),  # 2 tiles a request, there is 1
        (_spoiled(block=(256, 1, 1)), "block or grid"),
        (_spoiled(combine_grid=(16, 1, 3)), "grid of the kernel after it"),
        (_spoiled(combine_block=(64, 1, 1)), "kernel after it"),
        (_spoiled(grid=(1, 8, 32)), "grid of the kernel after it"),
        (Observed(observed(libraries.predict(STEP, B200)).main), "kernel after it"),
    ],
)
def test_a_spoiled_launch_is_explained_by_no_step(seen: Observed, nearest: str) -> None:
    told = libraries.explain(seen, GpuFacts(148, (10, 0)))
    assert told is not None
    assert (told.explanations, told.nearest) == ((), nearest)


def test_its_kernels_are_known_by_name_and_not_taken_for_flashinfers() -> None:
    names = [one.kernel for one in libraries.predict(STEP, B200).launches]
    read = [parse_kernel_name(name + "_TiledMMA_0") for name in names]
    assert [(one.library, one.role) for one in read] == [
        ("tokenspeed-mla", "main"),
        ("tokenspeed-mla", "combine"),
    ]
    theirs = "kernel_cutlass_split_kv_kernel_flashinferBlackwellMultiHeadLatentAttentionForwardFP8_object_at_"
    assert parse_kernel_name(theirs).library == "flashinfer"


def test_what_it_does_not_have_is_refused() -> None:
    hopper: Gpu = gpu_by_name("h100")
    assert libraries.predict(STEP, hopper).error == "MLA decode requires SM100, SM103 or SM107, got (9, 0)"
    assert libraries.predict(replace(STEP, seqlen_k=0), B200).error == "max_seq_len must be > 0, got 0"
    for other, said in (
        (replace(STEP, dtype="fp32"), "fp8, bf16 and fp16, not fp32"),
        (replace(STEP, num_heads=256), "up to 128 heads"),
        (replace(STEP, entry="fwd"), "decode from a cache"),
    ):
        with pytest.raises(UsageError, match=said):
            libraries.predict(other, B200)
