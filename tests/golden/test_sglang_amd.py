"""SGLang's Triton backend on AMD's Instinct GPUs against the wheel's own Python (record_sglang_amd.py).

Resting on reading alone: over how many blocks the work-centric kernel spreads each request's keys.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.sglang_triton.amd import LEAN, lean_parts
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from tests.conftest import golden_rows
from tests.golden.test_rocm import answers, launched, ours

ROWS = "sglang_triton_amd_0.5.23.jsonl.gz"
STEP = AttentionCall(
    "sglang_triton", "fwd_kvcache", 16, 1, 32_768, 28, 4, 128, causal=True, cache_seqlens=True
)


def test_every_step_launches_and_splits_as_the_wheel_has_it() -> None:
    kernels: Counter[str] = Counter()
    for row, answer in answers(ROWS):
        assert (answer["error"], ours(answer)) == (None, launched(row)), row["call"]
        counts = row["expect"]["num_kv_splits"]
        if counts:
            assert answer["plan"]["num_kv_splits"] == counts
        kernels.update(name for name, *_ in ours(answer))
    assert min(kernels.values()) > 40
    assert len(kernels) == 6


def test_every_step_but_plain_extends_is_read_back_and_each_spoilt_block_is_found() -> None:
    for row in golden_rows(ROWS)[::3]:
        call, device = row["call"], row["call"]["device"]
        made = [KernelLaunch(name, tuple(grid), tuple(block)) for name, grid, block in launched(row)]
        facts = GpuFacts(device["num_sms"], (device["sm_major"], device["sm_minor"]), "amd")
        back = libraries.library("sglang_triton").explain(Observed(*made), facts)
        if made[0].kernel == "_fwd_kernel":
            assert back is None  # other programs' kernels are called so
            continue
        assert any(
            one.batch in (None, call["batch"])
            and one.heads in (None, call["num_heads"])
            and max(call["seqlens_q"]) in one.seqlen_q
            and call["head_dim"] in one.head_dim
            for one in back.explanations
        ), row  # fmt: skip
        spoilt = replace(made[0], block=(192, 1, 1))
        assert (
            libraries.library("sglang_triton").explain(Observed(spoilt, *made[1:]), facts).explanations == ()
        )
        if made[0].kernel == LEAN:
            fewer = replace(made[0], grid=(100, 1, 1))
            told = libraries.library("sglang_triton").explain(Observed(fewer), facts)
            assert (told.explanations, told.nearest) == ((), "grid")


@pytest.mark.parametrize(
    ("change", "work_centric"),
    [
        ({}, True),  # 32,768 keys on average, from 8,192 on of 16 requests
        ({"seqlen_k": 8191}, False),
        ({"batch": 1, "seqlen_k": 65_536}, True),
        ({"batch": 1, "seqlen_k": 65_535}, False),
        ({"softcap": 30.0}, False),
        ({"head_dim": 256}, False),
        ({"fixed_split_size": 256}, False),
        ({"cuda_graph": True, "batch": 15}, False),
        ({"cuda_graph": True, "seqlen_k": 1}, True),  # captured, whatever the lengths
    ],
)
def test_when_decode_is_work_centric(change: dict, work_centric: bool) -> None:
    launches = libraries.predict(replace(STEP, **change), gpu_by_name("mi300x")).launches
    assert (launches[0].kernel == LEAN) == work_centric
    assert libraries.predict(replace(STEP, **change), gpu_by_name("h100")).launches[0].kernel != LEAN


def test_work_centric_blocks_take_runs_of_tiles() -> None:
    one = replace(STEP, batch=1)
    assert lean_parts(one, (128 * 76,), 304) == (76,)  # of 4 KV heads each tile is a block's
    assert lean_parts(one, (128 * 760,), 304) == (76,)  # ten tiles a block, none across heads
    assert lean_parts(replace(one, num_heads=64, num_heads_k=8), (128 * 38,), 304) == (
        38,
    )  # an XCD a KV head
    ragged = lean_parts(replace(STEP, batch=2), (128 * 600, 128), 304)
    assert ragged[1] == 1
    assert 70 < ragged[0] < 80
