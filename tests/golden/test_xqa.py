"""XQA's splits and grids against what FlashInfer's compiled launchers launched (benchmarks/record_xqa.py).

Resting on reading alone: that a server's page table is as wide as its longest context, and which head dims
and pages are refused.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.engines.layer import Layer, Step
from attnprof.dispatch.engines.outcome import outcome
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall
from tests.conftest import GOLDEN

STEP = AttentionCall("flashinfer", "batch_decode", 8, 1, 4096, 32, 8, 128, page_block_size=64, backend="xqa")
H100 = gpu_by_name("h100")


def test_every_recorded_launch_is_predicted() -> None:
    with gzip.open(GOLDEN / "flashinfer_xqa_0.7.2.post1.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 700
    splits = set()
    for row in rows:
        batch, heads_k, room, sms = (int(row[name]) for name in ("batch", "num_heads_k", "room", "sms"))
        hopper = row["kernel"] == "mha_sm90"
        call = replace(
            STEP, batch=batch, num_heads=4 * heads_k, num_heads_k=heads_k, seqlen_k=room,
            dtype="fp8" if hopper else "bf16",
        )  # fmt: skip
        made = libraries.predict(call, make_gpu("Hopper", 9, 0, sms))
        (one,) = made.launches
        told = (one.kernel, "/".join(map(str, one.grid)), "/".join(map(str, one.block)))
        assert told == (row["name"], row["grid"], row["block"]), row
        splits.add(made.num_splits)
    assert len(splits) > 20


def test_an_fp8_cache_takes_the_common_kernel_but_on_hopper() -> None:
    fp8 = replace(STEP, dtype="fp8")
    taken = {sm: libraries.predict(fp8, make_gpu("", sm, 0, 132)).launches[0].block for sm in (9, 10, 12)}
    assert taken == {9: (128, 1, 3), 10: (128, 1, 2), 12: (128, 1, 2)}
    assert libraries.predict(replace(fp8, head_dim=512), H100).launches[0].block == (128, 1, 2)


def test_keys_count_in_whole_pages() -> None:
    assert libraries.predict(replace(STEP, batch=1, num_heads_k=1, seqlen_k=257), H100).num_splits == 2
    assert libraries.predict(replace(STEP, batch=1, num_heads_k=1, seqlen_k=256), H100).num_splits == 1


def test_what_it_does_not_have_is_refused() -> None:
    assert "only supported on SM90" in str(libraries.predict(STEP, gpu_by_name("a100")).error)
    assert "Invalid page_size: 256" in str(libraries.predict(replace(STEP, page_block_size=256), H100).error)
    assert "Invalid head_dim: 72" in str(libraries.predict(replace(STEP, head_dim=72), H100).error)
    with pytest.raises(UsageError, match="several queries a request"):
        libraries.predict(replace(STEP, seqlen_q=3), H100)


def test_vllms_flashinfer_decodes_with_it_on_hopper() -> None:
    layer = Layer(32, 8, 128, backend="FLASHINFER")
    found = outcome("vllm", None, layer, Step(8, 1, 4096), H100)
    assert found.call is not None
    assert found.call.backend == "xqa"
    assert [one.grid for one in found.prediction.launches] == [(2, 8, 8)]
    over_fp8 = outcome("vllm", None, replace(layer, kv_dtype="fp8"), Step(8, 1, 4096), H100)
    assert [one.grid for one in over_fp8.prediction.launches] == [(1, 2, 64)]
