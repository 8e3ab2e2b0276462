"""FlashMLA's plan, FlexAttention's splits and AITER's: against upstream's own functions where they run.

AITER's MLA search was run from its wheel, FlexAttention's split count is asked of the installed torch. How
FlashMLA deals blocks out (its launches: test_flash_mla.py), FlexAttention's grid and Composable Kernel's one
split rest on reading.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnprof.calls.call_files import parse_call
from attnprof.dispatch import libraries
from attnprof.dispatch.aiter.rules import ck_splits, mla_splits
from attnprof.dispatch.flash_mla.rules import OVERHEAD, plan_decode, sm_parts
from attnprof.dispatch.flex_attention.rules import main_grid, split_kv
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

MLA = AttentionCall("flash_mla", "fwd_kvcache", 4, 1, 4096, 128, 1, 576, head_dim_v=512)
FLEX = AttentionCall("flex_attention", "fwd", 2, 1, 4096, 32, 8, 128)
CK = AttentionCall("aiter", "fwd", 1, 1, 8192, 32, 8, 128)


def test_aiters_mla_search_answers_as_its_wheel_does() -> None:
    with gzip.open(GOLDEN / "aiter_mla_splits_0.1.7.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 1000
    names = ("num_cus", "batch", "total_kv", "num_heads", "seqlen_q")
    wrong = [
        row
        for row in rows
        if mla_splits(*(int(row[name]) for name in names), row["dtype"] == "fp8") != int(row["num_splits"])
    ]
    assert wrong == []


@given(st.integers(1, 512), st.integers(1, 128), st.integers(1, 9000), st.integers(32, 256))
def test_composable_kernel_never_splits(batch: int, heads: int, queries: int, head_dim: int) -> None:
    assert ck_splits(batch, heads, queries, head_dim, 304) == 1


def test_flex_decoding_splits_as_the_installed_torch() -> None:
    flex_decoding = pytest.importorskip("torch._inductor.kernel.flex.flex_decoding")
    for batch, heads, sms in product((1, 2, 7, 64, 300), (1, 4, 8, 64), (1, 20, 78, 132, 148)):
        properties = SimpleNamespace(multi_processor_count=sms)
        with mock.patch("torch.cuda.get_device_properties", return_value=properties):
            assert split_kv(batch, heads, sms) == flex_decoding.get_split_k(batch, heads, 4096)


def test_flex_attentions_main_grid_is_the_installed_torchs() -> None:
    flex_attention = pytest.importorskip("torch._inductor.kernel.flex.flex_attention")
    for batch, heads, queries, tile in product((1, 3), (4, 32), (1, 127, 128, 4097), (16, 64, 128)):
        asked = flex_attention.flex_attention_grid(batch, heads, queries, 128, {"BLOCK_M": tile})
        assert main_grid(batch, queries, heads, tile) == tuple(asked)


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=64), st.sampled_from([78, 132]), st.integers(1, 512)
)
def test_flashmla_deals_out_every_request(lengths: list[int], sms: int, rows: int) -> None:
    plan = plan_decode(lengths, sms, 1, rows)
    assert plan.num_sm_parts == sm_parts(sms, 1, rows) >= 1
    assert len(plan.num_splits) == len(lengths)
    blocks = [max(-(-keys // 64), 1) for keys in lengths]
    for splits, block in zip(plan.num_splits, blocks, strict=True):
        assert 1 <= splits <= block
    assert sum(splits - 1 for splits in plan.num_splits) < plan.num_sm_parts
    assert plan.payload * plan.num_sm_parts >= sum(blocks) + OVERHEAD * len(blocks)


def test_flashmlas_splits_depend_on_the_other_requests() -> None:
    alone = plan_decode([4096], 132, 1, 128)
    beside = plan_decode([4096, 65536], 132, 1, 128)
    # 66 parts of 64 blocks + 5: payload 2 + 5, so 2 blocks a part; with 1,024 blocks beside, payload 17 + 5
    assert (alone.payload, alone.num_splits) == (7, (32,))
    assert (beside.payload, beside.num_splits[0]) == (22, 4)


def test_their_launches_and_reasons() -> None:
    h100 = gpu_by_name("h100")
    metadata, main, combine = libraries.predict(MLA, h100).launches
    assert (parse_kernel_name(combine.kernel).role, combine.grid) == ("combine", (4, 1, 16))
    assert parse_kernel_name(metadata.kernel).role == "metadata"
    assert (parse_kernel_name(main.kernel).family, main.grid) == ("mla_splitkv", (2, 1, 66))
    (flex,) = libraries.predict(FLEX, h100).launches
    assert (parse_kernel_name(flex.kernel).family, flex.grid) == ("flex_fwd", (1, 16, 16))
    prediction = libraries.predict(CK, gpu_by_name("mi300x"))
    (ck,) = prediction.launches
    # Of one query the four heads of a KV head become its queries, as mha_fwd_kernels.cu has it.
    told = (parse_kernel_name(ck.kernel).library, ck.grid, prediction.num_splits)
    assert told == ("ck-tile", (8, 1, 1), 1)
    mla = replace(
        CK, entry="fwd_kvcache", num_heads=16, num_heads_k=1, head_dim=576, head_dim_v=512, batch=64
    )
    # 9 splits: 576 of 608 places, and 8192 of 8949 keys' worth of work; 14 fill more and cost more
    assert libraries.predict(mla, gpu_by_name("mi300x")).num_splits == 9


def test_a_call_of_lengths_is_not_taken_for_one_of_maxima() -> None:
    h100 = gpu_by_name("h100")
    told = replace(MLA, seqlens_k=(4096, 10, 10, 10))
    assert libraries.predict(told, h100).plan != libraries.predict(MLA, h100).plan
    assert any("as long as the longest" in reason.why for reason in libraries.predict(MLA, h100).reasons)


@pytest.mark.parametrize(
    ("call", "gpu", "match"),
    [
        (replace(MLA, dtype="fp32"), "h100", "flash_mla has no fp32"),
        (replace(FLEX, seqlen_q=128), "h100", "main kernel, which never splits"),
        (replace(FLEX, num_heads=28, num_heads_k=4), "h100", "not modelled"),
        (CK, "h100", "aiter is not predicted on H100"),
        (FLEX, "mi300x", "flex_attention is not predicted on AMD"),
    ],
)
def test_where_they_are_not_modelled_a_sentence_says_so(call: AttentionCall, gpu: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        libraries.predict(call, gpu_by_name(gpu))


@pytest.mark.parametrize(
    ("library", "gpu", "entry", "said"),
    [
        ("flex_attention", "h100", "fwd", "whatever the keys"),
        ("aiter", "mi300x", "fwd", "blocks of the head dim, of which there is one, not of keys"),
    ],
)
def test_they_are_explained(library: str, gpu: str, entry: str, said: str) -> None:
    call = ("--gpu", gpu, "--entry", entry, "--seqlen-k", "4096", "--num-heads", "32", "--num-heads-k", "8")
    done = attnprof("explain", "--library", library, *call)
    assert done.code == 0, done.err
    assert said in " ".join(done.out.split())


def test_vllms_flex_attention_has_the_wheels_tiles_and_torchs_warps_and_grid() -> None:
    tiles = set()
    for row in golden_rows("vllm_flex_0.33.0.jsonl.gz"):
        call, gpu, version = parse_call(row["call"])
        room = row["call"]["device"]["smem_per_block_optin"]
        prediction = libraries.predict(call, replace(gpu, smem_per_block_optin=room), version)
        (ours,), (theirs,) = prediction.launches, row["expect"]["launches"]
        assert (list(ours.grid), ours.block[0]) == (theirs["grid"], 32 * theirs["num_warps"]), row["call"]
        assert dict(prediction.plan)["block_m"] == theirs["constants"]["BLOCK_M"]
        tiles.add((theirs["constants"]["BLOCK_M"], theirs["num_warps"]))
    assert tiles >= {(16, 4), (16, 8), (32, 4), (64, 8)}
