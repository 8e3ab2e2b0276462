"""CUTLASS's MLA decode against what vLLM's extension launched (benchmarks/record_cutlass_mla.py).

Resting on reading alone: that a step's page table is as wide as the longest context that the server admits.
"""

from __future__ import annotations

import csv
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.errors import UsageError
from attnprof.gpus import make_gpu
from attnprof.model import AttentionCall
from tests.conftest import GOLDEN

SMS = (148, 152, 160, 132, 20)


def step(batch: int, pages: int, heads: int = 128, dtype: str = "bf16") -> AttentionCall:
    return AttentionCall(
        "cutlass_mla", "fwd_kvcache", batch, 1, 128 * pages, heads, 1, 576, dtype=dtype,  # type: ignore[arg-type]
        causal=True, head_dim_v=512, page_block_size=128,
    )  # fmt: skip


def slashed(numbers: tuple[int, int, int]) -> str:
    return "/".join(map(str, numbers))


def test_every_recorded_launch_is_predicted() -> None:
    with gzip.open(GOLDEN / "cutlass_mla_0.33.0.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 200 * len(SMS)
    splits = set()
    for row in rows:
        gpu = make_gpu("a Blackwell", 10, 0, int(row["sms"]))
        call = step(int(row["batch"]), int(row["pages"]), int(row["num_heads"]), row["dtype"])
        made = libraries.predict(call, gpu)
        main, *rest = made.launches
        assert (slashed(main.grid), slashed(main.block), str(main.dynamic_smem)) == (
            row["grid"], row["block"], row["smem"],
        ), row  # fmt: skip
        assert f"cutlass::{row['element']}, float" in main.kernel
        sizes = [(slashed(one.grid), slashed(one.block)) for one in rest]
        assert sizes == ([(row["reduction_grid"], row["reduction_block"])] if row["reduction_grid"] else [])
        splits.add(made.num_splits)
    assert splits >= {1, 2, 4, 8, 16}


@given(st.sampled_from(SMS[:2]), st.integers(1, 300), st.integers(1, 600), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_set_read_back_contains_the_true_step(sms: int, batch: int, pages: int, known: bool) -> None:
    gpu = make_gpu("a Blackwell", 10, 0, sms)
    made = libraries.predict(step(batch, pages), gpu)
    combine = made.launches[1] if len(made.launches) > 1 else None
    facts = GpuFacts(sms if known else None, (10, 0))
    told = libraries.explain(Observed(made.launches[0], combine), facts)
    assert told is not None
    assert any(
        one.batch in (None, batch) and one.num_splits == made.num_splits and one.has_length(128 * pages)
        for one in told.explanations
    )


def test_another_grid_is_explained_by_no_step() -> None:
    gpu, facts = make_gpu("a Blackwell", 10, 0, 148), GpuFacts(148, (10, 0))
    main, combine = libraries.predict(step(4, 256), gpu).launches
    for wrong in ((main.grid[0] - 1, 1, 1), (main.grid[0] + 2, 1, 1), (150, 1, 1)):
        spoiled = type(main)(main.kernel, wrong, main.block, main.dynamic_smem)
        told = libraries.explain(Observed(spoiled, combine), facts)
        assert told is not None
        assert told.explanations == ()


def test_what_it_does_not_have_is_refused() -> None:
    assert libraries.predict(step(4, 8), make_gpu("H100", 9, 0, 132)).error
    with pytest.raises(UsageError, match="one query a request"):
        libraries.predict(
            AttentionCall("cutlass_mla", "batch_mla", 1, 1, 1, 1, 1, 576), make_gpu("", 10, 0, 9)
        )
